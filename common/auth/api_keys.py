"""API keys, for machines: their text, what is stored of them, and how they are checked.

The text is `tdm_<id>_<secret><checksum>`: a scanner for leaked secrets finds it, and the checksum tells a misspelt key
from a revoked one without a look-up. Only a SHA-256 of it is stored. A slow hash, as for passwords, would protect
nothing more: nobody can try out the 2^256 secrets, however fast the hash is.
"""

import hmac
import math
import re
import secrets
from collections.abc import Iterable
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Final
from zlib import crc32

import msgspec
from msgspec import Meta, Struct

from common.auth.principal import Principal, Scope, Unauthenticated
from common.auth.tokens import SUBJECT_CHARS_MAX, principal_of

PREFIX: Final = "tdm_"
KEYS_MAX: Final = 10_000
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_CHARS: Final = 10
_SECRET_CHARS: Final = 43
"""62 to this power is just over 2^256."""
_CHECKSUM_CHARS: Final = 6
_TEXT: Final = re.compile(
    rf"(tdm_([0-9a-z]{{{_ID_CHARS}}})_[0-9A-Za-z]{{{_SECRET_CHARS}}})([0-9A-Za-z]{{{_CHECKSUM_CHARS}}})"
)

KeyId = Annotated[str, Meta(pattern=rf"^[0-9a-z]{{{_ID_CHARS}}}\Z")]


class StoredKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An API key as the file has it. Its secret cannot be had from this."""

    id: KeyId
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    """Of the whole text, in hex."""
    subject: Annotated[str, Meta(min_length=1, max_length=SUBJECT_CHARS_MAX)]
    """Whose it is: a name or, with the scope `customer`, a customer's id. A key that replaces another has the same."""
    scopes: tuple[Scope, ...]
    created_at: Annotated[datetime, Meta(tz=True)]
    expires_at: Annotated[datetime, Meta(tz=True)] | None = None
    revoked_at: Annotated[datetime, Meta(tz=True)] | None = None


class KeyFile(Struct, frozen=True, forbid_unknown_fields=True):
    """The file that `AUTH_KEYS_FILE` names."""

    keys: tuple[StoredKey, ...] = ()


def new_key(
    subject: str, scopes: Iterable[Scope], created_at: datetime, expires_at: datetime | None = None
) -> tuple[str, StoredKey]:
    """A new key: its text, which is shown once, and what is stored.

    Raises `ValueError` when the subject cannot be one of these scopes.
    """
    id_ = _in_base_62(secrets.randbits(64), 11)[:_ID_CHARS].lower()
    unchecked = f"{PREFIX}{id_}_{_in_base_62(secrets.randbits(256), _SECRET_CHARS)}"
    text = unchecked + _checksum(unchecked)
    stored = StoredKey(
        id=id_,
        sha256=_hash(text),
        subject=subject,
        scopes=tuple(scopes),
        created_at=created_at,
        expires_at=expires_at,
    )
    try:
        _principal(stored)
    except Unauthenticated as error:
        raise ValueError(str(error)) from None
    return text, stored


def read_key_file(document: bytes) -> dict[str, StoredKey]:
    """The keys of the file, by their ids. Raises `ValueError` when it is not valid."""
    try:
        keys = msgspec.json.decode(document, type=KeyFile).keys
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    if len(keys) > KEYS_MAX:
        raise ValueError(f"it has {len(keys)} keys, at most {KEYS_MAX} are read; remove those that are revoked")
    by_id = {key.id: key for key in keys}
    if len(by_id) != len(keys):
        raise ValueError("two keys have the same id")
    return by_id


def write_key_file(keys: Iterable[StoredKey]) -> bytes:
    """The file of these keys."""
    return msgspec.json.format(msgspec.json.encode(KeyFile(tuple(keys))), indent=2) + b"\n"


def check_key(text: bytes, keys: dict[str, StoredKey], now: float) -> Principal:
    """The principal of a key. `now` is in seconds since 1970. Raises `Unauthenticated`."""
    match = _TEXT.fullmatch(text.decode("latin-1"))
    if match is None or _checksum(match[1]) != match[3]:
        raise Unauthenticated("the API key is misspelt: its form or its checksum is wrong")
    stored = keys.get(match[2])
    if stored is None or not hmac.compare_digest(stored.sha256, _hash(match[0])):
        raise Unauthenticated("there is no such API key")
    if stored.revoked_at is not None:
        raise Unauthenticated("the API key was revoked")
    principal = _principal(stored)
    if now >= principal.expires_at:
        raise Unauthenticated("the API key has expired")
    return principal


def _principal(key: StoredKey) -> Principal:
    expires_at = math.inf if key.expires_at is None else key.expires_at.timestamp()
    return principal_of(key.subject, list(key.scopes), expires_at, "key", key.id)


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def _checksum(text: str) -> str:
    return _in_base_62(crc32(text.encode()), _CHECKSUM_CHARS)


def _in_base_62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
