"""A broker that asks who its clients are: every user may do what its service needs, and nothing else.

Each right is tried, because a list of rights proves nothing. No attempt changes anything that services use.
"""

import asyncio
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from common.config.env import LOOPBACK
from common.config.kafka import Brokers
from common.errors import Fatal, Transient
from common.events import ORDERS, READS, TOPICS
from common.kafka import access, grants, holes, wire
from common.kafka.access import CLUSTER, USERS, Right
from common.kafka.broker import Partition
from common.kafka.clients import client_config, producer_config
from common.kafka.produce.connection import connect
from common.tls.authority import Authority
from dev.servers.users import identity
from dev.settings import HOST, ROOT
from ops import log_dirs
from tests.guarded import beside
from tests.stack import Stack
from tests.waiting import eventually

ANSWER_S: Final = 10.0
STRANGER: Final = "test-stranger"
"""A topic, a group and a user that no service has."""
TOO_LARGE: Final = bytes(2 * 1024 * 1024)
DENIED: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError._NOENT,  # the client finds no leader of a partition that it may not describe
    }
)


NO_ANSWER: Final = frozenset({KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN})


class Client:
    """What one user tries. Each attempt raises `KafkaException` when the broker refuses it, for whatever reason."""

    def __init__(self, brokers: Brokers, user: str) -> None:
        self.brokers, self.user = brokers, user
        self.admin = AdminClient(client_config(brokers, self.user))
        # Not idempotent: who may write nowhere would get no further than the producer's id.
        config = {**client_config(brokers, self.user), "acks": "all", "message.max.bytes": 2 * len(TOO_LARGE)}
        self._producer = Producer(config)

    def write(self, topic: str) -> None:
        """More than a topic takes, so that nothing is written if it may."""
        errors: list[KafkaError | None] = []
        self._producer.produce(topic, TOO_LARGE, partition=0, on_delivery=lambda error, _: errors.append(error))
        assert self._producer.flush(ANSWER_S) == 0
        if errors[0] is not None:
            raise KafkaException(errors[0])

    def read(self, topic: str) -> None:
        """By hand: the client library does not fetch what it cannot describe, and says nothing."""
        address = self.brokers.servers.split(":")
        try:
            holes._fetch(self.brokers, address[0], int(address[1]), Partition(topic, 0), 0)
        except Transient as error:
            raise _refused(error, KafkaError.TOPIC_AUTHORIZATION_FAILED) from None

    def describe(self, topic: str) -> None:
        error = self.admin.list_topics(topic, timeout=ANSWER_S).topics[topic].error
        if error is not None:
            raise KafkaException(error)

    def describe_configs(self, topic: str) -> None:
        _await(self.admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, topic)]))

    def alter_configs(self, topic: str) -> None:
        entry = ConfigEntry("segment.ms", "86400000", incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
        _await(self.admin.incremental_alter_configs([resource], validate_only=True))

    def delete(self, topic: str) -> None:
        """None of its records, which takes the same right as all."""
        _await(self.admin.delete_records([TopicPartition(topic, 0, 0)]))

    def create(self, topic: str) -> None:
        _await(self.admin.create_topics([NewTopic(topic, 1, 1)], validate_only=True))

    def commit(self, group: str) -> None:
        """For a group that the client is no member of: the broker refuses that while it has members."""
        offsets = ConsumerGroupTopicPartitions(group, [TopicPartition(ORDERS, 0, 0)])
        [future] = self.admin.alter_consumer_group_offsets([offsets], request_timeout=ANSWER_S).values()
        for partition in future.result().topic_partitions:
            if partition.error is not None:
                raise KafkaException(partition.error)

    def describe_group(self, group: str) -> None:
        _await(self.admin.describe_consumer_groups([group], request_timeout=ANSWER_S))

    def delete_group(self, group: str) -> None:
        _await(self.admin.delete_consumer_groups([group], request_timeout=ANSWER_S))

    def transact(self, transactional_id: str) -> None:
        config = producer_config(self.brokers, self.user, linger_ms=0)
        Producer({**config, "transactional.id": transactional_id}).init_transactions(ANSWER_S)

    def describe_cluster(self, _: str) -> None:
        try:
            log_dirs.folders(self.brokers, log_dirs.cluster(self.admin).brokers.values())
        except Transient as error:
            raise _refused(error, KafkaError.CLUSTER_AUTHORIZATION_FAILED) from None

    def grant_itself(self, _: str) -> None:
        right = Right(self.user, "TOPIC", STRANGER, "READ")
        try:
            grants.grant(self.admin, [right])
        except (Fatal, Transient) as error:
            raise error.__cause__ or error from None
        grants.revoke(self.admin, [right])

    def set_password(self, user: str) -> None:
        credential = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4_096)
        _await(self.admin.alter_user_scram_credentials([UserScramCredentialUpsertion(user, credential, b"known")]))


