import pytest

from common.config import Env
from common.errors import Fatal
from order import config

REQUIRED = {"ORDER_DATABASE_URL": "postgresql://x"}


def test_the_defaults_agree_with_one_another() -> None:
    settings = config.api(Env("order-api", REQUIRED))
    assert settings.process.http.port == 8081
    assert settings.deadline_ms == config.DEADLINE_MS


def test_a_deadline_past_the_delivery_timeout_is_refused_naming_both() -> None:
    with pytest.raises(Fatal, match=r"ORDER_DEADLINE_MS=10000 ms must be less than .* delivery.timeout.ms=10000 ms"):
        config.api(Env("order-api", {**REQUIRED, "ORDER_DEADLINE_MS": "10000"}))


def test_more_orders_in_flight_than_the_buffer_holds_are_refused_naming_both() -> None:
    with pytest.raises(Fatal, match=r"ORDERS_IN_FLIGHT_MAX=4097 .* queue.buffering.max.kbytes=65536 KiB; .* 4096"):
        config.api(Env("order-api", {**REQUIRED, "ORDERS_IN_FLIGHT_MAX": "4097"}))


def test_the_saga_has_a_port_of_its_own() -> None:
    assert config.saga(Env("order-saga", REQUIRED)).http.port == 8084
