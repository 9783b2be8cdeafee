"""Who may do what at the broker, as a person would say it."""

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]

from common.config.kafka import Brokers
from common.errors import Fatal, Transient
from common.events import DEPOSITS, OUTCOMES, PRODUCTS, READERS, RESTOCKS, TOPICS
from common.kafka import access
from common.kafka.access import USERS, Right, drift_of, rights, rights_beside, rights_of
from common.kafka.broker import user_listeners
from common.secrets import kafka
from common.secrets.change import pending_file
from dev.servers import users
from dev.servers.kafka import Broker
from ops.access import allow, create, rotate
from ops.log import Log


def who_may(kind: str, name: str, operation: str) -> list[str]:
    covers = [r for r in rights() if r.kind == kind and r.operation == operation]
    return sorted({r.user for r in covers if r.name in (name, "*") or (r.prefixed and name.startswith(r.name))})


def test_each_topic_is_written_by_those_whose_events_it_holds() -> None:
    assert who_may("TOPIC", "orders", "WRITE") == ["order-api", "order-saga"]
    assert who_may("TOPIC", OUTCOMES, "WRITE") == ["order-saga"]
    assert who_may("TOPIC", "payments", "WRITE") == ["payment"]
    assert who_may("TOPIC", "inventory", "WRITE") == ["inventory"]
    assert who_may("TOPIC", PRODUCTS, "WRITE") == ["inventory"]
    assert who_may("TOPIC", DEPOSITS, "WRITE") == ["payment"]
    assert who_may("TOPIC", RESTOCKS, "WRITE") == ["inventory"]


def test_each_topic_is_read_by_its_consumers_and_by_those_who_look_on() -> None:
    looking_on = ["auditor", "console", "operator"]
    assert who_may("TOPIC", "orders", "READ") == sorted(["inventory", "order-saga", "payment", *looking_on])
    # After a failover, the saga reads what it has published last; in payment's place, payment by card reads outcomes.
    assert who_may("TOPIC", OUTCOMES, "READ") == sorted(["order-saga", "payment", *looking_on])
    for results, service in (("payments", "payment"), ("inventory", "inventory")):
        # After a failover, a service reads what it has published last.
        assert who_may("TOPIC", results, "READ") == sorted(["order-saga", service, *looking_on])
    assert who_may("TOPIC", DEPOSITS, "READ") == sorted(["payment", *looking_on])
    assert who_may("TOPIC", RESTOCKS, "READ") == sorted(["inventory", *looking_on])
    assert who_may("TOPIC", PRODUCTS, "READ") == sorted(["inventory", "order-api", *looking_on])


@pytest.mark.parametrize("user", ["auditor", "console"])
def test_who_looks_on_changes_nothing(user: str) -> None:
    assert {right.operation for right in rights_of(user)} == {"READ", "DESCRIBE", "DESCRIBE_CONFIGS"}
    assert all(right.operation == "DESCRIBE" for right in rights_of(user) if right.kind != "TOPIC")


def test_records_and_offsets_are_deleted_and_set_by_the_operator_alone() -> None:
    """Deposits, restocks and products are trimmed by nobody: after a failover, they come back from there alone."""
    for topic in TOPICS:
        assert who_may("TOPIC", topic, "DELETE") == (["operator"] if topic in READERS else [])
    assert who_may("GROUP", "payment", "READ") == ["operator", "payment"]
    assert who_may("GROUP", "payment", "DELETE") == ["operator"]


def test_nobody_alters_topics_users_or_rights() -> None:
    assert not {"ALTER", "ALTER_CONFIGS", "ALL", "CLUSTER_ACTION"} & {right.operation for right in rights()}
    assert {right.name for right in rights() if right.operation == "CREATE"} == {"warm-up"}


def test_a_service_beside_tandem_reads_orders_and_owns_what_bears_its_name() -> None:
    beside = rights_beside("notify")
    read = {OUTCOMES, "orders", "payments", "inventory", "notify."}
    assert {r.name for r in beside if r.kind == "TOPIC" and r.operation == "READ"} == read
    assert {r.name for r in beside if r.operation in ("WRITE", "CREATE")} == {"notify."}
    assert drift_of([*rights(), *beside]) == []


@pytest.mark.parametrize("name", ["order", "warm"])
def test_no_service_beside_tandem_is_let_into_its_groups(name: str) -> None:
    """The groups of a service are all whose names begin with its own and a dash: `order-saga` is not `order`'s."""
    with pytest.raises(Fatal, match=f"{name}: READ on GROUP {name}-… would be a right on Tandem's own"):
        allow(cast(Log, None), name, None)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        (
            rights() - {Right("payment", "TOPIC", "orders", "READ")},
            "payment: READ on TOPIC orders is missing; 'just",
        ),
        (
            rights() | {Right("console", "TOPIC", "orders", "WRITE")},
            "console: WRITE on TOPIC orders is not needed;",
        ),
        (rights() | {Right("eve", "TOPIC", "*", "ALL")}, "eve: ALL on TOPIC * is none of Tandem's rights"),
        (
            rights() | {Right("eve", "TOPIC", "ord", "WRITE", True)},
            "eve: WRITE on TOPIC ord… is none of Tandem's",
        ),
        (rights() | {Right("eve", "BROKER", "kafka-cluster", "ALTER")}, "eve: ALTER on BROKER kafka-cluster is none"),
        (
            rights() | {Right("eve", "GROUP", "payment", "READ")},
            "eve: READ on GROUP payment is none of Tandem's rights",
        ),
        (rights() | {Right("eve", "GROUP", "*", "DELETE")}, "eve: DELETE on GROUP * is none of Tandem's rights"),
        (rights() | {Right("order", "GROUP", "order-", "READ", True)}, "order: READ on GROUP order-… is none of"),
        (
            rights() | {Right("eve", "TRANSACTIONAL_ID", "inventory", "WRITE", True)},
            "eve: WRITE on TRANSACTIONAL_ID inventory… is none of Tandem's",
        ),
    ],
)
def test_a_change_is_named_with_the_way_out(changed: frozenset[Right], text: str) -> None:
    [drift] = drift_of(changed)
    assert text in str(drift)


