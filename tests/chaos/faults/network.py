"""The network between a process and the broker or its database, by the proxies in between."""

import random
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from tests.chaos.arena import Arena
from tests.chaos.faults.fault import Inject, Injected, Witness, meanwhile
from tests.chaos.schedule import Fault
from tests.proxy import Proxy

RESET_EVERY_S: Final = (0.1, 1.0)
DELAYS_S: Final = (0.01, 0.3)
BYTES_PER_S: Final = (4_000, 60_000)

Trouble = Callable[[list[Proxy], Fault], AbstractContextManager[Witness]]


def to_databases(trouble: Trouble) -> Inject:
    return lambda arena, fault: trouble(_links(arena, arena.database_links, fault.target), fault)


def to_kafka(trouble: Trouble) -> Inject:
    return lambda arena, fault: trouble(_links(arena, arena.kafka_links, fault.target), fault)


def to_both(trouble: Trouble) -> Inject:
    def inject(arena: Arena, fault: Fault) -> AbstractContextManager[Witness]:
        both = (arena.database_links, arena.kafka_links)
        return trouble([link for links in both for link in _links(arena, links, fault.target)], fault)

    return inject


def _links(arena: Arena, links: Mapping[str, Proxy], target: str) -> list[Proxy]:
    return [links[instance.name] for instance in arena.named(target) if instance.name in links]


@contextmanager
def cut(links: Iterable[Proxy], _: Fault) -> Injected:
    """Nobody there: connections break, new ones are refused."""
    for link in links:
        link.cut()
    try:
        yield lambda: "cut"
    finally:
        for link in links:
            link.restore()


@contextmanager
def reset(links: Iterable[Proxy], fault: Fault) -> Injected:
    """Connections break again and again, and can be made anew at once."""
    draw = random.Random(fault.seed)
    times = 0

    def act(over: threading.Event) -> None:
        nonlocal times
        while not over.wait(draw.uniform(*RESET_EVERY_S)):
            times += 1
            for link in links:
                link.reset()

    with meanwhile(act):
        yield lambda: f"{times} times" if times else ""


@contextmanager
def delay(links: Iterable[Proxy], fault: Fault) -> Injected:
    delay_s = random.Random(fault.seed).uniform(*DELAYS_S)
    with _slow(links, delay_s=delay_s):
        yield lambda: f"by {delay_s * 1000:.0f} ms"


@contextmanager
def throttle(links: Iterable[Proxy], fault: Fault) -> Injected:
    bytes_per_s = random.Random(fault.seed).randint(*BYTES_PER_S)
    with _slow(links, bytes_per_s=bytes_per_s):
        yield lambda: f"to {bytes_per_s / 1000:.0f} kB/s"


@contextmanager
def half_open(links: Iterable[Proxy], _: Fault) -> Injected:
    """Connections stay, and new ones come about, but nothing arrives."""
    for link in links:
        link.silence()
    try:
        yield lambda: "silent"
    finally:
        for link in links:
            link.speak()


@contextmanager
def _slow(links: Iterable[Proxy], *, delay_s: float = 0.0, bytes_per_s: int = 0) -> Injected:
    for link in links:
        link.slow(delay_s=delay_s, bytes_per_s=bytes_per_s)
    try:
        yield lambda: ""
    finally:
        for link in links:
            link.slow()
