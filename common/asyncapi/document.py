"""The AsyncAPI 3.0 document, made from the types of the events and the settings that the topics must have.

Nothing about an event or a topic is said here a second time. References: AsyncAPI 3.0.0, its Kafka bindings 0.5.0.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final

import msgspec

from common.asyncapi.examples import example
from common.codec import encode
from common.config.kafka import TOPIC_PARTITIONS
from common.events import (
    DEPOSITS,
    INVENTORY,
    ORDERS,
    OUTCOMES,
    PAYMENTS,
    PRODUCTS,
    RECEIVES,
    RESTOCKS,
    SENDS,
    TOPICS_OF,
    Event,
    Identifier,
    OrderConfirmed,
    type_of,
)
from common.http.contract.schemas import Schemas
from common.kafka.settings import partitions_of, wanted

VERSION: Final = "1"
CLOUD_EVENT: Final = "application/cloudevents+json"
_BINDING: Final = {"bindingVersion": "0.5.0"}
_KEY: Final = Schemas([Identifier]).of(Identifier)
_CHANNELS: Final[Mapping[str, tuple[str, str]]] = {
    ORDERS: (
        "customer",
        "The orders, what may cancel them, and what tells payment and inventory to undo their parts.",
    ),
    OUTCOMES: ("customer", "What became of each order: all that most readers need."),
    PAYMENTS: ("customer", "What payment has done about each order."),
    INVENTORY: ("customer", "What inventory has done about each order."),
    PRODUCTS: ("product", "The catalogue: the last event of a product is the product as it is."),
    DEPOSITS: ("customer", "The deposits that were made over HTTP. Nobody decides by them: they restore accounts."),
    RESTOCKS: ("product", "The pieces that were restocked over HTTP. Nobody decides by them: they restore stock."),
}
"""By topic: whose id is the key of its records, and what the topic is for."""
_FORMERLY: Final = (ORDERS, OrderConfirmed)
"""What a topic has from versions before the contract's v3, and gets no more."""
_ABOUT: Final = """\
The events of Tandem, as the topics have them.

A record's value is one JSON document, a CloudEvents 1.0 event in structured form. Its key is the event's `partitionkey`
in UTF-8, and chooses the partition as Java's client does (murmur2), so all events of a customer are in one partition,
in order. Results have the partition number that their order has. The number of partitions below is the default: an
installation keeps the one that its topics were created with. Records have no headers. The time of a record is the
broker's.

An event may come more than once, always with the same `id`: keep the ids, or make what you do idempotent by `subject`.
Ignore fields that you do not know. The outcomes of an order are `order.confirmed`, `order.rejected` and
`order.cancelled`, in the topic `outcomes`; a confirmed order may still be cancelled. `orders` has the last two as
well, the same events with the same `id`. What was decided before the contract's v3 is in `orders` alone.

Read with a consumer group of your own, named unlike those below. Write to no topic: a record that is not an event of
its topic is parked, and the later events of its key wait behind it.
"""


@cache
def document() -> dict[str, Any]:
    """The document, as JSON's own types."""
    kinds = {type_of(kind): kind for sent in SENDS.values() for kind in sent}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Tandem events", "version": VERSION, "description": _ABOUT},
        "defaultContentType": CLOUD_EVENT,
        "servers": {
            "kafka": {
                "host": "{broker}",
                "protocol": "kafka",
                "description": "The broker, without authentication.",
                "variables": {"broker": {"default": "127.0.0.1:9092", "description": "KAFKA_BOOTSTRAP_SERVERS"}},
            }
        },
        "channels": {topic: _channel(topic, kinds) for topic in _CHANNELS},
        "operations": {
            **{f"{service}-sends-to-{topic}": _send(service, topic) for service, topic in _senders()},
            **{
                f"{service}-receives-from-{topic}": _receive(service, topic)
                for service, topics in RECEIVES.items()
                for topic in topics
            },
        },
        "components": {
            "messages": {name: _message(name, kind) for name, kind in kinds.items()},
            "schemas": Schemas(kinds.values()).components,
        },
    }


def _channel(topic: str, kinds: Mapping[str, type[Event]]) -> dict[str, Any]:
    _, purpose = _CHANNELS[topic]
    return {
        "address": topic,
        "title": topic,
        "description": purpose,
        "messages": {
            name: {"$ref": f"#/components/messages/{name}"}
            for name, kind in kinds.items()
            if topic in TOPICS_OF[kind] or (topic, kind) == _FORMERLY
        },
        "bindings": {
            "kafka": {
                "topic": topic,
                "partitions": partitions_of(topic, TOPIC_PARTITIONS),
                "topicConfiguration": {name: _typed(name, text) for name, text in wanted(topic, 0).items()},
                **_BINDING,
            }
        },
    }


def _typed(setting: str, text: str) -> object:
    """A topic's setting as the Kafka binding has it."""
    if setting == "cleanup.policy":
        return text.split(",")
    return int(text) if text.removeprefix("-").isdecimal() else text


def _senders() -> Iterable[tuple[str, str]]:
    return [
        (service, topic)
        for service, kinds in SENDS.items()
        for topic in dict.fromkeys(topic for kind in kinds for topic in TOPICS_OF[kind])
    ]


def _send(service: str, topic: str) -> dict[str, Any]:
    names = [type_of(kind) for kind in SENDS[service] if topic in TOPICS_OF[kind]]
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{topic}"},
        "summary": f"{service} publishes {', '.join(names)}",
        "tags": [{"name": service}],
        "messages": [{"$ref": f"#/channels/{topic}/messages/{name}"} for name in names],
    }


def _receive(service: str, topic: str) -> dict[str, Any]:
    """Without `messages`: a reader gets all that the channel has."""
    operation = {
        "action": "receive",
        "channel": {"$ref": f"#/channels/{topic}"},
        "tags": [{"name": service}],
    }
    if topic == PRODUCTS:
        return {**operation, "summary": f"every instance of {service} reads all of {topic}, in no consumer group"}
    group = {"groupId": {"type": "string", "enum": [service]}, **_BINDING}
    return {
        **operation,
        "summary": f"{service} reads {topic}; its instances share the partitions",
        "bindings": {"kafka": group},
    }


def _message(name: str, kind: type[Event]) -> dict[str, Any]:
    whose, _ = _CHANNELS[kind.topic]
    return {
        "name": name,
        "title": name,
        "summary": " ".join((kind.__doc__ or "").split()),
        "contentType": CLOUD_EVENT,
        "correlationId": {"location": "$message.payload#/subject", "description": "the order, or the product"},
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
        "bindings": {"kafka": {"key": {**_KEY, "description": f"the id of the {whose}"}, **_BINDING}},
        "examples": [{"name": name, "payload": msgspec.json.decode(encode(example(kind)))}],
    }
