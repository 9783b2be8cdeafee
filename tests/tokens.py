"""Tokens for tests: of an issuer, and of everybody who would like to be one."""

import base64
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

ISSUER: Final = "https://issuer.test"
AUDIENCE: Final = "tandem"
ALGORITHMS: Final = ("Ed25519", "ES256", "RS256")
PrivateKey = OKPKey | ECKey | RSAKey


def new_signing_key(algorithm: str, kid: str) -> PrivateKey:
    """A key that is good for this algorithm."""
    parameters: Any = {"kid": kid, "use": "sig"}
    if algorithm in ("Ed25519", "EdDSA"):
        return OKPKey.generate_key("Ed25519", parameters)
    return ECKey.generate_key("P-256", parameters) if algorithm == "ES256" else RSAKey.generate_key(2048, parameters)


class Issuer:
    """Signs tokens, by default as they should be."""

    def __init__(self, algorithm: str = "Ed25519", kid: str = "key-1") -> None:
        self.algorithm = algorithm
        self.key = new_signing_key(algorithm, kid)

    def jwks(self, *others: "Issuer") -> bytes:
        """The public keys of this issuer, and of others."""
        keys = [issuer.key.as_dict(private=False) for issuer in (self, *others)]
        return json.dumps({"keys": keys}).encode()

    def token(
        self,
        subject: str = "cust-1",
        scope: str = "customer",
        *,
        header: Mapping[str, Any] = {},
        claims: Mapping[str, Any] = {},
        payload: bytes | None = None,
    ) -> str:
        """A token. `header` and `claims` change or, with None, remove members; `payload` takes the place of the
        claims."""
        now = int(time.time())
        members = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "scope": scope, "iat": now, "exp": now + 600}
        head = {"alg": self.algorithm, "kid": self.key.kid, "typ": "at+jwt"}
        body = json.dumps(_merged(members, claims)).encode() if payload is None else payload
        return signed(_merged(head, header), body, self.key)

    def public_pem(self) -> bytes:
        """The public key as a forger finds it."""
        return self.key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _merged(members: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**members, **changes}.items() if value is not None}


def b64(content: bytes) -> str:
    """Base64 as JOSE wants it."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def signed(header: Mapping[str, Any] | bytes, payload: bytes, key: PrivateKey | bytes) -> str:
    """A JWS with any header: what it says is not looked at, the key signs by the algorithm that it is good for.

    Bytes are a secret, for HS256.
    """
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    signing = f"{b64(head)}.{b64(payload)}"
    if isinstance(key, bytes):
        return f"{signing}.{b64(hmac.digest(key, signing.encode(), 'sha256'))}"
    name = {"OKP": "Ed25519", "EC": "ES256", "RSA": "RS256"}[key.key_type]
    return f"{signing}.{b64(JWSRegistry.algorithms[name].sign(signing.encode(), key))}"


def bad_tokens(issuer: Issuer) -> dict[str, str]:
    """Tokens that nobody may be let in with, by what is wrong with them. Their claims would do, but for that."""
    good = issuer.token()
    head, payload, signature = good.split(".")
    now = int(time.time())
    other = Issuer(issuer.algorithm, issuer.key.kid or "")
    own_jwk = other.key.as_dict(private=False)
    flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
    raised = b64(json.dumps(json.loads(base64.urlsafe_b64decode(payload + "==")) | {"scope": "merchant"}).encode())
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    twice = json.dumps(claims)[:-1].encode() + b', "scope": "merchant"}'
    header_twice = json.dumps({"kid": issuer.key.kid, "alg": "none"})[:-1] + f', "alg": "{issuer.algorithm}"}}'
    body = json.dumps(claims).encode()
    return {
        "expired": issuer.token(claims={"exp": now - 3_600}),
        "expired a moment ago": issuer.token(claims={"exp": now - 31}),
        "without expiry": issuer.token(claims={"exp": None}),
        "expiry is a text": issuer.token(claims={"exp": str(now + 600)}),
        "expiry is true": issuer.token(claims={"exp": True}),
        "expiry is infinite": issuer.token(payload=json.dumps(claims | {"exp": float("inf")}).encode()),
        "not yet valid": issuer.token(claims={"nbf": now + 3_600}),
        "of another issuer": issuer.token(claims={"iss": "https://other.test"}),
        "without issuer": issuer.token(claims={"iss": None}),
        "for another audience": issuer.token(claims={"aud": "other"}),
        "for other audiences": issuer.token(claims={"aud": ["other", "tandem2"]}),
        "without audience": issuer.token(claims={"aud": None}),
        "without subject": issuer.token(claims={"sub": None}),
        "subject is a number": issuer.token(claims={"sub": 7}),
        "subject is no customer": issuer.token(claims={"sub": "a customer"}),
        "scope is a list": issuer.token(claims={"scope": ["customer"]}),
        "a claim twice": issuer.token(payload=twice),
        "claims are a list": issuer.token(payload=b"[]"),
        "claims are deep": issuer.token(payload=b"[" * 2_000),
        "signed by another key": other.token(),
        "unknown key": Issuer(issuer.algorithm, "key-unknown").token(),
        "no signature": f"{head}.{payload}.",
        "tampered signature": f"{head}.{payload}.{flipped}",
        "tampered payload": f"{head}.{raised}.{signature}",
        "another token's signature": f"{head}.{payload}.{issuer.token('cust-2').split('.')[2]}",
        "alg none": f"{b64(json.dumps({'alg': 'none', 'kid': issuer.key.kid}).encode())}.{payload}.",
        "alg none with a signature": issuer.token(header={"alg": "none"}),
        "public key as a secret": signed({"alg": "HS256", "kid": issuer.key.kid}, body, issuer.public_pem()),
        "HS256 said, rightly signed": issuer.token(header={"alg": "HS256"}),
        "another algorithm of the key's kind": issuer.token(header={"alg": "PS256"}),
        "algorithm missing": issuer.token(header={"alg": None}),
        "brings its own key": signed({"alg": issuer.algorithm, "kid": issuer.key.kid, "jwk": own_jwk}, body, other.key),
        "names a place of its key": issuer.token(header={"jku": "https://other.test/jwks.json"}),
        "names a certificate": issuer.token(header={"x5u": "https://other.test/cert.pem"}),
        "critical header": issuer.token(header={"crit": ["exp"], "exp": now + 600}),
        "payload not encoded": issuer.token(header={"b64": False, "crit": ["b64"]}),
        "an identity token": issuer.token(header={"typ": "id+jwt"}),
        "kid is a path": issuer.token(header={"kid": "../../dev/null"}),
        "kid is a list": issuer.token(header={"kid": ["key-1"]}),
        "header twice": signed(header_twice.encode(), body, issuer.key),
        "two parts": f"{head}.{payload}",
        "four parts": f"{good}.x",
        "encrypted": "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ.a.b.c.d",
        "padded": f"{head}=.{payload}.{signature}",
        "oversized": issuer.token(claims={"x": "x" * 4_096}),
        "no JSON": f"{b64(b'hello')}.{payload}.{signature}",
        "misspelt API key": "tdm_0123456789_" + "a" * 49,
    }
