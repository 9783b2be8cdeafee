"""`python -m ops.chart`: writes what the charts in `deploy/` take from the code.

That is topics and their settings, Kafka's users and their rights, what each consumer reads, and Prometheus' rules.

Helm reads files of its chart only, so they are copies. A test compares them with what this module makes.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final

from common.events import READS, TOPICS
from common.kafka import access, settings
from ops import tool
from ops.observe import files, rules
from ops.observe.__main__ import write
from ops.observe.scrape import DATABASE_OF

PLATFORM: Final = "deploy/platform/made/kafka.yaml"
READERS: Final = "deploy/tandem/made/reads.yaml"
RULES: Final = "deploy/tandem/made/rules.yaml"
MADE: Final = "# Made by `python -m ops.chart` from the code; do not change it here.\n"
USERS: Final = tuple(user for user in access.USERS if user != access.WARM_UP)
"""The native stack alone warms its broker up."""
EVERYWHERE: Final = ("console", "migrate")
"""The pods that connect to all databases."""
_KINDS: Final = {"TOPIC": "topic", "GROUP": "group", "TRANSACTIONAL_ID": "transactionalId", "BROKER": "cluster"}
_OPERATIONS: Final = {"DESCRIBE_CONFIGS": "DescribeConfigs"}


def texts() -> dict[str, str]:
    """Every made file, by its path from the root, and what it must hold."""
    contents = {
        PLATFORM: {"topics": topics(), "users": {user: acls(user) for user in USERS}, "databases": databases()},
        READERS: {group: list(read) for group, read in sorted(READS.items())},
        RULES: rules.rules(),
    }
    return {path: MADE + files.yaml(content) for path, content in contents.items()}


def topics() -> dict[str, Any]:
    """Each topic's settings, but for those that follow from how many brokers there are."""
    return {
        topic: {"one_partition": settings.partitions_of(topic, 2) == 1, "config": settings.wanted(topic, replicas=0)}
        for topic in TOPICS
    }


def acls(user: str) -> list[dict[str, Any]]:
    """The rights of a user as Strimzi's KafkaUser has them: one entry a resource."""
    entries = []
    for (kind, name, prefixed), rights in groupby(
        sorted(access.rights_of(user)), lambda r: (r.kind, r.name, r.prefixed)
    ):
        pattern = "prefix" if prefixed else "literal"
        resource = {"type": _KINDS[kind]} | ({} if kind == "BROKER" else {"name": name, "patternType": pattern})
        operations = [_OPERATIONS.get(r.operation, r.operation.capitalize()) for r in rights]
        entries.append({"resource": resource, "operations": operations, "host": access.ANY})
    return entries


def databases() -> dict[str, list[str]]:
    """The pods that connect to each database."""
    services = {name: [s for s, database in DATABASE_OF.items() if database == name] for name in tool.GROUP_OF}
    return {name: [*connected, *EVERYWHERE] for name, connected in services.items()}


def main(_: Sequence[str]) -> int:
    for path in write({files.ROOT / path: text for path, text in texts().items()}):
        print(path.relative_to(files.ROOT))
    return 0


if __name__ == "__main__":
    tool.run(main)
