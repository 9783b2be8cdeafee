"""The AsyncAPI document says what the code does: by the official schema, the codec, the publishers, and an old log."""

import ast
import copy
import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import msgspec
import pytest
from jsonschema_rs import Draft7Validator

from common.asyncapi.document import document
from common.codec import decoded, decoder_for
from common.events import (
    COUNT_MAX,
    RECEIVES,
    SENDS,
    TOPICS_OF,
    AccountDeposited,
    Event,
    ProductChanged,
    ProductRestocked,
    type_of,
)
from ops.contract.schemas import pointed_at
from tests.documented import DocumentCheck, payload_validator
from tests.golden.archive import load

ROOT: Final = Path(__file__).parents[2]
OFFICIAL: Final = ROOT / "tests/unit/vendor/asyncapi-3.0.0.json"
CHANNELS: Final = document()["channels"]
MESSAGES: Final = document()["components"]["messages"]
FOLDERS: Final = {
    "order-api": "order/api",
    "order-saga": "order/saga",
    "payment": "payment",
    "inventory": "inventory",
}
SPOILT: Final[tuple[Any, ...]] = (
    None, True, 0, -1, 1, 1.5, COUNT_MAX, COUNT_MAX + 1, 10**9 + 1, "", "x", "x" * 65, "x" * 257, "EUR", "eur", "EUR\n",
    "cust 1", "cust-1\n", "c\u00fcst", "01997c5e-0000-7000-8000-000000000001", "01997C5E-0000-7000-8000-000000000001",
    "order.placed", "order.discarded", "payment.void", "1.0", "2.0", "customer", "bored", [], {}, [1], [{}],
)  # fmt: skip
"""Values to put in the place of each property. `Ellipsis` takes it out."""

UNLIKE: Final = {
    (name, *spoilt)
    for name in ("product.changed", "product.restocked", "account.deposited")
    for spoilt in (
        (("type",), ...),  # msgspec does without the type where it can be no other
        (("traceparent",), "EUR\n"),  # matched for orders only: these have no trace
        (("traceparent",), "c\u00fcst"),
        (("traceparent",), "cust-1\n"),
    )
}
"""What the codec takes and the document does not. All of it is written by one service alone."""


def test_the_official_schema_takes_the_document() -> None:
    official = Draft7Validator(json.loads(OFFICIAL.read_bytes()))
    as_json = json.loads(json.dumps(document()))
    assert [f"{list(error.instance_path)}: {error.message[:200]}" for error in official.iter_errors(as_json)] == []
    del as_json["channels"]["orders"]["messages"]["order.placed"]["$ref"]
    as_json["operations"]["payment-sends-to-payments"]["action"] = "publish"
    assert not official.is_valid(as_json)


def test_every_reference_leads_somewhere() -> None:
    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"]
            for below in node.values():
                yield from references(below)
        elif isinstance(node, list):
            for below in node:
                yield from references(below)

    for reference in set(references(document())):
        pointed_at(document(), reference)


