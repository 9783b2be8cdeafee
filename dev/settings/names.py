"""Which environment variables are settings of Tandem, and which only look like one."""

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Final

from dev.settings.processes import PROCESS_SETTINGS, PROJECT, STATED
from dev.settings.services import ROOT
from dev.settings.stack import STACK_SETTINGS, Kind

OWN_SETTINGS: Final = STACK_SETTINGS | PROCESS_SETTINGS | {PROJECT, "TOPIC_REPLICAS"}
_LIKE_OURS: Final = ("INVENTORY_", "ORDER_", "ORDERS_", "PAYMENT_", "TANDEM_", "TOPIC_")
_NOT_OURS: Final = ("COMPOSE_", "DOCKER_", "SSL_", "TANDEM_CALLER", "TANDEM_TEST_")


def dotenv() -> str:
    """The text of .env, which just has read into the environment."""
    path = ROOT / ".env"
    return path.read_text(errors="replace") if path.is_file() else ""


def unknown_settings(environ: Iterable[str], dotenv: str = "", *, kind: Kind = "native") -> Iterator[str]:
    """A sentence about each variable that looks like a setting of Tandem and is none, and about each that has no effect
    on this kind of stack. `dotenv` is the text of .env, where every variable is meant for Tandem."""
    names = set(environ)
    in_file = set(re.findall(r"^\s*(?:export\s+)?(\w+)\s*=", dotenv, re.MULTILINE))
    for name in sorted(names | in_file):
        if kind == "compose" and name in OWN_SETTINGS - compose_settings():
            yield f"{name} has no effect in Compose: set it in docker-compose.yml"
        if name in OWN_SETTINGS or name.startswith(_NOT_OURS):
            continue
        if name in STATED:
            yield f"{name} has no effect: the stack sets it"
        elif close := difflib.get_close_matches(name.upper(), OWN_SETTINGS, n=1, cutoff=0.84):
            yield f"{name} is not a setting of Tandem; did you mean {close[0]}?"
        elif name.startswith(_LIKE_OURS) or name in in_file:
            yield f"{name} is not a setting of Tandem; docs/OPERATIONS.md lists them"


def compose_settings() -> frozenset[str]:
    """The settings that have an effect in Compose."""
    passed_on = re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text())
    return frozenset({"STACK", "TANDEM_HOME", "BROKERS", "SECURE", "STANDBYS", PROJECT, *passed_on})
