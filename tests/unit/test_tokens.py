"""Tokens: who is let in by one, and that nobody is by any other."""

import json
import time
from typing import Final

import pytest

from common.auth.principal import Outdated, Principal, Unauthenticated, UnknownKey
from common.auth.signing_keys import read_jwks
from common.auth.tokens import NESTED_MAX, TOKEN_BYTES_MAX, Expected, check_token
from tests.tokens import ALGORITHMS, AUDIENCE, ISSUER, Issuer, b64, bad_tokens

EXPECTED: Final = Expected(ISSUER, AUDIENCE, leeway_s=30)
ISSUERS: Final = {algorithm: Issuer(algorithm, f"key-{algorithm}") for algorithm in ALGORITHMS}
BAD_AT: Final = time.time()
"""When these were made: a test that runs much later would find all of them expired."""
BAD: Final = {algorithm: bad_tokens(issuer) for algorithm, issuer in ISSUERS.items()}


def check(token: str, issuer: Issuer = ISSUERS["Ed25519"], now: float | None = None) -> Principal:
    keys = read_jwks(issuer.jwks(*(other for other in ISSUERS.values() if other is not issuer)))
    return check_token(token.encode(), keys, EXPECTED, time.time() if now is None else now)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_token_says_who_asks_and_what_they_may_until_it_expires(algorithm: str) -> None:
    now = int(time.time())
    token = ISSUERS[algorithm].token("cust-000001", "customer openid auditor", claims={"exp": now + 60, "jti": "t-1"})
    principal = check(token, ISSUERS[algorithm])
    assert principal == Principal("cust-000001", frozenset({"customer", "auditor"}), now + 90, "token", "t-1")


