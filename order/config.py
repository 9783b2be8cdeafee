"""Settings of the two order processes, the api and the saga."""

from dataclasses import dataclass
from typing import Final

from common.config.env import Env
from common.config.process import Process, process_settings
from common.kafka.clients import DELIVERY_TIMEOUT_MS, PRODUCER_BUFFER_KIB

DATABASE: Final = "ORDER_DATABASE_URL"

LINGER_MS_MAX: Final = 50
"""Less than the shortest deadline of a request."""
EVENT_KIB_MAX: Final = 16
"""100 items of 150 bytes each, and the envelope."""


@dataclass(frozen=True, slots=True)
class Api:
    """The order api's settings: how long a request may wait for the log, how many may wait, within which time all
    accepted orders must be settled and how many may be unsettled at most, and how long orders linger."""

    process: Process
    deadline_ms: int
    in_flight_max: int
    settle_within_s: int
    backlog_max: int
    linger_ms: int


def api(env: Env | None = None) -> Api:
    """Read the api's settings. Raises `Fatal`, also for limits that contradict one another."""
    env = env or Env("order-api")
    settings = Api(
        process=process_settings(env, database=DATABASE, port=8081),
        deadline_ms=env.integer("ORDER_DEADLINE_MS", 5_000, least=100, most=600_000, unit="ms"),
        in_flight_max=env.integer("ORDERS_IN_FLIGHT_MAX", 2_000, least=1, most=1_000_000, unit="orders"),
        settle_within_s=env.integer("ORDERS_SETTLE_WITHIN_S", 60, least=1, most=3_600, unit="s"),
        backlog_max=env.integer("ORDERS_BACKLOG_MAX", 1_000_000, least=1, most=10**9, unit="orders"),
        linger_ms=env.integer("ORDER_LINGER_MS", 4, least=0, most=LINGER_MS_MAX, unit="ms"),
    )
    if settings.deadline_ms >= DELIVERY_TIMEOUT_MS:
        raise env.error(
            f"ORDER_DEADLINE_MS={settings.deadline_ms} ms must be less than the producer's "
            f"delivery.timeout.ms={DELIVERY_TIMEOUT_MS} ms, or an order fails before its request is answered"
        )
    if settings.in_flight_max * EVENT_KIB_MAX > PRODUCER_BUFFER_KIB:
        raise env.error(
            f"ORDERS_IN_FLIGHT_MAX={settings.in_flight_max} orders of up to {EVENT_KIB_MAX} KiB do not "
            f"fit into the producer's queue.buffering.max.kbytes={PRODUCER_BUFFER_KIB} KiB; set at most "
            f"{PRODUCER_BUFFER_KIB // EVENT_KIB_MAX}"
        )
    return settings


@dataclass(frozen=True, slots=True)
class Saga:
    """The order saga's settings: how long an order may stay pending."""

    process: Process
    deadline_ms: int


def saga(env: Env | None = None) -> Saga:
    """Read the saga's settings. Raises `Fatal`."""
    env = env or Env("order-saga")
    deadline_s = env.integer("ORDER_SETTLE_DEADLINE_S", 3_600, least=1, most=30 * 86_400, unit="s")
    return Saga(process_settings(env, database=DATABASE, port=8084), deadline_s * 1_000)