def paths(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if path:
        yield path
    if isinstance(value, dict):
        for name, below in value.items():
            yield from paths(below, (*path, name))
    elif isinstance(value, list):
        for number, below in enumerate(value):
            yield from paths(below, (*path, number))


def put(event: dict[str, Any], path: tuple[str | int, ...], value: Any) -> Any:
    changed: Any = copy.deepcopy(event)
    *way, last = path
    inner = changed
    for step in way:
        inner = inner[step]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return changed


@pytest.mark.parametrize(
    ("topic", "name"), [(topic, name) for topic, channel in CHANNELS.items() for name in channel["messages"]]
)
def test_the_document_takes_what_the_codec_takes(topic: str, name: str) -> None:
    """The example of each event, and each with one value changed."""
    described = payload_validator(*(MESSAGES[m]["payload"]["$ref"] for m in document()["channels"][topic]["messages"]))
    [example] = MESSAGES[name]["examples"]
    taken = []
    for path in paths(example["payload"]):
        for value in (*SPOILT, ...):
            if not isinstance(value, list | dict) and (name, path, value) in UNLIKE:
                continue
            changed = put(example["payload"], path, value)
            by_codec = decoded(decoder_for[topic].decode, msgspec.json.encode(changed)) is not None
            assert described.is_valid(changed) == by_codec, (path, value)
            taken.append(by_codec)
    assert True in taken
    assert False in taken
    event = decoder_for[topic].decode(msgspec.json.encode(example["payload"]))
    assert type_of(event) == name
    assert json.loads(msgspec.json.encode(event)) == example["payload"], "the example has every field"


def modules_of(folder: str) -> Iterator[ModuleType]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        if path.name != "__main__.py":
            name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
            yield importlib.import_module(name)


def kinds_made_by(module: ModuleType) -> Iterator[type[Event]]:
    """What the module passes to `make`, an event's type or a table of them, or makes by a function of its own. A
    variable stands for every type that a table of the module names."""
    made_by: dict[str, type[Event]] = {
        "product_changed": ProductChanged,
        "account_deposited": AccountDeposited,
        "product_restocked": ProductRestocked,
    }
    makes = [
        call
        for call in ast.walk(ast.parse(Path(module.__file__ or "").read_text()))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in ("make", *made_by)
    ]
    for call in makes:
        if isinstance(call.func, ast.Name) and call.func.id in made_by:
            yield made_by[call.func.id]
            continue
        named = call.args[0].value if isinstance(call.args[0], ast.Subscript) else call.args[0]
        assert isinstance(named, ast.Name), f"{module.__name__}: make({ast.unparse(call.args[0])})"
        made = getattr(module, named.id, None)
        if isinstance(made, type):
            yield made
        elif made is not None:
            yield from made.values()
        else:
            for table in vars(module).values():
                if isinstance(table, dict) and all(
                    isinstance(v, type) and issubclass(v, Event) for v in table.values()
                ):
                    yield from table.values()


@pytest.mark.parametrize("service", SENDS)
def test_each_service_sends_what_it_is_said_to_send(service: str) -> None:
    made = {kind for module in modules_of(FOLDERS[service]) for kind in kinds_made_by(module)}
    assert {type_of(kind) for kind in made} == {type_of(kind) for kind in SENDS[service]}


def test_operations_are_those_of_the_services() -> None:
    operations = {
        (name.partition("-sends-to-")[0].partition("-receives-from-")[0], operation["action"], channel(operation))
        for name, operation in document()["operations"].items()
    }
    sent = {(service, "send", topic) for service, kinds in SENDS.items() for kind in kinds for topic in TOPICS_OF[kind]}
    received = {(service, "receive", topic) for service, topics in RECEIVES.items() for topic in topics}
    assert operations == sent | received


def test_a_reader_is_told_where_each_event_of_an_order_comes() -> None:
    """As a person would say it: this is what the readers of `orders` and `outcomes` rely on."""
    operations = document()["operations"]

    def sent_by(service: str, topic: str) -> set[str]:
        messages = operations[f"{service}-sends-to-{topic}"]["messages"]
        return {message["$ref"].rpartition("/")[2] for message in messages}

    undoing = {"order.rejected", "order.cancelled"}
    assert sent_by("order-api", "orders") == {"order.placed", "order.cancel_requested"}
    assert sent_by("order-saga", "orders") == {"order.deadline_passed", *undoing}
    assert sent_by("order-saga", "outcomes") == {"order.confirmed", *undoing}
    assert set(CHANNELS["outcomes"]["messages"]) == sent_by("order-saga", "outcomes")
    # Older logs have confirmations there.
    everything = {"order.confirmed", *sent_by("order-api", "orders"), *sent_by("order-saga", "orders")}
    assert set(CHANNELS["orders"]["messages"]) == everything
    assert not [name for name in operations if name.endswith("-receives-from-outcomes")]


def channel(operation: dict[str, Any]) -> str:
    reference: str = operation["channel"]["$ref"]
    return reference.rpartition("/")[2]


def test_every_record_of_the_golden_log_is_as_documented() -> None:
    check = DocumentCheck()
    for record in load().records():
        check.see(record.topic, f"{record.topic}/{record.partition}@{record.offset}", record.key, record.value)
        assert record.headers == 0
    assert check.wrong == []
    assert check.others == len(load().said), "each version has one order that was typed by hand"


def test_a_record_that_is_not_as_documented_is_found() -> None:
    value = msgspec.json.encode(MESSAGES["order.placed"]["examples"][0]["payload"])
    check = DocumentCheck()
    check.see("orders", "here", b"another", value)
    assert check.wrong == ["here: the key b'another' is not as the document says"]
    check._values["orders"] = Draft7Validator(False)
    check.see("orders", "here", b"cust-000001", value)
    assert "the document does not" in check.wrong[-1]