def test_a_password_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    first = kafka.ensure_password(tmp_path / "secrets", "payment")
    assert kafka.ensure_password(tmp_path / "secrets", "payment") == first
    assert kafka.password_file(tmp_path / "secrets", "payment").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700
    assert len(first) >= 32
    assert kafka.ensure_password(tmp_path / "secrets", "inventory") != first


def test_users_are_made_from_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of the set-up in Compose."""
    for user in USERS:
        kafka.ensure_password(tmp_path, user)

    def read_only(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "unlink", read_only)
    for name in ("set_passwords", "withdraw_passwords", "fetch_drift", "grant", "revoke"):
        monkeypatch.setattr(f"ops.access.grants.{name}", lambda *_: [])
    create(cast(Log, SimpleNamespace(admin=None)), tmp_path)


def test_the_broker_has_the_new_passwords_before_the_files_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of its kind: the controller answers before each of them has read from its log what was changed."""
    files = {user: kafka.password_file(tmp_path, user) for user in USERS}
    old = {user: kafka.ensure_password(tmp_path, user) for user in USERS}
    steps: list[object] = []
    lagging = [True]

    def set_passwords(_: object, passwords: dict[str, str]) -> None:
        steps.append(passwords)

    def request(login: Brokers, host: str, port: int, *_: object) -> bytes:
        assert (login.protocol, login.password_file) == ("SASL_SSL", pending_file(files[login.username]))
        assert {user: file.read_text().strip() for user, file in files.items()} == old
        if login.username == USERS[-1]:
            steps.append(port)
            if port == 2 and lagging and lagging.pop():
                raise Transient("broker h:2 does not take user")
        return b""

    monkeypatch.setattr("ops.access.grants.set_passwords", set_passwords)
    monkeypatch.setattr("ops.access.broker.user_listeners", lambda _: [("h", 1), ("h", 2)])
    monkeypatch.setattr("ops.access.wire.request", request)
    rotate(
        cast(Log, SimpleNamespace(admin=None, brokers=Brokers("h:3", "SSL"))),
        tmp_path,
        lambda: steps.append("published"),
    )
    new = {user: kafka.ensure_password(tmp_path, user) for user in USERS}
    assert not old.items() & new.items()
    assert steps == ["published", new, 1, 2, 1, 2, "published"]


def test_users_log_in_where_the_broker_says() -> None:
    listeners = "USERS://kafka:19092,HOST://127.0.0.1:9092,CERTIFICATES://kafka:19094"
    protocols = "CONTROLLER:SSL,USERS:SASL_SSL,HOST:SASL_SSL,CERTIFICATES:SSL"
    of_broker = {"advertised.listeners": listeners, "listener.security.protocol.map": protocols}
    settings = {name: SimpleNamespace(value=value) for name, value in of_broker.items()}
    described = {ConfigResource(ConfigResource.Type.BROKER, "1"): SimpleNamespace(result=lambda: settings)}
    admin = SimpleNamespace(
        list_topics=lambda timeout: SimpleNamespace(brokers={1: SimpleNamespace(host="kafka", port=19094)}),
        describe_configs=lambda nodes, request_timeout: described,
    )
    assert user_listeners(cast(AdminClient, admin)) == [("kafka", 19092)]
    settings["advertised.listeners"].value = "SASL_SSL://[::1]:9092,CERTIFICATES://[::1]:9094"
    settings["listener.security.protocol.map"].value = "SASL_SSL:SASL_SSL,CERTIFICATES:SSL"
    admin.list_topics = lambda timeout: SimpleNamespace(brokers={1: SimpleNamespace(host="::1", port=9094)})
    assert user_listeners(cast(AdminClient, admin)) == [("::1", 9092)]


def test_a_tool_has_no_more_rights_than_it_needs(tmp_path: Path) -> None:
    assert {users.of_tool(tool, []) for tool in ("verify", "trace", "replay")} == {access.AUDITOR}
    assert users.of_tool("topics", ["list"]) == users.of_tool("dead_letters", ["list"]) == access.OPERATOR
    assert users.of_tool("topics", ["create"]) == access.ADMIN
    broker = Broker(tmp_path / "kafka", 1, 2, secrets=tmp_path, certificates_port=3)
    assert "KAFKA_PASSWORDS_DIR" in broker.identity(access.ADMIN)
    for user in USERS:
        assert "KAFKA_PASSWORDS_DIR" not in broker.identity(user)
