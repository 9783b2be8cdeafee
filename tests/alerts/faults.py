"""The faults of the drill. Each breaks something, yields, and mends it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final, Literal, NamedTuple

from confluent_kafka import Producer

from common.config.env import LOOPBACK
from common.events import ORDERS
from common.kafka.clients import client_config
from tests.chaos.disk import Disk
from tests.console import RunningConsole
from tests.pair import Pair
from tests.stack import Stack

POISONED: Final = "poisoned"
QUIET: Final = "quiet"
"""A customer who orders nothing."""
FREEZE_S: Final = 0.15
THAW_S: Final = 0.03
LOCKED_S: Final = 4.0
"""Less than the lock timeout of the services."""


class Site(NamedTuple):
    """What can be broken."""

    stack: Stack
    console: RunningConsole
    disk: Disk

    def sql(self, database: str, statement: str) -> None:
        with self.stack.postgres.connect(database) as owner:
            owner.execute(statement.encode())


Break = Callable[[Site], Iterator[None]]
Place = Literal["plain", "copies", "secure"]
"""A stack: with one copy of everything, with three brokers and a standby, or with everything encrypted."""


class Fault(NamedTuple):
    """What is broken, the one alert that it must raise, and the stack that can break like this."""

    act: Break
    alert: str
    place: Place = "plain"

    @contextmanager
    def broken(self, site: Site) -> Iterator[None]:
        """It is mended even if the drill fails meanwhile, so that the next fault can be played."""
        steps = self.act(site)
        next(steps)
        try:
            yield
        finally:
            next(steps, None)


def consumer_killed(site: Site) -> Iterator[None]:
    site.stack["payment-1"].kill()
    yield
    site.stack["payment-1"].launch()


def api_killed(site: Site) -> Iterator[None]:
    site.stack["order-api-1"].kill()
    yield
    site.stack["order-api-1"].launch()


def broker_killed(site: Site) -> Iterator[None]:
    site.stack.kafka.kill()
    yield
    site.stack.kafka.start()


def postgres_frozen(site: Site) -> Iterator[None]:
    site.stack.postgres.pause()
    yield
    site.stack.postgres.resume()


def poison(site: Site) -> Iterator[None]:
    producer = Producer(client_config(site.stack.brokers, "drill"))
    producer.produce(ORDERS, b"<order/>", POISONED)
    assert producer.flush(10) == 0
    yield
    for service in ("payment", "inventory", "order"):
        act = ("discard", "--customer", POISONED, "--service", service, "--why", "a drill")
        site.stack.run_tool("ops.dead_letters", *act)


def group_stopped(site: Site) -> Iterator[None]:
    site.sql("payment", "INSERT INTO stops (reason) VALUES ('a drill')")
    yield
    site.stack.run_tool("ops.dead_letters", "resume", "--service", "payment", "--why", "a drill")


def loss(site: Site) -> Iterator[None]:
    """The position of the partition that has the traffic is past the end of the log, as after it was truncated."""
    yield from position_moved(site, "(SELECT max(next_offset) FROM positions WHERE topic = 'orders')")


def idle_loss(site: Site) -> Iterator[None]:
    """So is that of a partition without traffic, where the consumer finds nothing out until a record comes."""
    yield from position_moved(site, "(SELECT min(next_offset) FROM positions WHERE topic = 'orders')")


def position_moved(site: Site, offset: str) -> Iterator[None]:
    """Payment's position in one partition of `orders` is far ahead; `offset` selects which."""
    [(partition,)] = site.stack.query(
        "payment",
        f"SELECT partition FROM positions WHERE topic = 'orders' AND next_offset = {offset} ORDER BY partition LIMIT 1",
    )
    move = "UPDATE positions SET next_offset = next_offset {} 1000000 WHERE topic = 'orders' AND partition = {}"
    site.sql("payment", move.format("+", partition))
    yield
    site.sql("payment", move.format("-", partition))


def balance_forged(site: Site) -> Iterator[None]:
    site.sql("payment", f"UPDATE accounts SET balance = balance + 1 WHERE customer_id = '{QUIET}'")
    yield
    site.sql("payment", f"UPDATE accounts SET balance = balance - 1 WHERE customer_id = '{QUIET}'")


