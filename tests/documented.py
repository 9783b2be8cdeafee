"""Compares the records of the log with the AsyncAPI document."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from jsonschema_rs import Draft7Validator

from common.asyncapi.document import document
from common.codec import decoded, decoder_for
from common.config.kafka import Brokers
from common.events import TOPICS
from ops.contract.schemas import Rooted
from ops.log import Log

_EMPTY: Final = dict.fromkeys(("inventory.rejected", "inventory.void"), "data.items[].")
"""Lists that are always empty, so that nothing in them can occur."""
_DRAFT: Final = {"$schema": "http://json-schema.org/draft-07/schema#"}


def payload_validator(*references: str) -> Draft7Validator:
    """Validates a value against any of the schemas that the references lead to."""
    return Draft7Validator(
        {**_DRAFT, "anyOf": [{"$ref": r} for r in references], "components": document()["components"]}
    )


class DocumentCheck:
    """Every event that the codec reads must be one that the document describes, and the other way round."""

    def __init__(self) -> None:
        described = document()
        self._values: dict[str, Draft7Validator] = {}
        self._keys: dict[str, Draft7Validator] = {}
        self._properties: dict[str, set[str]] = {}
        for topic, channel in described["channels"].items():
            messages = [described["components"]["messages"][name] for name in channel["messages"]]
            self._values[topic] = payload_validator(*(message["payload"]["$ref"] for message in messages))
            for message in messages:
                self._keys[message["name"]] = Draft7Validator({**_DRAFT, **message["bindings"]["kafka"]["key"]})
                self._properties[message["name"]] = {
                    path for path, _ in Rooted(message["payload"], described).properties()
                }
        self.events: Counter[str] = Counter()
        self.others = 0
        """Records that are no events of their topic."""
        self.wrong: list[str] = []

    def see(self, topic: str, where: str, key: bytes | None, value: bytes | None) -> None:
        """Note a record, and in `wrong` what the document says otherwise."""
        event: Any = decoded(decoder_for[topic].decode, value)
        payload: Any = decoded(msgspec.json.decode, value)
        if self._values[topic].is_valid(payload) != (event is not None):
            judged = "is no event of" if event is None else "is an event of"
            self.wrong.append(f"{where}: the codec says that it {judged} {topic!r}, the document does not: {value!r}")
        if event is None:
            self.others += 1
            return
        name = payload["type"]
        self.events[name] += 1
        self._properties[name] -= set(_present(payload))
        if key is None or not self._keys[name].is_valid(key.decode()) or key.decode() != event.partitionkey:
            self.wrong.append(f"{where}: the key {key!r} is not as the document says")

    def unseen(self) -> list[str]:
        """The events that did not occur so far, and the properties that no event had."""
        absent = [name for name in self._properties if name not in self.events]
        return absent + [
            f"{name}: {path}"
            for name, paths in self._properties.items()
            for path in sorted(paths)
            if name in self.events and not path.startswith(_EMPTY.get(name, " "))
        ]


def check_log(brokers: Brokers) -> DocumentCheck:
    """All records of all topics."""
    log, check = Log(brokers, "documented"), DocumentCheck()
    for message in log.read(log.bounds(TOPICS)):
        topic = message.topic() or ""
        check.see(topic, f"{topic}/{message.partition()}@{message.offset()}", message.key(), message.value())
    return check


def _present(value: Any, path: str = "") -> Iterator[str]:
    """Each property of a value, also one that is null."""
    if isinstance(value, dict):
        for name, below in value.items():
            yield f"{path}{name}"
            yield from _present(below, f"{path}{name}.")
    elif isinstance(value, list):
        for below in value:
            yield from _present(below, f"{path.removesuffix('.')}[].")
