import msgspec
import pytest

from common import events
from common.codec import decoder_for, encode
from common.events import INVENTORY, ORDERS, PAYMENTS, Item, Milliseconds, OrderPlaced, PlacedData, make, rfc3339

ORDER_ID = "01997c5e-0000-7000-8000-000000000001"
AT = Milliseconds(1_700_000_000_123)
PLACED = make(
    OrderPlaced,
    PlacedData(
        order_id=ORDER_ID, customer_id="cust-1", items=(Item("sku-1", 2, 1999),), amount=3998, currency="EUR"
    ),
    at=AT,
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)  # fmt: skip


def changed(**fields: object) -> bytes:
    """The placed event with other data; `...` takes a field out."""
    document = msgspec.json.decode(encode(PLACED))
    data = document["data"] | fields
    document["data"] = {name: value for name, value in data.items() if value is not ...}
    return msgspec.json.encode(document)


def test_an_event_is_a_cloudevent_in_structured_form() -> None:
    assert msgspec.json.decode(encode(PLACED)) == {
        "specversion": "1.0",
        "type": "order.placed",
        "id": f"{ORDER_ID}:order.placed:1",
        "source": "/tandem/order",
        "subject": ORDER_ID,
        "time": "2023-11-14T22:13:20.123Z",
        "partitionkey": "cust-1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "sequence": 1,
        "datacontenttype": "application/json",
        "data": {
            "order_id": ORDER_ID,
            "customer_id": "cust-1",
            "items": [{"product_id": "sku-1", "quantity": 2, "unit_price": 1999}],
            "amount": 3998,
            "currency": "EUR",
        },
    }


def test_an_event_reads_back_as_it_was_written() -> None:
    assert decoder_for[ORDERS].decode(encode(PLACED)) == PLACED


def test_the_same_event_published_again_has_the_same_id() -> None:
    again = make(OrderPlaced, PLACED.data, at=Milliseconds(AT + 999), traceparent="another")
    assert again.id == PLACED.id


def test_unknown_fields_are_ignored() -> None:
    assert decoder_for[ORDERS].decode(changed(colour="red")) == PLACED


@pytest.mark.parametrize(
    "fields",
    [
        {"amount": ...},
        {"amount": -1},
        {"amount": 1.5},
        {"amount": "3998"},
        {"amount": events.AMOUNT_MAX + 1},
        {"currency": "eur"},
        {"currency": "EUR\n"},
        {"items": []},
        {"items": [{"product_id": "sku-1", "quantity": 0, "unit_price": 1}]},
        {"items": [{"product_id": "sku-1", "quantity": 1, "unit_price": 10**9 + 1}]},
        {"items": [{"product_id": "sku\u0000", "quantity": 1, "unit_price": 1}]},
        {"customer_id": ""},
        {"customer_id": "x" * 65},
        {"customer_id": "cust-1\n"},
        {"order_id": "not-a-uuid"},
    ],
    ids=str,
)
def test_a_value_that_is_not_an_event_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        decoder_for[ORDERS].decode(changed(**fields))


def test_a_topic_takes_its_own_types_only() -> None:
    for topic in (PAYMENTS, INVENTORY):
        with pytest.raises(msgspec.ValidationError, match="Invalid value"):
            decoder_for[topic].decode(encode(PLACED))


def test_times_are_exact_to_the_millisecond() -> None:
    assert rfc3339(Milliseconds(999)) == "1970-01-01T00:00:00.999Z"
    assert rfc3339(Milliseconds(1_000)) == "1970-01-01T00:00:01.000Z"
    assert rfc3339(Milliseconds(AT)) == "2023-11-14T22:13:20.123Z"


@pytest.mark.parametrize("name", ["sequence", "version"])
def test_an_endless_number_is_refused(name: str) -> None:
    """It would make an id of thousands of characters, and could not be encoded again."""
    product = events.ProductData(
        product_id="sku-1", name="a thing", unit_price=1, currency="EUR", active=True, version=7_777
    )
    valid = encode(events.product_changed(product, at=AT))
    endless = valid.replace(f'"{name}":7777'.encode(), f'"{name}":{"7" * 400}'.encode())
    assert endless != valid
    assert decoder_for[events.PRODUCTS].decode(valid).data == product
    with pytest.raises(msgspec.ValidationError):
        decoder_for[events.PRODUCTS].decode(endless)


@pytest.mark.parametrize("kind", [events.OrderConfirmed, events.PaymentVoid, events.StockVoid, events.OrderPlaced])
@pytest.mark.parametrize("spoiled", ["cust 1", "cust-1 $EUR", "cust-1\n", "", "c\u00fcst", "x" * 65])
def test_an_invalid_name_is_refused(kind: type[events.Event], spoiled: str) -> None:
    """One pattern matches all texts of an event, but none may pass for two texts, or for another one."""
    data: dict[type[events.Event], events.OrderRef] = {
        events.OrderPlaced: PLACED.data,
        events.OrderConfirmed: events.OutcomeData(order_id=ORDER_ID, customer_id="cust-1"),
        events.PaymentVoid: events.PaymentData(order_id=ORDER_ID, customer_id="cust-1"),
        events.StockVoid: events.StockData(order_id=ORDER_ID, customer_id="cust-1", items=(events.Line("sku-1", 2),)),
    }
    valid = encode(make(kind, data[kind], at=AT, traceparent=""))
    assert decoder_for[kind.topic].decode(valid).data == data[kind]
    for name in (b"cust-1", b"sku-1"):
        wrong = valid.replace(b'"%b"' % name, msgspec.json.encode(spoiled))
        if wrong != valid:
            with pytest.raises(msgspec.ValidationError):
                decoder_for[kind.topic].decode(wrong)