def _refused(error: Transient, code: int) -> Exception:
    """What the client library would raise, if the answer to a request by hand has this code."""
    return KafkaException(KafkaError(code)) if f"error {code} " in str(error) else error


def _await(futures: Mapping[Any, Any]) -> None:
    for future in futures.values():
        future.result(ANSWER_S)


Attempt = Callable[[Client, str], None]
ON_TOPICS: Final[Mapping[Attempt, str]] = {
    Client.write: "WRITE",
    Client.read: "READ",
    Client.describe: "DESCRIBE",
    Client.describe_configs: "DESCRIBE_CONFIGS",
    Client.alter_configs: "ALTER_CONFIGS",
    Client.delete: "DELETE",
    Client.create: "CREATE",
}
ATTEMPTS: Final[list[tuple[Attempt, str, list[tuple[str, str, str]]]]] = [
    *(
        (attempt, topic, [("TOPIC", topic, operation)])
        for topic in (*TOPICS, STRANGER)
        for attempt, operation in ON_TOPICS.items()
    ),
    *(
        (attempt, group, needs)
        for group in (*READS, access.WARM_UP, STRANGER)
        for attempt, needs in (
            (Client.commit, [("GROUP", group, "READ"), ("TOPIC", ORDERS, "READ")]),
            (Client.describe_group, [("GROUP", group, "DESCRIBE")]),
            (Client.delete_group, [("GROUP", group, "DELETE")]),
        )
    ),
    (Client.transact, "inventory-test", [("TRANSACTIONAL_ID", "inventory-test", "WRITE")]),
    (Client.describe_cluster, CLUSTER, [("BROKER", CLUSTER, "DESCRIBE")]),
    (Client.grant_itself, CLUSTER, [("BROKER", CLUSTER, "ALTER")]),
    (Client.set_password, STRANGER, [("BROKER", CLUSTER, "ALTER")]),
]
"""Everything that a client might try, on what, and the rights that it takes."""
INCLUDED: Final = {"DESCRIBE": {"DESCRIBE", "READ", "WRITE", "DELETE", "ALTER"}}


def may(user: str, kind: str, name: str, operation: str) -> bool:
    """Whether a right of the table covers this."""
    return any(
        right.kind == kind
        and right.operation in INCLUDED.get(operation, {operation})
        and (right.name in (name, "*") or (right.prefixed and name.startswith(right.name)))
        for right in access.rights_of(user)
    )


@pytest.fixture(scope="module")
def topic_of_nobody(secure_stack: Stack) -> None:
    """A topic that exists: refusals of one that does not would prove little."""
    admin = AdminClient(client_config(secure_stack.brokers, "test"))
    _await(admin.create_topics([NewTopic(STRANGER, 1, 1)]))