def ledger_unreadable(site: Site) -> Iterator[None]:
    """The proof cannot read everything, so nothing is proved."""
    site.sql("payment", "REVOKE SELECT ON ledger FROM auditor")
    yield
    site.sql("payment", "GRANT SELECT ON ledger TO auditor")


def console_killed(site: Site) -> Iterator[None]:
    site.console.kill()
    yield
    site.console.start()


def keys_refused(site: Site) -> Iterator[None]:
    """Orders under an Idempotency-Key are answered with 503; the others are accepted."""
    site.sql("order", 'REVOKE INSERT ON requests FROM "order"')
    yield
    site.sql("order", 'GRANT INSERT ON requests TO "order"')


def retention_set(site: Site) -> Iterator[None]:
    site.stack.set_topic(ORDERS, "retention.ms", "86400000000")
    yield
    site.stack.run_tool("ops.topics", "create")


@contextmanager
def repeated(act: Callable[[threading.Event], None]) -> Iterator[None]:
    """The act, again and again, until the context ends."""
    ending = threading.Event()

    def run() -> None:
        while not ending.is_set():
            act(ending)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def broker_stutters(site: Site) -> Iterator[None]:
    """The broker stands still for most of the time, each time too briefly for anybody to call it away."""

    def stutter(_: threading.Event) -> None:
        site.stack.kafka.pause()
        time.sleep(FREEZE_S)
        site.stack.kafka.resume()
        time.sleep(THAW_S)

    with repeated(stutter):
        yield


def payments_locked(site: Site) -> Iterator[None]:
    """Somebody keeps a table locked for seconds, again and again, each time too briefly for a lock timeout."""

    def lock(ending: threading.Event) -> None:
        with site.stack.postgres.connect("payment") as owner, owner.transaction():
            owner.execute("LOCK TABLE payments IN SHARE ROW EXCLUSIVE MODE")
            ending.wait(LOCKED_S)
        ending.wait(THAW_S)

    with repeated(lock):
        yield


def disk_nearly_full(site: Site) -> Iterator[None]:
    site.disk.leave(0.02)
    yield
    site.disk.free()


def certificate_expires(site: Site) -> Iterator[None]:
    """Payment shows a certificate that is good for three hours, which is a week at the pace of the drill."""
    authority, hosts = site.stack.servers.authority, ("payment", *LOOPBACK)
    assert authority is not None
    authority.renew("payment", hosts, timedelta(hours=3))
    yield
    authority.renew("payment", hosts)


def broker_stopped(site: Site) -> Iterator[None]:
    """One of three. It gives up what it leads before it ends, so no order waits."""
    *_, last = site.stack.servers.brokers
    last.stop()
    yield
    last.start()


def standby_killed(site: Site) -> Iterator[None]:
    """Nothing waits for it: it is an asynchronous one."""
    pair = site.stack.servers
    assert isinstance(pair, Pair)
    pair.standby.kill()
    yield
    pair.standby.start()


FAULTS: Final = {
    "consumer-killed": Fault(consumer_killed, "TandemConsumerGone"),
    "api-killed": Fault(api_killed, "TandemApiDown"),
    "broker-killed": Fault(broker_killed, "TandemKafkaAway"),
    "postgres-frozen": Fault(postgres_frozen, "TandemDatabaseAway"),
    "poison": Fault(poison, "TandemEventsParked"),
    "group-stopped": Fault(group_stopped, "TandemGroupStopped"),
    "loss": Fault(loss, "TandemLossDetected"),
    "idle-loss": Fault(idle_loss, "TandemLossDetected"),
    "balance-forged": Fault(balance_forged, "TandemViolation"),
    "ledger-unreadable": Fault(ledger_unreadable, "TandemProofTooOld"),
    "console-killed": Fault(console_killed, "TandemConsoleDown"),
    "keys-refused": Fault(keys_refused, "TandemAcceptErrors"),
    "retention-set": Fault(retention_set, "TandemDegraded"),
    "broker-stutters": Fault(broker_stutters, "TandemAcceptSlow"),
    "payments-locked": Fault(payments_locked, "TandemSettleSlow"),
    "disk-nearly-full": Fault(disk_nearly_full, "TandemDiskFull"),
    "standby-killed": Fault(standby_killed, "TandemStandbyMissing", "copies"),
    "broker-stopped": Fault(broker_stopped, "TandemCopiesMissing", "copies"),
    "certificate-expires": Fault(certificate_expires, "TandemCertificateExpires", "secure"),
}
