"""`python -m ops.people.keys`: makes, lists and revokes API keys, and rotates the key that signs tokens.

An API key is for a machine: it lasts until it expires or is revoked, which every process sees within a second. Its
text is printed once, and only its hash is stored. `just keys` runs this.
"""

import argparse
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from common.auth.api_keys import PREFIX, StoredKey, new_key, read_key_file, write_key_file
from common.config.env import Env
from common.errors import Fatal
from common.files import locked, write
from ops import tool
from ops.people.settings import Settings, read_settings
from ops.people.token import add_person, subject
from ops.record import record

DAYS_MAX: Final = 3_650
HEADER: Final = ("id", "name", "scopes", "created", "expires", "state")


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(prog="just keys", description="API keys for machines, and the issuer's key.")
    commands = described.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="make a key, and print it; it is shown this once")
    add_person(create)
    create.add_argument("--days", type=days, help="how long it lasts; without it, until it is revoked")
    listing = commands.add_parser("list", help="list the keys, without their secrets")
    listing.add_argument("--json", action="store_true", help="print them as JSON")
    revoke = commands.add_parser("revoke", help="refuse a key from now on")
    revoke.add_argument("key", help="its id, or its text")
    rotate = commands.add_parser("rotate-issuer", help="sign tokens with a new key; older tokens stay valid")
    rotate.add_argument("--at-once", action="store_true", help="withdraw the older keys too: all tokens end")
    return described


def days(text: str) -> int:
    """Raises `argparse.ArgumentTypeError`."""
    if re.fullmatch("[1-9][0-9]{0,3}", text) and int(text) <= DAYS_MAX:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of days, from 1 to {DAYS_MAX}")


def read(path: Path) -> dict[str, StoredKey]:
    """The keys of a file, by id. Raises `Fatal`."""
    try:
        return read_key_file(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Fatal(f"the API keys in {path} cannot be read: {error}") from error


@contextmanager
def changed(path: Path) -> Iterator[dict[str, StoredKey]]:
    """The keys of a file, which is replaced by what becomes of them. Raises `Fatal`."""
    with locked(path.parent):
        keys = read(path)
        yield keys
        write(path, write_key_file(keys.values()).decode(), 0o600)


def create(env: Env, settings: Settings, chosen: argparse.Namespace) -> None:
    now = datetime.now(UTC)
    expires_at = None if chosen.days is None else now + timedelta(days=chosen.days)
    try:
        text, stored = new_key(subject(chosen.scopes, chosen.name), chosen.scopes, now, expires_at)
    except ValueError as error:
        raise Fatal(str(error)) from None
    detail = {"subject": stored.subject, "scopes": chosen.scopes, "days": chosen.days}
    with changed(settings.api_keys) as keys:
        record(env, "create-key", f"key {stored.id}", detail, "made")
        keys[stored.id] = stored
    print(text)
    print(f"this key is shown once, and valid in a second; 'just keys revoke {stored.id}' ends it", file=sys.stderr)


def revoke(env: Env, settings: Settings, named: str) -> None:
    id_ = named.removeprefix(PREFIX).partition("_")[0]
    with changed(settings.api_keys) as keys:
        if id_ not in keys:
            raise Fatal(f"there is no key {id_!r}; 'just keys list' shows all")
        if keys[id_].revoked_at is not None:
            raise Fatal(f"the key {id_} was revoked before, at {shown(keys[id_].revoked_at)}")
        keys[id_] = msgspec.structs.replace(keys[id_], revoked_at=datetime.now(UTC))
    print(f"the key {id_} is revoked: every process refuses it within a second")
    record(env, "revoke-key", f"key {id_}", {"subject": keys[id_].subject}, "revoked")


def list_all(settings: Settings, *, as_json: bool) -> None:
    keys = read(settings.api_keys).values()
    if as_json:
        listed = [{name: value for name, value in msgspec.to_builtins(key).items() if name != "sha256"} for key in keys]
        print(msgspec.json.format(msgspec.json.encode(listed)).decode())
    else:
        tool.print_table(HEADER, [row(key, datetime.now(UTC)) for key in keys])


def row(key: StoredKey, now: datetime) -> tuple[str, ...]:
    if key.revoked_at is not None:
        state = f"revoked {shown(key.revoked_at)}"
    else:
        state = "expired" if key.expires_at is not None and key.expires_at <= now else "valid"
    return key.id, key.subject, ",".join(key.scopes), shown(key.created_at), shown(key.expires_at), state


def shown(at: datetime | None) -> str:
    return "-" if at is None else f"{at:%Y-%m-%d %H:%M}"


def rotate(env: Env, settings: Settings, *, at_once: bool) -> None:
    keys = settings.own_issuer().rotate(time.time(), at_once=at_once)
    older = "all older tokens are refused within a second" if at_once else "older tokens stay valid until they expire"
    print(f"tokens are signed by the new key {keys[-1].jwk['kid']}; {older}")
    record(env, "rotate", "the issuer's key", {"at_once": at_once}, f"key {keys[-1].jwk['kid']}")


def main(arguments: Sequence[str]) -> int:
    chosen = parser().parse_args(arguments)
    env = Env("keys")
    settings = read_settings(env)
    match chosen.command:
        case "create":
            create(env, settings, chosen)
        case "list":
            list_all(settings, as_json=chosen.json)
        case "revoke":
            revoke(env, settings, chosen.key)
        case "rotate-issuer":
            rotate(env, settings, at_once=chosen.at_once)
    return 0


if __name__ == "__main__":
    tool.run(main)
