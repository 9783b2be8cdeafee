"""What a stack consists of: the services, and the names of databases and roles."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import inventory.config
import order.config
import payment.config
from common.config.env import Env

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
DATABASES = ("order", "payment", "inventory")
SHARED_ROLES = ("postgres", "auditor")
"""Every other role has a database of the same name."""
ROLES = (*SHARED_ROLES, *DATABASES)
CONSOLE = "console"
CONSOLE_ADMIN_OFFSET = 500
INSTANCES_MAX = 99
"""The limit of a native service, whose admin ports are a block of a hundred."""


@dataclass(frozen=True)
class Service:
    """A process of Tandem, of which several instances may run."""

    name: str
    arguments: tuple[str, ...]
    database: str
    port_setting: str
    admin_port_offset: int
    serves: str
    read_settings: Callable[[Env], object]

    def instance(self, number: int) -> str:
        return f"{self.name}-{number}"


SERVICES = (
    Service("order-api", ("order", "api"), "order", "order_api_port", 100, "orders", order.config.api),
    Service("order-saga", ("order", "saga"), "order", "order_saga_port", 400, "health and metrics", order.config.saga),
    Service(
        "payment", ("payment",), "payment", "payment_port", 200, "accounts, health and metrics", payment.config.load
    ),
    Service(
        *("inventory", ("inventory",), "inventory", "inventory_port", 300),
        *("products, health and metrics", inventory.config.load),
    ),
)
ADMIN_PORTS = range(
    min(service.admin_port_offset for service in SERVICES) + 1,
    CONSOLE_ADMIN_OFFSET + 1,
)
"""The admin ports of all instances and of the console, from ADMIN_PORT_BASE on."""
