"""Clients that keep up with their password, and what a broker says that does not take them.

A password may be changed at any time. A client logs in with the new one from its next connection on; those that it has
stay. Between the change at the broker and the change of the file, a client that connects is refused, and tries again.
"""

import threading
import time
import weakref
from collections.abc import Mapping
from typing import Any, Final

import confluent_kafka
import confluent_kafka.admin
from confluent_kafka import KafkaError, Message, TopicPartition
from confluent_kafka.admin import ClusterMetadata  # type: ignore[attr-defined]
from loguru import logger

from common.config.kafka import Brokers
from common.errors import Fatal
from common.files import Watched
from common.kafka.clients import ADMIN

CHECK_EVERY_S: Final = 1.0
REPORT_EVERY_S: Final = 10.0
RECENT_S: Final = 15.0
_REFUSALS: Final = frozenset({KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._SSL})

_lock: Final = threading.Lock()
_clients: Final[weakref.WeakSet[Any]] = weakref.WeakSet()
_passwords: Final[dict[str, str]] = {}
"""The password of each user that was changed since this process began."""
_refused = (-RECENT_S, "")
_reported_s = -REPORT_EVERY_S


class Producer(confluent_kafka.Producer):
    """A producer that keeps up with its password."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(_current(config))
        _watch(self, config)


class Consumer(confluent_kafka.Consumer):
    """A consumer that keeps up with its password.

    It takes a new one in the thread that uses it: from another, `set_sasl_credentials` waits for a call that polls, and
    while polls follow one another it may wait for ever (confluent-kafka 2.16).
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.new_login: tuple[str, str] | None = None
        super().__init__(_current(config))
        _watch(self, config)

    def _follow(self) -> None:
        if self.new_login is not None:
            login, self.new_login = self.new_login, None
            self.set_sasl_credentials(*login)

    def consume(self, *args: Any, **options: Any) -> list[Message]:
        self._follow()
        return super().consume(*args, **options)

    def committed(self, *args: Any, **options: Any) -> list[TopicPartition]:
        self._follow()
        return super().committed(*args, **options)

    def list_topics(self, *args: Any, **options: Any) -> ClusterMetadata:
        self._follow()
        metadata: ClusterMetadata = super().list_topics(*args, **options)
        return metadata


class AdminClient(confluent_kafka.admin.AdminClient):
    """An admin client that keeps up with its password, and pauses between attempts to connect."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__({**ADMIN, **_current(config)})
        _watch(self, config)


def _current(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the password as it is now: a producer that is renewed has an old one."""
    current = {"error_cb": note_refusal, **config}
    if password := _passwords.get(config.get("sasl.username", "")):
        current["sasl.password"] = password
    return current


def _watch(client: Any, config: Mapping[str, Any]) -> None:
    if "security.protocol" in config:
        with _lock:
            _clients.add(client)


def note_refusal(error: KafkaError) -> None:
    """A client's `error_cb`: log, now and then, that the broker does not take it, or it not the broker."""
    global _refused, _reported_s
    if error.code() not in _REFUSALS:
        return
    now_s = time.monotonic()
    _refused = now_s, error.str()
    if now_s - _reported_s >= REPORT_EVERY_S:
        _reported_s = now_s
        logger.warning("no connection to Kafka is made: {}", error.str())


def refusal() -> str:
    """What was said at the last attempt to connect, if that has just failed; empty otherwise."""
    at_s, text = _refused
    return text if time.monotonic() - at_s < RECENT_S else ""


class PasswordWatch:
    """Gives the clients of this process a new password when the file has one."""

    def __init__(self, brokers: Brokers) -> None:
        self._brokers = brokers
        self._password: Watched[str] | None = None
        if brokers.password_file is not None:
            self._password = Watched((brokers.password_file,), self._read, self._report)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kafka-password", daemon=True)

    def start(self) -> None:
        if self._brokers.protocol != "PLAINTEXT":
            self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def check(self) -> None:
        """Read the file, and let the admin clients say what they have met, which they do only when they are polled."""
        with _lock:
            clients = list(_clients)
        if self._password is not None and self._password.refresh():
            self._set_login(clients, self._brokers.username, self._password.value)
        for client in clients:
            if isinstance(client, AdminClient):
                client.poll(0)

    def _read(self) -> str:
        try:
            return self._brokers.password()
        except Fatal as error:  # also when its text is damaged: it is tried again until it is mended
            raise OSError(str(error)) from error

    @staticmethod
    def _report(problem: str) -> None:
        logger.warning("the password of Kafka stays as it was: {}", problem)

    @staticmethod
    def _set_login(clients: list[Any], user: str, password: str) -> None:
        _passwords[user] = password
        for client in clients:
            if isinstance(client, Consumer):
                client.new_login = user, password
            else:
                client.set_sasl_credentials(user, password)
        logger.info("Kafka's user {!r} has a new password: connections log in with it from now on", user)

    def _run(self) -> None:
        while not self._stopping.wait(CHECK_EVERY_S):
            self.check()
