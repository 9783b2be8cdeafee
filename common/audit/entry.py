"""An entry of the audit: what was done, and by whom."""

import getpass
import os
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

Act = Literal[
    "deposit", "restock", "create-product", "change-product", "change-price", "split", "load-demo",
    "redrive", "discard", "resume", "skip", "replay", "make-token", "create-key", "revoke-key", "rotate",
    "allow", "trim", "rewind", "forget", "failover", "rejoin",
]  # fmt: skip
ACTOR: Final = "TANDEM_ACTOR"
"""The variable by which the console tells a command for whom it runs it."""
TEXT_CHARS_MAX: Final = 500


class Author(NamedTuple):
    """Who acts. `kind` says how that is known: by a `token`, an API `key` or the operating system's `user` who runs a
    command; `anonymous` when nobody is asked (AUTH=off). `request_id` is that of the HTTP request, if there is one, and
    `credential` the id of the token or key."""

    principal: str
    kind: Literal["token", "key", "user", "anonymous"]
    request_id: str | None = None
    credential: str | None = None


def user() -> str:
    """Who runs this process, by name or by number."""
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):
        return f"uid {os.getuid()}"


def user_author(actor: str | None = None) -> Author:
    """The author of a command's act: `actor` if that name was given, with the user who runs it if that is another."""
    name = user()
    return Author(name if actor in (None, name) else f"{actor} (run by {name})", "user")


class Entry(NamedTuple):
    """What was done. `target` names what it was done to, such as `account cust-1`; `detail` is what was asked for, as
    JSON's own types; `result` is what came of it, such as `balance 5000`."""

    act: Act
    target: str
    detail: Mapping[str, Any]
    result: str
