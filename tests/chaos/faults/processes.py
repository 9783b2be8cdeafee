"""Processes that are killed, frozen, multiplied, or run with a wrong clock or group."""

import random
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from confluent_kafka import Consumer, TopicPartition

from common.kafka.clients import client_config
from dev.servers.server import Server
from dev.settings import SERVICES
from tests.chaos.arena import Arena
from tests.chaos.faults.fault import Injected, meanwhile, rises
from tests.chaos.schedule import SERVERS, Fault
from tests.waiting import eventually

STUTTER_STOPPED_S: Final = 0.18
STUTTER_RUNNING_S: Final = 0.02
CATCH_S: Final = 20.0
STORM_EVERY_S: Final = 1.5
JOIN_S: Final = 8.0
HOUR_S: Final = 3_600
WRONG_CLOCKS_S: Final = (-30 * 24 * HOUR_S, -HOUR_S, HOUR_S, 30 * 24 * HOUR_S)
IMPOSTOR: Final = 9
ODD: Final = ("-m", "tests.chaos.odd")
_IN_TRANSACTION: Final = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = %s AND xact_start IS NOT NULL AND state IN ('idle in transaction', 'active')
"""


def server(arena: Arena, name: str) -> Server:
    return arena.postgres if name == "postgres" else arena.kafka


def _hit(arena: Arena, fault: Fault) -> Sequence[Server]:
    return [server(arena, fault.target)] if fault.target in SERVERS else arena.named(fault.target)


@contextmanager
def kill(arena: Arena, fault: Fault) -> Injected:
    hit = arena.named(fault.target)
    for instance in hit:
        instance.kill()
    try:
        yield lambda: f"{len(hit)} killed"
    finally:
        for instance in hit:
            instance.launch()


@contextmanager
def kill_server(arena: Arena, fault: Fault) -> Injected:
    server(arena, fault.target).kill()
    try:
        yield lambda: "killed"
    finally:
        server(arena, fault.target).start()


@contextmanager
def freeze(arena: Arena, fault: Fault) -> Injected:
    with ExitStack() as healing:
        for process in _hit(arena, fault):
            process.pause()
            healing.callback(process.resume)
        yield lambda: "frozen"


@contextmanager
def freeze_in_transaction(arena: Arena, fault: Fault) -> Injected:
    """The process is frozen while it has rows locked. The database shows, after the stop, that it has."""
    [instance] = arena.named(fault.target)
    caught = False
    try:
        with arena.postgres.connect() as watcher:
            until = time.monotonic() + CATCH_S
            while not caught and time.monotonic() < until:
                instance.pause()
                row = watcher.execute(_IN_TRANSACTION, (instance.name,)).fetchone()
                caught = row is not None and row[0] > 0
                if not caught:
                    instance.resume()
                    time.sleep(0.003)
        yield lambda: "in a transaction" if caught else ""
    finally:
        instance.resume()


@contextmanager
def stutter(arena: Arena, fault: Fault) -> Injected:
    """The process runs for a tenth of the time, in slices of 200 ms."""
    [hit] = _hit(arena, fault)

    def act(over: threading.Event) -> None:
        while not over.wait(STUTTER_RUNNING_S):
            hit.pause()
            over.wait(STUTTER_STOPPED_S)
            hit.resume()

    with meanwhile(act):
        yield lambda: "a tenth of the time"


@contextmanager
def rebalance_storm(arena: Arena, fault: Fault) -> Injected:
    """One instance, three, one, three: some leave the group in order, some are killed."""
    draw = random.Random(fault.seed)
    service = fault.target
    changes = 0

    def act(over: threading.Event) -> None:
        nonlocal changes
        while not over.is_set():
            for number in (2, 3):
                if number == 3 or changes:
                    arena.launch(service, number)
            joining = time.monotonic() + JOIN_S
            while arena[f"{service}-3"].unready() is not None and time.monotonic() < joining:
                over.wait(0.1)
            for number in (2, 3):
                leave = arena[f"{service}-{number}"]
                leave.stop() if draw.random() < 0.5 else leave.kill()
            changes += 1
            over.wait(draw.uniform(0, STORM_EVERY_S))
        arena.launch(service, 2)
        del arena.instances[f"{service}-3"]

    with meanwhile(act):
        yield lambda: f"{changes} times 1-3-1" if changes else ""


@contextmanager
def two_owners(arena: Arena, fault: Fault) -> Injected:
    """A third instance in a group of its own: the broker assigns it all partitions."""
    service = next(s for s in SERVICES if s.name == fault.target)
    group = f"{fault.target}-impostor"
    _begin_where(arena, group, fault.target)
    impostor = arena.make(service, IMPOSTOR)
    impostor.launcher = (*ODD, "--group", group)
    superseded = rises(lambda: arena.occurrences("restarting"), "batches dropped")
    impostor.launch()
    try:
        eventually(lambda: impostor.unready() is None, f"{impostor.name} has its partitions")
        yield superseded
    finally:
        impostor.stop()


def _begin_where(arena: Arena, group: str, other: str) -> None:
    """Let a group begin where another one stands, not at the start of the log."""
    config = client_config(arena.brokers, "chaos")
    rows = arena.query(_database(other), "SELECT topic, partition, next_offset FROM positions")
    consumer = Consumer({**config, "group.id": group, "enable.auto.commit": False})
    try:
        consumer.commit(offsets=[TopicPartition(*row) for row in rows], asynchronous=False)
    finally:
        consumer.close()


def _database(service: str) -> str:
    return next(s.database for s in SERVICES if s.name == service)


@contextmanager
def wrong_clock(arena: Arena, fault: Fault) -> Injected:
    """The process is replaced by one whose clock is an hour, or a month, off."""
    [instance] = arena.named(fault.target)
    off_s = random.Random(fault.seed).choice(WRONG_CLOCKS_S)
    instance.stop()
    instance.launcher = (*ODD, "--clock", str(off_s))
    instance.launch()
    try:
        yield lambda: f"off by {off_s / HOUR_S:+.0f} h"
    finally:
        instance.stop()
        instance.launcher = ()
        instance.launch()
