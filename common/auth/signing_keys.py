"""The public keys of the issuers of tokens, from a JWKS document (RFC 7517), each with the algorithms it is good for.

The key decides on the algorithm, never the token: so a token cannot have its signature checked as an HMAC with the
public key as the secret, or not at all. References: RFC 8725 §3.1 (best practices for JWT), RFC 9864 (Ed25519).
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, OKPKey, RSAKey

RSA_BITS_MIN: Final = 2_048
KEYS_MAX: Final = 100
_EDDSA: Final = ("EdDSA", "Ed25519")
"""One algorithm under its name of before and since RFC 9864."""

PublicKey = ECKey | OKPKey | RSAKey


class SigningKey(NamedTuple):
    """A key that signs tokens, and the names of the algorithm for which it is good."""

    key: PublicKey
    algorithms: tuple[str, ...]


def read_jwks(document: bytes) -> dict[str, SigningKey]:
    """The keys of a JWKS document that can be used, by their ids (`kid`).

    Keys of other types and for other uses are passed over (RFC 7517 §5). Raises `ValueError` when the document is none,
    has no key that can be used, or has a private or a secret key, which nobody but the issuer may have.
    """
    try:
        parsed = orjson.loads(document)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    listed = parsed.get("keys") if isinstance(parsed, dict) else None
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise ValueError('it is no JWKS: it must be like {"keys": [...]}')
    if len(listed) > KEYS_MAX:
        raise ValueError(f"it has {len(listed)} keys, at most {KEYS_MAX} are read")
    keys: dict[str, SigningKey] = {}
    for jwk in listed:
        if "d" in jwk or "k" in jwk:
            raise ValueError(f"it has a private or secret key (kid {jwk.get('kid')!r}): publish the public part only")
        signing = _signing_key(jwk)
        if signing is None:
            continue
        kid = jwk.get("kid")
        if not isinstance(kid, str) or not kid:
            raise ValueError("a key has no kid; each must have one, so that keys can be replaced one by one")
        if kid in keys:
            raise ValueError(f"two keys have the kid {kid!r}")
        keys[kid] = signing
    if not keys:
        raise ValueError(f"none of its {len(listed)} keys can be used: Ed25519, P-256 and RSA keys that sign can")
    return keys


def _signing_key(jwk: Mapping[str, Any]) -> SigningKey | None:
    match (jwk.get("kty"), jwk.get("crv")):
        case ("OKP", "Ed25519"):
            algorithms: tuple[str, ...] = _EDDSA
        case ("EC", "P-256"):
            algorithms = ("ES256",)
        case ("RSA", _):
            algorithms = ("RS256",)
        case _:
            return None
    if jwk.get("use", "sig") != "sig" or "verify" not in jwk.get("key_ops", ("verify",)):
        return None
    if jwk.get("alg", algorithms[0]) not in algorithms:
        return None
    if jwk["kty"] == "RSA" and len(str(jwk.get("n"))) * 6 < RSA_BITS_MIN:  # base64 has 6 bits a character
        raise ValueError(f"the RSA key {jwk.get('kid')!r} has fewer than {RSA_BITS_MIN} bits")
    try:
        key = JWKRegistry.import_key(dict(jwk))
    except (JoseError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"the key {jwk.get('kid')!r} cannot be read: {error}") from None
    assert isinstance(key, ECKey | OKPKey | RSAKey)
    return SigningKey(key, algorithms)
