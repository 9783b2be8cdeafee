"""`python -m ops.people.token SCOPE[,SCOPE…] [NAME] [--ttl 15m]`: prints a token, and nothing else.

NAME is the customer's id for the scope `customer`, and otherwise the name under which acts are recorded, by default the
user's. `just token` runs it.
"""

import argparse
import re
import uuid
from collections.abc import Sequence
from typing import Final

from common.audit.entry import user
from common.auth.principal import CUSTOMER, SCOPES
from common.config.env import Env
from common.errors import Fatal
from common.events import IDENTIFIER_PATTERN
from ops import tool
from ops.people import issuer
from ops.people.settings import read_settings
from ops.record import record

_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(prog="just token", description="Prints a token.")
    add_person(described)
    described.add_argument(
        "--ttl", type=duration, default=issuer.TTL_DEFAULT_S, metavar="TIME", help="at most 24h; by default 1h"
    )
    return described


def add_person(described: argparse.ArgumentParser) -> None:
    """The arguments that say who asks, and with which scopes."""
    described.add_argument("scopes", type=scopes, metavar="SCOPE", help=f"{', '.join(SCOPES)}, or several: a,b")
    described.add_argument("name", nargs="?", default="", metavar="NAME", help="the customer's id, or who asks")


def scopes(text: str) -> list[str]:
    """Raises `argparse.ArgumentTypeError`."""
    chosen = text.split(",")
    if unknown := [scope for scope in chosen if scope not in SCOPES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not a scope; there are {', '.join(SCOPES)}")
    return list(dict.fromkeys(chosen))


def duration(text: str) -> int:
    """Seconds. Raises `argparse.ArgumentTypeError`."""
    match = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < seconds <= issuer.TTL_MAX_S:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time such as 15m or 12h, up to 24h; for longer there are API keys: just keys create"
        )
    return seconds


def subject(scopes: Sequence[str], name: str) -> str:
    """Who asks. Raises `Fatal`."""
    if CUSTOMER not in scopes:
        return name or user()
    if not re.fullmatch(IDENTIFIER_PATTERN, name):
        given = repr(name) if name else "no name"
        raise Fatal(f"a customer is named by its id, such as cust-000001, not by {given}")
    return name


def main(arguments: Sequence[str]) -> int:
    chosen = parser().parse_args(arguments)
    env = Env("token")
    settings = read_settings(env)
    name = subject(chosen.scopes, chosen.name)
    jti = str(uuid.uuid4())
    text = settings.token(settings.own_issuer().read()[-1], name, chosen.scopes, chosen.ttl, jti)
    detail = {"subject": name, "scopes": chosen.scopes, "ttl_s": chosen.ttl}
    record(env, "make-token", f"token {jti}", detail, "made")
    print(text)
    return 0


if __name__ == "__main__":
    tool.run(main)
