"""A standby takes over from a primary that is killed under load. A synchronous one has everything. What an asynchronous
one lacks is noticed, and nothing is decided anew before an operator has brought back what was published."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from dev.servers.member import Member
from dev.settings import HOST, environment, free_ports
from tests.audit import assert_consistent, await_rest
from tests.load import Clients, await_settled_from_now
from tests.pair import Pair
from tests.stack import API, Instance, Stack
from tests.waiting import eventually

PRICE = 100
SKU = "sku-failover"
CUSTOMERS = 20
BALANCE = 10**6
PAUSE_S = 0.02
CONSUMERS = ("payment-1", "inventory-1", "order-saga-1")


class Failing(Pair):
    """A pair that fails over."""

    def fail_over(self, shop: Stack) -> None:
        """What `just failover` does."""
        primary = self.postgres
        assert isinstance(primary, Member)
        primary.kill()
        primary.retire()
        self.standby.promote()
        self.postgres, self.standby = self.standby, primary
        shop.postgres = self.postgres

    def rejoin(self) -> None:
        """What `just rejoin` does, for a pair that is asynchronous from now on."""
        place = self.folders.index(self.standby.directory)
        self.standby.set_aside()
        self.standby = self.member(place, synchronous=False)
        self.standby.start()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Failing:
    return Failing(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def shop(pair: Failing) -> Iterator[Stack]:
    with pair.stack() as stack:
        stack.launch_all()
        stack.product(SKU, price=PRICE, pieces=10**6)
        for number in range(CUSTOMERS):
            stack.account(f"customer-{number}", BALANCE)
        stack.await_orderable(SKU)
        yield stack


class Load(Clients):
    """Orders, and a deposit with every fifth, one after the other."""

    def __init__(self, shop: Stack) -> None:
        self._shop = shop
        self._stopping = threading.Event()
        super().__init__(self._step, stopping=self._stopping)
        self.accepted: list[str] = []
        self.deposited: set[str] = set()

    def _step(self, _: httpx.Client, number: int) -> None:
        customer_id = f"customer-{number % CUSTOMERS}"
        self.accepted.append(self._shop.place(customer_id, (SKU, 1)))
        if number % 5 == 0:
            key = f"load-{number}"
            answer = deposit(self._shop, customer_id, key)
            assert answer.status_code in (201, 503), answer.text
            if answer.status_code == 201:
                self.deposited.add(key)
        self._stopping.wait(PAUSE_S)

    def await_settled(self, when: str) -> None:
        """Wait until the next order is accepted and settled."""
        await_settled_from_now(self._shop, self.accepted, 1, when)


def deposit(shop: Stack, customer_id: str, key: str | None = None, amount: int = 7) -> httpx.Response:
    headers = {} if key is None else {"idempotency-key": key}
    url = shop.url("payment", f"/accounts/{customer_id}/deposits")
    return shop.http.post(url, json={"amount": amount, "currency": "EUR"}, headers=headers)


def verify(shop: Stack, accepted: list[str], tmp_path: Path) -> None:
    (tmp_path / "accepted").write_text("\n".join(accepted))
    print(shop.run_tool("ops.verify", "--accepted", str(tmp_path / "accepted")))
    assert_consistent(shop)


def test_an_instance_whose_server_is_a_standby_changes_nothing_and_says_so(shop: Stack, pair: Failing) -> None:
    """As after a failover behind one address, or with a URL that does not say target_session_attrs."""
    settings = environment(kafka_servers=shop.brokers.servers, postgres_port=pair.ports[1], folder=pair.secrets)
    at_standby = {name: url for name, url in settings.items() if name.endswith("_DATABASE_URL")}
    strays = {
        name: shop.launch(name, 2, at_standby | {"HTTP_PORT": str(port)})
        for name, port in zip(("payment", "order-api", "order-saga"), free_ports(3), strict=True)
    }
    order = {"customer_id": "customer-0", "product_id": SKU, "quantity": 1}

    def refusal(stray: Instance, path: str, body: dict[str, object]) -> str | None:
        """While a stray gets ready, a 503 may say something else."""
        url = f"http://{HOST}:{stray.variables['HTTP_PORT']}{API}{path}"
        answer = shop.http.post(url, json=body, headers={"idempotency-key": "stray"})
        assert answer.status_code == 503, answer.text
        return answer.text if "database is read-only now" in answer.text else None

    def retries(stray: Instance) -> bool:
        return stray.log.read_text().count("cannot execute INSERT in a read-only transaction") > 1

    try:
        for name, path, body in (
            ("payment", "/accounts/customer-0/deposits", {"amount": 7, "currency": "EUR"}),
            ("order-api", "/orders", order),
        ):
            stray = strays[name]
            stray.await_answer(stray.listening, "listens")
            said = stray.await_answer(lambda: refusal(stray, path, body), "refuses a change")  # noqa: B023
            assert "nothing" in said
        placed = [shop.place(f"customer-{number}", (SKU, 1)) for number in range(CUSTOMERS)]
        for name in ("payment", "order-saga"):
            strays[name].await_answer(lambda: retries(strays[name]), "stores nothing, and retries")  # noqa: B023
    finally:
        for stray in strays.values():
            stray.stop()
            del shop.instances[stray.name]
    await_rest(shop, placed)
    for database in ("payment", "order"):
        assert not shop.query(database, "SELECT FROM parked_events")
    assert_consistent(shop)


def test_a_synchronous_standby_that_takes_over_has_everything(shop: Stack, pair: Failing, tmp_path: Path) -> None:
    with Load(shop) as load:
        load.await_settled("before the failover")
        killed_s = time.monotonic()
        pair.fail_over(shop)
        promoted_s = time.monotonic()
        load.await_settled("after the failover")
        print(
            f"promoted after {promoted_s - killed_s:.1f} s, orders settle again after "
            f"{time.monotonic() - killed_s:.1f} s, {len(load.accepted)} orders and {len(load.deposited)} deposits"
        )
    await_rest(shop, load.accepted)
    keys = shop.query("payment", "SELECT idempotency_key FROM ledger WHERE starts_with(idempotency_key, 'load-')")
    assert load.deposited <= {key for (key,) in keys}
    for name in CONSUMERS:
        assert "went back" not in shop[name].log.read_text()
    verify(shop, load.accepted, tmp_path)


def test_what_an_asynchronous_standby_lacks_is_noticed_and_brought_back(
    shop: Stack, pair: Failing, tmp_path: Path
) -> None:
    pair.rejoin()
    known = [shop.place(f"customer-{n}", (SKU, 1)) for n in range(CUSTOMERS)]
    await_rest(shop, known)
    with pair.standby.connect() as standby:
        eventually(lambda: has_replayed(shop, pair), "the standby has everything")
        standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
        standby.execute("SELECT pg_reload_conf()")
        receiving = "SELECT FROM pg_stat_wal_receiver"
        eventually(lambda: not standby.execute(receiving).fetchall(), "the standby receives nothing")

    lost = [shop.place(f"customer-{n}", (SKU, 1)) for n in range(CUSTOMERS)]
    await_rest(shop, lost)
    assert deposit(shop, "customer-0", "lost-1").status_code == 201
    assert deposit(shop, "customer-1").status_code == 201
    assert deposit(shop, "late", "lost-2", BALANCE).status_code == 201
    lost.append(shop.place("late", (SKU, 2)))
    shop.product(SKU, price=2 * PRICE, pieces=33)
    await_rest(shop, lost)
    as_it_was = state(shop)

    pair.fail_over(shop)
    for name in CONSUMERS:
        shop[name].await_unready("the database went back")
        assert "loss detected" in shop[name].log.read_text()
    # The ways to notice it: the positions that an instance stored, and, when a session begins, what was published last.
    # The third, the committed offsets, is what `just replay` goes by.
    shop["payment-1"].await_unready("of the last events that were published")
    assert "was stored" in shop["payment-1"].log.read_text()
    before = shop.query("payment", "SELECT count(*) FROM payments")
    meanwhile = shop.place("customer-2", (SKU, 1))
    assert deposit(shop, "customer-0", "lost-1").status_code == 201, "repeated by a client who never saw the answer"
    broken = shop.tool("ops.verify", "--patience", "1")
    assert broken.returncode == 1, broken.stdout
    assert "account late: 1000000 EUR are in the log under the key 'lost-2'" in " ".join(broken.stdout.split())

    for service in ("inventory", "payment", "order"):
        print(shop.run_tool("ops.replay", service, "--why", "a standby took over", "--actor", "ann"))
        assert before == shop.query("payment", "SELECT count(*) FROM payments") or service != "inventory"
    shop.await_ready()
    await_rest(shop, [*lost, meanwhile])
    assert state(shop, without=meanwhile) == as_it_was
    [(by,)] = shop.query("payment", "SELECT DISTINCT principal FROM audit WHERE result = 'brought back by a replay'")
    assert by == "anonymous"
    verify(shop, [*known, *lost, meanwhile], tmp_path)


def has_replayed(shop: Stack, pair: Failing) -> bool:
    with pair.postgres.connect() as primary, pair.standby.connect() as standby:
        [(written,)] = primary.execute("SELECT pg_current_wal_lsn()").fetchall()
        [(behind,)] = standby.execute("SELECT pg_wal_lsn_diff(%s, pg_last_wal_replay_lsn())", (written,)).fetchall()
    return int(behind) <= 0


def state(shop: Stack, without: str = "00000000-0000-0000-0000-000000000000") -> dict[str, set[tuple[object, ...]]]:
    """What the databases say, but for one order and what it has moved."""
    queries = {
        "orders": ("order", "SELECT order_id, status, reason FROM orders WHERE order_id <> %s"),
        "payments": ("payment", "SELECT order_id, state, amount FROM payments WHERE order_id <> %s"),
        "stock": ("inventory", "SELECT order_id, state FROM reservations WHERE order_id <> %s"),
        "deposits": (
            "payment",
            "SELECT customer_id, amount, idempotency_key FROM ledger WHERE order_id IS NULL AND %s <> ''",
        ),
        "restocks": (
            "inventory",
            "SELECT product_id, quantity, idempotency_key FROM movements WHERE order_id IS NULL AND %s <> ''",
        ),
        "catalogue": ("inventory", "SELECT product_id, unit_price FROM products WHERE %s <> ''"),
    }
    return {name: {tuple(row) for row in shop.query(of, query, (without,))} for name, (of, query) in queries.items()}
