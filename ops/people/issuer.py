"""The stack's own issuer: the keys that sign tokens, and their public parts, by which every process checks them.

It keeps two files. Only the tools read the private one. The public one is a JWKS (RFC 7517). Another issuer can take
its place: set `AUTH_ISSUER` and `AUTH_JWKS` to that one.

A new key is published before it signs, and the one before it stays published until its last token has expired. So no
token is refused because of a rotation: a process that meets a key that it does not know reads the public file again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from joserfc import jws
from joserfc.jwk import OKPKey

from common.auth.tokens import Registry
from common.errors import Fatal
from common.files import locked, write

ALGORITHM: Final = "EdDSA"
TTL_DEFAULT_S: Final = 3_600
TTL_MAX_S: Final = 24 * 3_600
"""Nothing revokes a token, so none lasts longer. An API key lasts, and can be revoked."""
SKEW_S: Final = 300
"""A service may allow for clocks that differ by so much."""
MADE_BY: Final = "tandem"
PRIVATE: Final = "d"
"""The member of a JWK that only its owner may know."""


class Key(msgspec.Struct, frozen=True):
    """A key as a JWK, and until when it is published, in seconds since 1970; without an end while it signs."""

    jwk: dict[str, Any]
    until: float | None = None


def new_key() -> Key:
    """A key for Ed25519 signatures, with its thumbprint (RFC 7638) as its id."""
    key = OKPKey.generate_key("Ed25519", {"alg": ALGORITHM, "use": "sig"}, auto_kid=True)
    return Key(dict(key.as_dict(private=True)))


def rotated(keys: Sequence[Key], now: float) -> list[Key]:
    """The keys that are published from now on, oldest first. The last one is new, and the only one that can sign."""
    until = now + TTL_MAX_S + SKEW_S
    kept = [Key(public(key.jwk), key.until or until) for key in keys if key.until is None or now < key.until]
    return [*kept, new_key()]


def public(jwk: dict[str, Any]) -> dict[str, Any]:
    """The part of a key that everybody may know."""
    return {name: value for name, value in jwk.items() if name != PRIVATE}


def signed(key: Key, claims: dict[str, Any]) -> str:
    """A token with these claims (RFC 9068)."""
    header = {"alg": ALGORITHM, "typ": "at+jwt", "kid": key.jwk["kid"]}
    private = OKPKey.import_key(dict(key.jwk))
    return jws.serialize_compact(header, msgspec.json.encode(claims), private, registry=Registry((ALGORITHM,)))


class Store:
    """The two files. Raises `Fatal` when the private one cannot be read, and `OSError` when one cannot be written."""

    def __init__(self, private: Path, published: Path) -> None:
        self.private = private
        self.published = published

    def is_own(self) -> bool:
        """Whether the public file is this issuer's, or not there yet. Raises `Fatal` when it does not say."""
        try:
            document = msgspec.json.decode(self.published.read_bytes())
        except FileNotFoundError:
            return True
        except (msgspec.DecodeError, OSError) as error:
            remedy = "put it back; if no other issuer made it, delete it, and 'just up' makes it anew"
            raise Fatal(f"the public keys in {self.published} cannot be read ({error}); {remedy}") from error
        return isinstance(document, dict) and document.get("made_by") == MADE_BY

    def read(self) -> list[Key]:
        try:
            keys = msgspec.json.decode(self.private.read_bytes(), type=list[Key])
            if not keys:
                raise ValueError("it has no key")
        except FileNotFoundError:
            raise Fatal(f"the issuer's keys are missing ({self.private}); 'just up' makes them") from None
        except (ValueError, OSError) as error:
            remedy = "delete it, and 'just up' makes new keys; tokens of the old ones are refused then"
            raise Fatal(f"the issuer's keys in {self.private} cannot be read ({error}); {remedy}") from error
        return keys

    def write(self, keys: Sequence[Key]) -> None:
        """Publish first: while a key is only in the private file, its tokens would be refused."""
        document = {"keys": [public(key.jwk) for key in keys], "made_by": MADE_BY}
        write(self.published, msgspec.json.format(msgspec.json.encode(document), indent=1).decode())
        write(self.private, msgspec.json.format(msgspec.json.encode(keys), indent=1).decode(), 0o600)

    def ensure(self) -> bool:
        """Make a key unless there is one, and publish it. Returns whether it was made."""
        with locked(self.private.parent):
            made = not self.private.exists()
            self.write([new_key()] if made else self.read())
        return made

    def rotate(self, now: float, *, at_once: bool = False) -> list[Key]:
        """Make a new key, which signs from now on. `at_once` withdraws the others, and with them all tokens.

        Returns the keys that are published.
        """
        with locked(self.private.parent):
            keys = rotated([] if at_once else self.read(), now)
            self.write(keys)
        return keys
