"""Compares two AsyncAPI documents: older readers must read what is written now, and today's readers all old logs."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ops.contract.change import Change, of_properties, of_the_rest, of_what_is_written
from ops.contract.schemas import Document, Rooted, allowed_only_by, pointed_at

READERS: Final = "readers of the older version"
REPLAY: Final = "the replay of an old log"
# What is compared of each kind of node.
_DOCUMENT: Final = frozenset({"asyncapi", "info", "channels", "operations", "components"})
_CHANNEL: Final = frozenset({"address", "messages", "bindings"})
_MESSAGE: Final = frozenset({"name", "contentType", "payload", "bindings"})
_OPERATION: Final = frozenset({"action", "channel", "messages"})


def changes(old: Document, new: Document) -> Iterator[Change]:
    """What the newer document changes."""
    yield from breaks_of_replay(old, new)
    yield from of_the_rest(old, new, "", _DOCUMENT, READERS)
    for name, channel in new["channels"].items():
        if name not in old["channels"]:
            yield Change(f"topic {name}", "is new")
            continue
        for message in channel["messages"].keys() - old["channels"][name]["messages"].keys():
            yield Change(f"topic {name}: {message}", "is new; a reader that does not know it parks it", READERS)
    for name, message in _messages(old).items():
        if name in _messages(new):
            schemas = _payload(message, old), _payload(_messages(new)[name], new)
            yield from of_what_is_written(*schemas, name, READERS)
            yield from (change for change in of_properties(*schemas, name, READERS) if not change.breaks)
            yield from of_the_rest(message, _messages(new)[name], name, _MESSAGE, READERS)
    yield from _of_operations(old, new)


def breaks_of_replay(old: Document, new: Document) -> Iterator[Change]:
    """What keeps today's readers from reading what the older version has written. The topics themselves count too."""
    for name, channel in old["channels"].items():
        where = f"topic {name}"
        if name not in new["channels"]:
            yield Change(where, "is gone", f"{READERS}, and {REPLAY}")
            continue
        now = new["channels"][name]
        yield from of_the_rest(channel, now, where, _CHANNEL, READERS)
        before, after = _settings(channel), _settings(now)
        for setting in before | after:
            if before.get(setting) != after.get(setting):
                change = f"{setting} is {after.get(setting)}, it was {before.get(setting)}"
                yield Change(where, change, f"{READERS}, and {REPLAY}")
        for message in channel["messages"].keys() - now["messages"].keys():
            yield Change(f"{where}: {message}", "is gone", f"{READERS}, and {REPLAY}")
    for name, message in _messages(old).items():
        if name in _messages(new):
            now = _messages(new)[name]
            schemas = _payload(message, old), _payload(now, new)
            for path, values in allowed_only_by(*schemas):
                yield Change(f"{name}: {path}", f"{values} is no longer read", REPLAY)
            # What is gone from the schema is not read any more, although the log has it.
            properties = of_properties(*schemas, name, f"{READERS}, and {REPLAY}")
            yield from (change for change in properties if change.breaks)
            if message["contentType"] != now["contentType"]:
                what = f"the content type is {now['contentType']}, it was {message['contentType']}"
                yield Change(name, what, f"{READERS}, and {REPLAY}")
            if _key(message) != _key(now):
                yield Change(name, f"the key is {_key(now)}, it was {_key(message)}", f"{READERS}, and {REPLAY}")


def _messages(document: Document) -> Mapping[str, Any]:
    messages: Mapping[str, Any] = document["components"]["messages"]
    return messages


def _payload(message: Mapping[str, Any], document: Document) -> Rooted:
    return Rooted(message["payload"], document)


def _key(message: Mapping[str, Any]) -> Mapping[str, Any]:
    key: Mapping[str, Any] = message["bindings"]["kafka"]["key"]
    return key


def _settings(channel: Mapping[str, Any]) -> dict[str, Any]:
    """The topic's name, partitions and settings."""
    kafka = channel["bindings"]["kafka"]
    return {
        "the topic's name": channel["address"],
        "the number of partitions": kafka["partitions"],
        **kafka["topicConfiguration"],
    }


def _of_operations(old: Document, new: Document) -> Iterator[Change]:
    """Who publishes and who reads."""
    before, after = (
        {
            (name, reference): operation["action"]
            for name, operation in document["operations"].items()
            for reference in _sent(operation, document)
        }
        for document in (old, new)
    )
    for name, operation in old["operations"].items():
        yield from of_the_rest(operation, new["operations"].get(name, operation), name, _OPERATION, READERS)
    for (name, message), action in before.items():
        if (name, message) not in after:
            yield Change(name, f"no longer {action}s {message}", READERS if action == "send" else "")
    for (name, message), action in after.items():
        if (name, message) not in before:
            yield Change(name, f"{action}s {message} now")


def _sent(operation: Mapping[str, Any], document: Document) -> list[str]:
    """The events of an operation; all of its topic when it names none."""
    named = [message["$ref"] for message in operation.get("messages", [])]
    references = named or pointed_at(document, operation["channel"]["$ref"])["messages"]
    return [reference.rpartition("/")[2] for reference in references]