def wrongly_answered(brokers: Brokers, user: str) -> list[str]:
    """What a client that is this user was allowed, or not, other than the table says."""
    client, wrong = Client(brokers, user), []
    for attempt, name, needs in ATTEMPTS:
        allowed, refusal = all(may(user, *need) for need in needs), None
        try:
            attempt(client, name)
        except KafkaException as error:
            refusal = error.args[0]
        code = refusal.code() if refusal is not None else KafkaError.NO_ERROR
        if (code in DENIED) is allowed or code in NO_ANSWER:
            wrong.append(f"{attempt.__name__} {name}: {'allowed' if allowed else 'not allowed'}, but {refusal}")
    return wrong


@pytest.mark.usefixtures("topic_of_nobody")
@pytest.mark.parametrize("user", USERS)
def test_each_user_may_do_what_its_service_needs_and_nothing_else(secure_stack: Stack, user: str) -> None:
    assert wrongly_answered(secure_stack.kafka.brokers(user), user) == []


@pytest.mark.usefixtures("topic_of_nobody")
def test_a_certificate_stands_for_the_user_whose_name_it_has(secure_stack: Stack) -> None:
    assert wrongly_answered(by_certificate(secure_stack, "payment"), "payment") == []
    nobody = Client(by_certificate(secure_stack, "nobody"), "nobody")
    with pytest.raises(KafkaException, match="TOPIC_AUTHORIZATION_FAILED"):
        nobody.describe(ORDERS)


def by_certificate(stack: Stack, name: str) -> Brokers:
    """How a client reaches the broker whose certificate has this name."""
    assert stack.servers.authority is not None
    return stack.kafka.by_certificate(stack.servers.authority.ensure(name, purpose="client"))


def test_a_service_can_show_a_certificate_instead_of_a_password(secure_stack: Stack, order: Callable[[], str]) -> None:
    secure_stack["payment-1"].stop()
    reached = identity(by_certificate(secure_stack, "payment"))
    assert "KAFKA_USERNAME" not in reached
    without = dict.fromkeys(("KAFKA_USERNAME", "KAFKA_PASSWORD_FILE"), "")
    with beside(secure_stack, {"payment": without | reached}):
        assert secure_stack.await_settled(order())["status"] == "confirmed"
    secure_stack["payment-1"].launch()
    secure_stack["payment-1"].await_ready()


def test_the_rights_are_as_they_must_be_and_a_change_is_reported_and_mended(secure_stack: Stack) -> None:
    assert "access:" not in secure_stack.run_tool("ops.topics", "list")
    admin = AdminClient(client_config(secure_stack.brokers, "test"))
    lost, added = Right("auditor", "TOPIC", "orders", "READ"), Right("auditor", "TOPIC", "orders", "WRITE")
    foreign = Right("mallory", "TOPIC", "pay", "WRITE", prefixed=True)
    grants.revoke(admin, [lost])
    grants.grant(admin, [added, foreign])
    assert secure_stack.run_tool("ops.topics", "list").count("access: ") == 3
    mended = secure_stack.run_tool("ops.topics", "create")
    assert f"{lost} granted" in mended
    assert f"{added} taken away" in mended
    assert f"{foreign} is none of Tandem's rights" in mended
    grants.revoke(admin, [foreign])
    assert grants.fetch_drift(admin) == []


def reach(brokers: Brokers) -> None:
    AdminClient(client_config(brokers, "test")).list_topics(timeout=2)


def test_nobody_gets_in_without_a_certificate_where_one_is_asked_for(secure_stack: Stack) -> None:
    reach(by_certificate(secure_stack, "payment"))
    config = client_config(by_certificate(secure_stack, "payment"), "test")
    for name in ("ssl.certificate.location", "ssl.key.location"):
        del config[name]
    with pytest.raises(KafkaException):
        AdminClient(config).list_topics(timeout=2)


