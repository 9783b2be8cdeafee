"""The network between a process and the broker or its database, by the proxies in between."""

import random
import threading
from collections.abc import Callable, Collection, Mapping
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


def cut(links: Collection[Proxy], _: Fault) -> AbstractContextManager[Witness]:
    """Connections break, and new ones are refused."""
    return _on_each(links, Proxy.cut, Proxy.restore, "cut")


@contextmanager
def reset(links: Collection[Proxy], fault: Fault) -> Injected:
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


def delay(links: Collection[Proxy], fault: Fault) -> AbstractContextManager[Witness]:
    delay_s = random.Random(fault.seed).uniform(*DELAYS_S)
    return _on_each(links, lambda link: link.slow(delay_s=delay_s), Proxy.slow, f"by {delay_s * 1000:.0f} ms")


def throttle(links: Collection[Proxy], fault: Fault) -> AbstractContextManager[Witness]:
    bytes_per_s = random.Random(fault.seed).randint(*BYTES_PER_S)
    effect = f"to {bytes_per_s / 1000:.0f} kB/s"
    return _on_each(links, lambda link: link.slow(bytes_per_s=bytes_per_s), Proxy.slow, effect)


def half_open(links: Collection[Proxy], _: Fault) -> AbstractContextManager[Witness]:
    """Connections stay open and new ones are accepted, but nothing arrives."""
    return _on_each(links, Proxy.silence, Proxy.speak, "silent")


@contextmanager
def _on_each(
    links: Collection[Proxy], trouble: Callable[[Proxy], None], heal: Callable[[Proxy], None], effect: str
) -> Injected:
    for link in links:
        trouble(link)
    try:
        yield lambda: effect
    finally:
        for link in links:
            heal(link)
