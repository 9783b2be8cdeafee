"""Settings of the console, from the environment."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast, get_args

from common.config.env import PORT_MAX, Env
from common.config.process import Process, process_settings
from ops.tool import GROUP_OF

NAME: Final = "console"
PORT: Final = 8080
DEADLINE_S: Final = 3_600
TARGETS: Final = (
    "order-api=127.0.0.1:18101,order-saga=127.0.0.1:18401,payment=127.0.0.1:18201,inventory=127.0.0.1:18301"
)
_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")

Kind = Literal["native", "compose", "other"]


@dataclass(frozen=True, slots=True)
class Address:
    """Where something listens."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Settings:
    """Of the process, of what it reads, and of what it may do: only with `stack` native may it stop and kill things."""

    process: Process
    stack: Kind
    order_api: Address
    targets: Path | Mapping[str, Address]
    """The admin ports: a file that names the instances, or a name in DNS for all instances of each service."""
    auditor_urls: Mapping[str, str]
    service_urls: Mapping[str, str]
    deadline_s: int


def load(env: Env | None = None) -> Settings:
    """Read the settings. Raises `Fatal`."""
    env = env or Env(NAME)
    port = env.port("CONSOLE_PORT", PORT)
    targets = env.text("CONSOLE_TARGETS", TARGETS, printable=False)
    return Settings(
        process=process_settings(env, database="ORDER_AUDITOR_URL", port=port),
        stack=cast(Kind, env.choice("CONSOLE_STACK", "other", get_args(Kind))),
        order_api=_address(env, "CONSOLE_ORDER_API", env.text("CONSOLE_ORDER_API", "127.0.0.1:8081")),
        targets=Path(targets) if "=" not in targets else _targets(env, targets),
        auditor_urls={name: env.database_url(f"{name.upper()}_AUDITOR_URL") for name in GROUP_OF},
        service_urls={name: env.database_url(f"{name.upper()}_DATABASE_URL") for name in GROUP_OF},
        deadline_s=env.integer("ORDER_SETTLE_DEADLINE_S", DEADLINE_S, least=1, most=30 * 86_400, unit="s"),
    )


def _targets(env: Env, text: str) -> dict[str, Address]:
    pairs = (target.strip().partition("=") for target in text.split(","))
    return {service: _address(env, "CONSOLE_TARGETS", address) for service, _, address in pairs}


def _address(env: Env, name: str, text: str) -> Address:
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match[2]) <= PORT_MAX:
        raise env.error(f"{name}: {text!r} must be like HOST:PORT")
    return Address(match[1].strip("[]"), int(match[2]))
