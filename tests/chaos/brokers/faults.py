"""What happens to the brokers. Each fault is a context: it begins on entering, and is healed on leaving."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from threading import Timer
from typing import Final, NamedTuple

from tests.chaos.brokers.arena import Arena, Peer
from tests.servers import start
from tests.waiting import eventually

CONTROLLER: Final = 0
"""Stands for whichever broker is the active controller."""
CAUGHT_UP_S: Final = 180.0
ALONE_S: Final = 30.0
EXPOSED_S: Final = 2.0
"""For so long orders come to a broker that alone is in sync."""
REPLACED_S: Final = 8.0
"""By then a broker that is gone has successors for all that it led."""

Inject = Callable[[Arena, list[Peer]], AbstractContextManager[None]]


class Fault(NamedTuple):
    """One fault. `targets` are numbers of brokers."""

    kind: str
    targets: tuple[int, ...]
    lasts_s: float

    def peers(self, arena: Arena) -> list[Peer]:
        return [arena.peers[target or arena.controller()] for target in self.targets]


@contextmanager
def kill(_: Arena, peers: list[Peer]) -> Iterator[None]:
    for peer in peers:
        peer.kill()
    try:
        yield
    finally:
        start(*peers)


@contextmanager
def freeze(_: Arena, peers: list[Peer]) -> Iterator[None]:
    for peer in peers:
        peer.pause()
    try:
        yield
    finally:
        for peer in peers:
            peer.resume()


@contextmanager
def cut_off(arena: Arena, peers: list[Peer]) -> Iterator[None]:
    """Nothing passes between it and the other brokers any more. Clients still reach it, and it goes on answering for
    what it led. A consumer that begins then may be told ends of the log that are below its positions."""
    links = [proxy for peer in peers for proxy in arena.links_of(peer.number)]
    for link in links:
        link.silence()

    def begin_anew() -> None:
        arena["payment-1"].stop()
        arena["payment-1"].launch()

    restart = Timer(REPLACED_S, begin_anew)
    restart.start()
    try:
        yield
    finally:
        restart.join()
        for link in links:
            link.speak()


@contextmanager
def wipe(_: Arena, peers: list[Peer]) -> Iterator[None]:
    """It is killed, and its disk is lost."""
    for peer in peers:
        peer.kill()
        shutil.rmtree(peer.directory)
    try:
        yield
    finally:
        start(*peers)


@contextmanager
def strand(arena: Arena, peers: list[Peer]) -> Iterator[None]:
    """The others cannot read its records any more, until it alone is in sync. Then it is killed, and its disk is lost:
    what it has acknowledged meanwhile is nowhere else."""
    links = [link for peer in peers for link in arena.readers_of(peer.number)]
    for link in links:
        link.silence()
    try:
        eventually(lambda: all(arena.is_alone(peer.number) for peer in peers), "nobody has its newest records", ALONE_S)
        time.sleep(EXPOSED_S)
        for peer in peers:
            peer.kill()
            shutil.rmtree(peer.directory)
    finally:
        for link in links:
            link.speak()
    try:
        yield
    finally:
        start(*peers)


@contextmanager
def roll(arena: Arena, peers: list[Peer]) -> Iterator[None]:
    """Each is restarted as for an upgrade, when the one before it has caught up."""
    for peer in peers:
        peer.stop()
        peer.start()
        await_copies(arena)
    yield


def await_copies(arena: Arena) -> None:
    """Wait until every copy of every partition is in sync."""
    eventually(
        lambda: arena.missing_copies() == 0, "all copies are in sync", CAUGHT_UP_S, last_words=arena.missing_copies
    )


INJECT: Final[dict[str, Inject]] = {
    "kill": kill,
    "freeze": freeze,
    "cut-off": cut_off,
    "wipe": wipe,
    "strand": strand,
    "roll": roll,
}
PLAN: Final = (
    *(Fault("kill", (number,), 10) for number in (1, 2, 3)),
    Fault("kill", (CONTROLLER,), 10),
    *(Fault("freeze", (number,), 12) for number in (1, 2, 3)),
    Fault("freeze", (CONTROLLER,), 12),
    Fault("cut-off", (1,), 15),
    Fault("cut-off", (CONTROLLER,), 15),
    Fault("wipe", (2,), 5),
    Fault("strand", (CONTROLLER,), 5),
    Fault("roll", (1, 2, 3), 0),
    Fault("kill", (2, 3), 15),
)
"""In this order: it is not drawn from a seed, because each row is a statement."""