@pytest.fixture
def others(tmp_path: Path, secure_stack: Stack) -> dict[str, Brokers]:
    """Clients that the broker must not take, or that must not take the broker."""
    good = secure_stack.kafka.brokers("payment")
    assert secure_stack.servers.authority is not None
    expired = secure_stack.servers.authority.renew("expired", valid=timedelta(days=-1), purpose="client")
    wrong = tmp_path / "wrong"
    wrong.write_text("not the password")
    foreign = Authority(tmp_path / "other").ensure("payment", purpose="client")
    serving = secure_stack.servers.authority.ensure("payment", ("payment", *LOOPBACK))
    return {
        "without TLS": Brokers(good.servers),
        "with a wrong password": replace(good, password_file=wrong),
        "an unknown user": replace(good, username="nobody"),
        "the password of another": replace(good, username="inventory"),
        "another authority": replace(good, ca_file=foreign.authority),
        "a certificate instead of a password": replace(by_certificate(secure_stack, "payment"), servers=good.servers),
        "a password instead of a certificate": replace(good, servers=f"{HOST}:{secure_stack.kafka.certificates_port}"),
        "a certificate of another authority": replace(secure_stack.kafka.by_certificate(foreign), ca_file=good.ca_file),
        "a certificate that has expired": secure_stack.kafka.by_certificate(expired),
        "the certificate by which it serves HTTP": secure_stack.kafka.by_certificate(serving),
    }


def test_nobody_gets_in_without_the_right_password(secure_stack: Stack, others: dict[str, Brokers]) -> None:
    reach(secure_stack.kafka.brokers("payment"))
    with ThreadPoolExecutor() as pool:
        attempts = {who: pool.submit(reach, brokers) for who, brokers in others.items()}
    assert [who for who, attempt in attempts.items() if not isinstance(attempt.exception(), KafkaException)] == []


def test_requests_by_hand_are_refused_alike(secure_stack: Stack, others: dict[str, Brokers]) -> None:
    for brokers in others.values():
        port = int(brokers.servers.rpartition(":")[2])
        with pytest.raises(Transient, match=r"does not (take user|answer)"):
            wire.request(brokers, HOST, port, log_dirs.API_KEY, log_dirs.API_VERSION, log_dirs.ALL_TOPICS)


def test_producers_are_refused_alike_and_the_reason_is_heard(
    secure_stack: Stack, others: dict[str, Brokers], monkeypatch: pytest.MonkeyPatch
) -> None:
    for who, brokers in others.items():
        heard: list[KafkaError] = []
        monkeypatch.setattr("common.kafka.produce.connection.note_refusal", heard.append)
        port = int(brokers.servers.rpartition(":")[2])
        with pytest.raises(OSError, match=r"."):
            asyncio.run(connect(brokers, "test", HOST, port, lambda _: None))
        # A broker closes the connection of one who does not begin as its listener expects, and says nothing.
        said_nothing = who in ("without TLS", "a certificate instead of a password")
        assert bool(heard) is not said_nothing, who


def test_a_new_certificate_is_shown_without_a_restart(secure_stack: Stack) -> None:
    assert secure_stack.servers.authority is not None
    files = secure_stack.servers.authority.renew("kafka", purpose="both")

    def shown() -> str:
        return ssl.get_server_certificate((HOST, secure_stack.kafka.port), ca_certs=str(files.authority))

    assert shown().strip() != files.certificate.read_text().strip()
    secure_stack.kafka.show_certificate()
    eventually(lambda: shown().strip() == files.certificate.read_text().strip(), "the broker shows the new one")


@pytest.fixture(scope="module")
def order(secure_stack: Stack) -> Callable[[], str]:
    """Places an order of a customer who can pay."""
    secure_stack.account("cust-secure", 10_000_000)
    secure_stack.product("sku-secure", pieces=100_000)
    secure_stack.await_orderable("sku-secure")
    return lambda: secure_stack.place("cust-secure", ("sku-secure", 2))


