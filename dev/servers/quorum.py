"""Three brokers that are one Kafka, each of them a controller too.

A voter of the quorum is known by the id of its folder, not by its number alone (KIP-853). A broker that has lost its
folder is therefore a new voter: it reads what it lacks, and then joins by itself. With a fixed list of voters it could
vote as the one that it was, and elect a controller that lacks what it had acknowledged.
"""

import base64
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec

from common.files import locked, write
from dev.home import SEE_OPERATIONS
from dev.servers.server import StartError
from dev.settings import HOST

NODES: Final = 3
FILE: Final = "kafka-quorum.json"
"""In the stack's home: the ids of the Kafka and of its voters' folders, as they were made at the first start."""

REPLICATED: Final = {
    # Every record is on all three, and acknowledged when two have it. `ops.topics` sets the same by topic, as what a
    # broker has here counts only until somebody sets a default of the cluster.
    **dict.fromkeys(
        (
            "default.replication.factor",
            "offsets.topic.replication.factor",
            "transaction.state.log.replication.factor",
            "share.coordinator.state.topic.replication.factor",
        ),
        str(NODES),
    ),
    **dict.fromkeys(
        ("min.insync.replicas", "transaction.state.log.min.isr", "share.coordinator.state.topic.min.isr"),
        str(NODES - 1),
    ),
    # Rather no leader than one that lacks acknowledged records.
    "unclean.leader.election.enable": "false",
    # A copy that does not follow holds up every acknowledgement until it is out of the set: 30 s by default, longer
    # than a producer waits (10 s). One whose process is gone leaves with its session, after 4 s.
    "replica.lag.time.max.ms": "4000",
    # Leaders return to their own brokers this soon after those are back (default: 300 s).
    "leader.imbalance.check.interval.seconds": "30",
}

_Id = Annotated[str, msgspec.Meta(min_length=22, max_length=22)]


def new_id() -> str:
    """As Kafka makes its ids: base64 of a random UUID. The prefix keeps a dash from looking like an option."""
    return "T" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]


class Node(NamedTuple):
    """A broker: its number, and where it listens to clients, to controllers, and to clients with certificates."""

    number: int
    port: int
    controller_port: int
    certificates_port: int
    host: str = HOST
    """The name of this machine by which the other controllers find it."""

    @property
    def name(self) -> str:
        return f"kafka-{self.number}"


class _Ids(msgspec.Struct):
    cluster: _Id
    folders: dict[int, _Id]
    formed: list[int] = []
    """The brokers whose log was made once: one that has none has lost it."""


class Quorum:
    """What the brokers of one Kafka know of each other."""

    def __init__(self, home: Path, nodes: Sequence[Node]) -> None:
        """The ids are kept in `home`, and made when one is asked for."""
        self.home = home
        self.nodes = tuple(nodes)
        self._path = home / FILE

    @property
    def servers(self) -> str:
        """Where clients find it."""
        return ",".join(f"{HOST}:{node.port}" for node in self.nodes)

    @property
    def certificate_servers(self) -> str:
        """Where clients find it that show certificates."""
        return ",".join(f"{HOST}:{node.certificates_port}" for node in self.nodes)

    def options(self, number: int) -> dict[str, str]:
        """What a broker has in its configuration instead of what a single one has."""
        controllers = ",".join(f"{node.host}:{node.controller_port}" for node in self.nodes)
        return {
            "controller.quorum.bootstrap.servers": controllers,
            "controller.quorum.auto.join.enable": "true",
            "node.id": str(number),
            "broker.rack": f"rack-{number}",  # copies are spread over racks; here, each broker is one
            **REPLICATED,
        }

    def format_arguments(self, number: int) -> tuple[str, list[str]]:
        """The id of the Kafka, and how StorageTool makes a broker's log: as a voter from the beginning, or as one that
        joins when its log was lost. Raises `StartError`."""
        with locked(self.home):
            ids = self._ids()
        if number not in ids.formed:
            voters = (
                f"{node.number}@{node.host}:{node.controller_port}:{ids.folders[node.number]}" for node in self.nodes
            )
            return ids.cluster, ["--initial-controllers", ",".join(voters)]
        others = [node for node in self.nodes if node.number != number]
        if not any((self.home / node.name / "log/meta.properties").exists() for node in others):
            raise StartError(
                f"kafka-{number}: the logs of all brokers in {self.home} are gone: put them back, or 'just reset', "
                "which deletes all data"
            )
        return ids.cluster, ["--no-initial-controllers"]

    def formed(self, number: int) -> None:
        """Remember that a broker's log was made: a later one replaces one that was lost."""
        with locked(self.home):
            ids = self._ids()
            if number not in ids.formed:
                ids.formed.append(number)
                self._write(ids)

    def _ids(self) -> _Ids:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Ids)
        except FileNotFoundError:
            pass
        except (msgspec.DecodeError, OSError) as error:
            raise StartError(f"kafka: {self._path} is damaged ({error}); {SEE_OPERATIONS}") from error
        if left := next(iter(self.home.glob("kafka-?/log/meta.properties")), None):
            raise StartError(f"kafka: {self._path} is missing, and there is {left}; {SEE_OPERATIONS}")
        ids = _Ids(new_id(), {node.number: new_id() for node in self.nodes})
        self._write(ids)
        return ids

    def _write(self, ids: _Ids) -> None:
        write(self._path, msgspec.json.format(msgspec.json.encode(ids), indent=1).decode())
