import pytest

from common.codec import encode
from common.config.env import Env
from common.errors import Fatal
from common.events import (
    ITEMS_MAX,
    QUANTITY_MAX,
    UNIT_PRICE_MAX,
    CustomerId,
    Item,
    Milliseconds,
    OrderId,
    OrderPlaced,
    PlacedData,
    make,
)
from order import config

REQUIRED = {"ORDER_DATABASE_URL": "postgresql://x", "AUTH": "off"}


def test_the_defaults_agree_with_one_another() -> None:
    settings = config.api(Env("order-api", REQUIRED))
    assert settings.process.port == 8081
    assert settings.deadline_ms == 5_000


def test_a_deadline_past_the_delivery_timeout_is_refused_naming_both() -> None:
    with pytest.raises(Fatal, match=r"ORDER_DEADLINE_MS=10000 ms must be less than .* delivery.timeout.ms=10000 ms"):
        config.api(Env("order-api", {**REQUIRED, "ORDER_DEADLINE_MS": "10000"}))


def test_more_orders_in_flight_than_the_buffer_holds_are_refused_naming_both() -> None:
    with pytest.raises(Fatal, match=r"ORDERS_IN_FLIGHT_MAX=4097 .* queue.buffering.max.kbytes=65536 KiB; .* 4096"):
        config.api(Env("order-api", {**REQUIRED, "ORDERS_IN_FLIGHT_MAX": "4097"}))


def test_the_saga_has_a_port_of_its_own() -> None:
    assert config.saga(Env("order-saga", REQUIRED)).process.port == 8084


def test_the_largest_order_is_within_the_size_that_the_limits_assume() -> None:
    data = PlacedData(
        order_id=OrderId("01997c00-0000-7000-8000-000000000001"),
        customer_id=CustomerId("c" * 64),
        items=(Item("p" * 64, QUANTITY_MAX, UNIT_PRICE_MAX),) * ITEMS_MAX,
        amount=ITEMS_MAX * QUANTITY_MAX * UNIT_PRICE_MAX,
        currency="EUR",
    )
    event = make(OrderPlaced, data, at=Milliseconds(1_795_403_860_266), traceparent="t" * 55)
    assert len(encode(event)) < config.EVENT_KIB_MAX * 1024