@pytest.mark.parametrize("fault", BAD["Ed25519"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_bad_token_is_refused(algorithm: str, fault: str) -> None:
    with pytest.raises(Unauthenticated):
        check(BAD[algorithm][fault], ISSUERS[algorithm], BAD_AT)


def test_what_a_refusal_says_helps_its_owner_and_no_forger() -> None:
    def reason(fault: str) -> str:
        with pytest.raises(Unauthenticated) as caught:
            check(BAD["Ed25519"][fault], now=BAD_AT)
        return str(caught.value)

    assert reason("expired") == "the token has expired"
    assert reason("not yet valid") == "the token is not valid yet (nbf)"
    unsigned = ("signed by another key", "unknown key", "tampered payload", "alg none", "public key as a secret")
    assert {reason(fault) for fault in unsigned} == {"the token is not signed by a key of the issuer"}


def test_only_a_token_that_has_ended_is_refused_without_a_look_at_its_signature() -> None:
    """So only what was refused for its signature counts as a guess."""
    for fault in ("expired", "expired a moment ago", "unknown key"):
        with pytest.raises(Outdated):
            check(BAD["Ed25519"][fault], now=BAD_AT)
    for fault in ("signed by another key", "tampered payload", "alg none", "public key as a secret", "not yet valid"):
        with pytest.raises(Unauthenticated) as caught:
            check(BAD["Ed25519"][fault], now=BAD_AT)
        assert not isinstance(caught.value, Outdated), fault


def test_the_name_of_the_algorithm_before_rfc_9864_is_taken_too() -> None:
    assert check(ISSUERS["Ed25519"].token(header={"alg": "EdDSA"})).subject == "cust-1"


def test_a_key_is_good_for_its_own_algorithm_only() -> None:
    for issuer in ISSUERS.values():
        for other in {"EdDSA", *ALGORITHMS} - {issuer.algorithm, "EdDSA"}:
            with pytest.raises(Unauthenticated):
                check(issuer.token(header={"alg": other}), issuer)


@pytest.mark.parametrize(
    ("claims", "at", "good"),
    [
        ({"exp": 1_000}, 1_029.9, True),
        ({"exp": 1_000}, 1_030.0, False),
        ({"exp": 1_000.5}, 1_030.4, True),
        ({"exp": 2_000, "nbf": 1_000}, 970.0, True),
        ({"exp": 2_000, "nbf": 1_000}, 969.9, False),
    ],
)
def test_clocks_may_differ_by_the_leeway(claims: dict[str, float], at: float, good: bool) -> None:
    token = ISSUERS["Ed25519"].token(claims=claims)
    if good:
        check(token, now=at)
    else:
        with pytest.raises(Unauthenticated):
            check(token, now=at)


@pytest.mark.parametrize("name", ["exp", "nbf"])
@pytest.mark.parametrize("value", [True, "1000", -1, 1e300, float("nan"), float("inf"), [1_000], {}])
def test_a_time_must_be_seconds(name: str, value: object) -> None:
    token = ISSUERS["Ed25519"].token(claims={"exp": 2_000, name: value})
    with pytest.raises(Unauthenticated, match=f"{name} must be seconds since 1970"):
        check(token, now=1)


def test_an_audience_may_be_one_of_several() -> None:
    assert check(ISSUERS["Ed25519"].token(claims={"aud": ["other", AUDIENCE]})).subject == "cust-1"


def test_only_one_key_needs_no_name() -> None:
    alone = Issuer(kid="only")
    token = alone.token(header={"kid": None})
    assert check_token(token.encode(), read_jwks(alone.jwks()), EXPECTED, time.time()).subject == "cust-1"
    with pytest.raises(Unauthenticated):
        check_token(token.encode(), read_jwks(alone.jwks(ISSUERS["ES256"])), EXPECTED, time.time())


def test_an_unknown_key_is_told_apart_since_it_may_be_new() -> None:
    with pytest.raises(UnknownKey):
        check(BAD["Ed25519"]["unknown key"])


def test_headers_that_do_not_matter_are_passed_over() -> None:
    assert check(ISSUERS["Ed25519"].token(header={"x5t": "abc", "nonce": "1", "typ": "JWT"})).subject == "cust-1"


def test_the_limit_is_of_the_whole_token() -> None:
    issuer = ISSUERS["Ed25519"]
    size = len(issuer.token(claims={"x": ""}))
    fits = issuer.token(claims={"x": "x" * ((TOKEN_BYTES_MAX - size) * 3 // 4 - 2)})
    assert TOKEN_BYTES_MAX - 8 < len(fits) <= TOKEN_BYTES_MAX
    assert check(fits).subject == "cust-1"


@pytest.mark.parametrize("bracket", ["{}", "[]"])
def test_a_token_of_brackets_is_not_read(bracket: str) -> None:
    """One that says that it has expired would not even count as a guess."""
    brackets = f'"x": [{",".join([bracket] * NESTED_MAX)}]'
    now = time.time()
    for header, claims in (
        (f'"alg": "EdDSA", "kid": "unknown", {brackets}', '"exp": 1'),
        ('"alg": "EdDSA", "kid": "key-Ed25519"', f'"exp": 1, {brackets}'),
    ):
        with pytest.raises(Unauthenticated) as caught:
            check(f"{b64(f'{{{header}}}'.encode())}.{b64(f'{{{claims}}}'.encode())}.{b64(b'x' * 64)}", now=now)
        assert not isinstance(caught.value, Outdated)


def test_a_token_may_have_the_roles_of_many_applications() -> None:
    roles = {f"application-{number}": {"roles": ["reader"]} for number in range(50)}
    assert check(ISSUERS["Ed25519"].token(claims={"resource_access": roles})).subject == "cust-1"


# Keys


def jwk(**changes: object) -> bytes:
    key: dict[str, object] = {**ISSUERS["Ed25519"].key.as_dict(private=False), **changes}
    return json.dumps({"keys": [{name: value for name, value in key.items() if value is not None}]}).encode()


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"", "not JSON"),
        (b"[]", "no JWKS"),
        (b'{"keys": ["a"]}', "no JWKS"),
        (b'{"keys": []}', "none of its 0 keys"),
        (jwk(use="enc"), "none of its 1 keys"),
        (jwk(key_ops=["encrypt"], use=None), "none of its 1 keys"),
        (jwk(alg="ES256"), "none of its 1 keys"),
        (jwk(crv="Ed448"), "none of its 1 keys"),
        (jwk(kty="AKP"), "none of its 1 keys"),
        (jwk(kid=None), "no kid"),
        (jwk(x="AAAA"), "cannot be read"),
        (jwk(d="AAAA"), "private or secret key"),
        (b'{"keys": [{"kty": "oct", "k": "AAAA", "kid": "a"}]}', "private or secret key"),
        (ISSUERS["ES256"].jwks(ISSUERS["ES256"]), "two keys have the kid 'key-ES256'"),
    ],
)
def test_a_document_without_a_usable_key_is_refused_with_the_reason(document: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_jwks(document)


def test_keys_of_other_kinds_are_passed_over() -> None:
    other = {"kty": "AKP", "alg": "ML-DSA-44", "kid": "pq", "pub": "AAAA"}
    keys = json.loads(ISSUERS["Ed25519"].jwks())["keys"]
    assert list(read_jwks(json.dumps({"keys": [other, *keys]}).encode())) == ["key-Ed25519"]


def test_a_short_rsa_key_is_refused() -> None:
    short = {"kty": "RSA", "kid": "short", "e": "AQAB", "n": b64((2**1023 + 1).to_bytes(128, "big"))}
    with pytest.raises(ValueError, match="fewer than 2048 bits"):
        read_jwks(json.dumps({"keys": [short]}).encode())
