"""Checks tokens: JWTs that an issuer has signed. A pure function of token, keys, what is expected, and the time.

References: RFC 7519 (JWT), RFC 9068 (access tokens), RFC 8725 (best practices).
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from joserfc import jws
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jws import CompactSignature, JWSRegistry
from joserfc.util import urlsafe_b64decode

from common.auth.principal import CUSTOMER, SCOPES, Expired, Principal, Unauthenticated, UnknownKey
from common.auth.signing_keys import SigningKey
from common.events import IDENTIFIER_PATTERN

TOKEN_BYTES_MAX: Final = 4_096
NESTED_MAX: Final = 128
"""Objects and lists in a token's header, and in its claims. 4 KB of brackets would take six times as long to read as a
signature to check, and one that says that it has expired is not counted."""
SUBJECT_CHARS_MAX: Final = 128
SECONDS_MAX: Final = 2.0**53
"""Times are whole and fractional seconds since 1970; beyond this they are not exact."""
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_FOREIGN_KEYS: Final = ("b64", "crit", "jku", "jwk", "x5c", "x5u")
"""Parameters that bring or name a key of the token's own, or that must be understood."""
_CUSTOMER_ID: Final = re.compile(IDENTIFIER_PATTERN)
_MALFORMED: Final = "the token is not a JWT"
_NOT_SIGNED: Final = "the token is not signed by a key of the issuer"


class Expected(NamedTuple):
    """What a token must say, and how far clocks may differ."""

    issuer: str
    audience: str
    leeway_s: float


class Registry(JWSRegistry):
    """Takes the algorithms that it was made with, by whatever name, and headers with parameters unknown to it."""

    max_header_length = TOKEN_BYTES_MAX

    def __init__(self, algorithms: tuple[str, ...] = ()) -> None:
        super().__init__(algorithms=algorithms, strict_check_header=False)

    def get_alg(self, name: str) -> Any:
        if name not in (self.allowed or ()):
            raise UnsupportedAlgorithmError(name)
        return self.algorithms[name]  # without a warning that RFC 9864 has renamed EdDSA


def check_token(text: bytes, keys: Mapping[str, SigningKey], expected: Expected, now: float) -> Principal:
    """The principal of a token. `now` is in seconds since 1970.

    Raises `UnknownKey` if no key has the token's `kid`, `Expired` before it looks at the signature, and
    `Unauthenticated` for any other fault.
    """
    if len(text) > TOKEN_BYTES_MAX:
        raise Unauthenticated(f"the token is over {TOKEN_BYTES_MAX} bytes")
    try:
        header = _members(urlsafe_b64decode(text.partition(b".")[0]))
        signed = jws.extract_compact(text, registry=Registry())
    except (JoseError, ValueError, TypeError, RecursionError):
        raise Unauthenticated(_MALFORMED) from None
    signing = _key_of(header, keys)
    if _has_expired(signed, expected, now):
        raise Expired("the token has expired")
    _verify(signed, signing)
    return _principal(_claims(signed), expected, now)


def _key_of(header: Mapping[str, Any], keys: Mapping[str, SigningKey]) -> SigningKey:
    """The key that must have signed a token with this header."""
    if any(name in header for name in _FOREIGN_KEYS):
        raise Unauthenticated(f"the token's header must not have {', '.join(_FOREIGN_KEYS)}")
    typ = header.get("typ", "JWT")
    if not isinstance(typ, str) or typ.lower() not in _TYPES:
        raise Unauthenticated("the token is of another type: typ must be JWT or at+jwt")
    kid = header.get("kid")
    if kid is None and len(keys) == 1:
        (signing,) = keys.values()
    elif not isinstance(kid, str):
        raise Unauthenticated(_NOT_SIGNED)
    elif kid in keys:
        signing = keys[kid]
    else:
        raise UnknownKey(_NOT_SIGNED)
    return signing


def _claims(signed: CompactSignature) -> dict[str, Any]:
    """What the token says, whoever has signed it."""
    try:
        return _members(signed.payload or b"")
    except (ValueError, RecursionError):
        raise Unauthenticated(
            "the token's claims are not a JSON object that has each name once, and no more than "
            f"{NESTED_MAX} objects and lists"
        ) from None


def _has_expired(signed: CompactSignature, expected: Expected, now: float) -> bool:
    """Whether the token itself says so. Whatever else is wrong with it is said once its signature is known to be
    good."""
    try:
        expires_at = _time(_claims(signed), "exp")
    except Unauthenticated:
        return False
    return expires_at is not None and now >= expires_at + expected.leeway_s


def _verify(signed: CompactSignature, signing: SigningKey) -> None:
    try:
        good = jws.validate_compact(signed, signing.key, registry=Registry(signing.algorithms))
    except (JoseError, ValueError, TypeError):
        good = False
    if not good:
        raise Unauthenticated(_NOT_SIGNED)


def _members(document: bytes) -> dict[str, Any]:
    """The members of a JSON object. Raises `ValueError` if it is none, has a name twice (RFC 7519 §4), or has too many
    objects and lists in it."""
    if document.count(b"{") + document.count(b"[") > NESTED_MAX:
        raise ValueError(f"it has over {NESTED_MAX} objects and lists")
    members = json.loads(document, object_pairs_hook=_once)
    if isinstance(members, dict):
        return members
    raise ValueError("it is no object")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name comes twice")
    return members


def _principal(claims: Mapping[str, Any], expected: Expected, now: float) -> Principal:
    if claims.get("iss") != expected.issuer:
        raise Unauthenticated("the token is of another issuer (iss)")
    audiences = claims.get("aud")
    if expected.audience not in (audiences if isinstance(audiences, list) else [audiences]):
        raise Unauthenticated("the token is for another audience (aud)")
    expires_at = _time(claims, "exp")
    if expires_at is None:
        raise Unauthenticated("the token has no time of expiry (exp)")
    not_before = _time(claims, "nbf")
    if not_before is not None and now < not_before - expected.leeway_s:
        raise Unauthenticated("the token is not valid yet (nbf)")
    subject, scope = claims.get("sub"), claims.get("scope", "")
    if not isinstance(subject, str) or not isinstance(scope, str):
        raise Unauthenticated("the token's sub and scope must be texts")
    jti = claims.get("jti")
    credential = jti if isinstance(jti, str) and jti.isprintable() else ""  # the audit keeps it
    return principal_of(subject, scope.split(" "), expires_at + expected.leeway_s, "token", credential)


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= SECONDS_MAX:
        raise Unauthenticated(f"the token's {name} must be seconds since 1970")
    return float(value)


def principal_of(subject: str, scopes: list[str], expires_at: float, kind: Any, credential: str = "") -> Principal:
    """The principal, with those of its scopes that are known here.

    Raises `Unauthenticated` for a subject that cannot be one.
    """
    known = frozenset(scopes).intersection(SCOPES)
    if not 1 <= len(subject) <= SUBJECT_CHARS_MAX or not subject.isprintable():
        raise Unauthenticated(f"the subject must be 1 to {SUBJECT_CHARS_MAX} printable characters")
    if CUSTOMER in known and not _CUSTOMER_ID.match(subject):
        raise Unauthenticated("the subject of a customer must be a customer's id")
    return Principal(subject, known, expires_at, kind, credential[:SUBJECT_CHARS_MAX])