def test_an_order_is_settled_and_proved(secure_stack: Stack, order: Callable[[], str]) -> None:
    """Every service has the rights that it needs, and so have the tools."""
    order_id = order()
    assert secure_stack.await_settled(order_id)["status"] == "confirmed"
    proof = secure_stack.tool("ops.verify", "--settle-within", "60")
    assert proof.returncode == 0, proof.stdout + proof.stderr
    assert order_id in secure_stack.run_tool("ops.trace", order_id)
    assert "authorization failed" not in secure_stack.logs()


def test_a_service_without_its_right_says_so_and_goes_on_when_it_has_it_again(
    secure_stack: Stack, order: Callable[[], str]
) -> None:
    admin = AdminClient(client_config(secure_stack.brokers, "test"))
    may_read, may_write = Right("payment", "TOPIC", "orders", "READ"), Right("payment", "TOPIC", "payments", "WRITE")
    for right in (may_read, may_write):
        grants.revoke(admin, [right])
        order_id = order()
        secure_stack["payment-1"].await_unready("authorization failed")
        assert "access: payment: " in secure_stack.run_tool("ops.topics", "list")
        grants.grant(admin, [right])
        assert secure_stack.await_settled(order_id)["status"] == "confirmed"
        secure_stack.await_ready("payment-1")


def test_new_passwords_are_taken_up_while_orders_come(secure_stack: Stack, order: Callable[[], str]) -> None:
    old = {user: secure_stack.kafka.brokers(user).password() for user in USERS}
    placed, stop = [order()], threading.Event()
    load = threading.Thread(target=lambda: placed.extend(order() for _ in iter(stop.is_set, True)))
    load.start()
    rotated = secure_stack.run_tool("ops.topics", "rotate")
    for instance in secure_stack.instances.values():
        eventually(lambda i=instance: "has a new password" in i.log.read_text(), f"{instance.name} has read it")  # type: ignore[misc]
    stop.set()
    load.join()
    assert len(placed) > 1
    for user, password in old.items():
        assert user in rotated
        eventually(lambda login=(user, password): _is_refused(secure_stack, *login), f"{user}'s old one is refused")  # type: ignore[misc]
    # Now everybody has to log in again.
    secure_stack.kafka.stop()
    secure_stack.kafka.start()
    secure_stack.await_ready()
    placed.append(eventually(lambda: _accepted(order), "orders are accepted again"))
    for order_id in placed:
        assert secure_stack.await_settled(order_id)["status"] == "confirmed"


KILLED: Final = """
import os, runpy, signal
import {module} as module
module.{step} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
runpy.run_module("ops.topics", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("module", "step"), [("common.kafka.grants", "set_passwords"), ("ops.access", "_await_logins")]
)
def test_a_rotation_that_is_killed_keeps_nobody_out_and_is_made_up_for(
    secure_stack: Stack, order: Callable[[], str], module: str, step: str
) -> None:
    """Before the broker has the new passwords, and before the files have."""
    script = [sys.executable, "-c", KILLED.format(module=module, step=step), "rotate"]
    killed = subprocess.run(script, cwd=ROOT, env=secure_stack.tool_environment())
    assert killed.returncode == -signal.SIGKILL
    secure_stack["payment-1"].stop()
    secure_stack["payment-1"].launch()  # it logs in with the password that the broker knows
    secure_stack.await_ready("payment-1")
    assert secure_stack.await_settled(order())["status"] == "confirmed"
    secure_stack.run_tool("ops.topics", "create")
    reach(secure_stack.kafka.brokers("payment"))
    secure_stack.run_tool("ops.topics", "rotate")
    reach(secure_stack.kafka.brokers("payment"))


def _reached(brokers: Brokers) -> bool:
    try:
        reach(brokers)
    except KafkaException:
        return False
    return True


def _is_refused(stack: Stack, user: str, password: str) -> bool:
    path = stack.directory / "old.password"
    path.write_text(password)
    return not _reached(replace(stack.kafka.brokers(user), password_file=path))


def _accepted(order: Callable[[], str]) -> str | None:
    try:
        return order()
    except AssertionError:
        return None
