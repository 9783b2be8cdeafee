"""The AsyncAPI document that the order api serves says how the broker's topics are, and who reads them."""

import httpx
from confluent_kafka import TopicCollection
from confluent_kafka.admin import ConfigResource  # type: ignore[attr-defined]

from common.asyncapi.document import document
from common.events import ORDERS, READS
from common.kafka import broker
from ops.contract.documents import as_json
from tests.stack import Stack
from tests.waiting import eventually


def test_the_order_api_serves_the_document_and_its_page(stack: Stack) -> None:
    def get(path: str) -> httpx.Response:
        answer = stack["order-api-1"].get(path)
        assert answer.status_code == 200, path
        return answer

    assert get("/asyncapi.json").json() == as_json(document())
    page = get("/asyncapi")
    assert "<asyncapi-viewer" in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert len(get("/asyncapi/asyncapi-viewer.iife.js").content) > 100_000


def test_the_topics_are_as_documented(stack: Stack) -> None:
    admin, channels = stack.admin, document()["channels"]
    topics = broker.describe(admin, channels)
    settings = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, name) for name in channels])
    of_topic = {resource.name: future.result() for resource, future in settings.items()}
    for name, channel in channels.items():
        described = channel["bindings"]["kafka"]
        assert topics[name].partitions == described["partitions"], name
        for setting, value in described["topicConfiguration"].items():
            text = ",".join(value) if isinstance(value, list) else str(value)
            assert of_topic[name][setting].value == text, (name, setting)


def test_the_id_of_a_topic_is_made_once(stack: Stack) -> None:
    """The client library never frees an id. A consumer describes its topics every few seconds, for months."""
    admin = stack.admin
    first, second = (admin.describe_topics(TopicCollection([ORDERS]))[ORDERS].result() for _ in range(2))
    assert second.topic_id is first.topic_id


def test_the_groups_read_the_documented_topics(stack: Stack) -> None:
    admin = stack.admin

    def topics_of(group: str) -> set[str]:
        [future] = admin.describe_consumer_groups([group]).values()
        members = future.result().members
        return {partition.topic for member in members for partition in member.assignment.topic_partitions}

    for operation in document()["operations"].values():
        group = operation.get("bindings", {}).get("kafka", {}).get("groupId", {}).get("enum", [None])[0]
        if group is not None:
            eventually(lambda g=group: topics_of(g) == set(READS[g]), f"{group} has its partitions")  # type: ignore[misc]
            assert operation["channel"]["$ref"].rpartition("/")[2] in READS[group]
