"""Clients that keep up with their password, and what a broker says that does not take them.

A password may be changed at any time. A client logs in with the new one from its next connection on; those that it has
stay. While it is changed, the new one is in a second file (`common.secrets.change`): a client that is refused takes it
at once, and its next attempt succeeds.
"""

import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import replace
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
from common.secrets.change import pending_file

CHECK_EVERY_S: Final = 1.0
REPORT_EVERY_S: Final = 10.0
RECENT_S: Final = 15.0
_WRONG_PASSWORD: Final = frozenset({KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED})
_REFUSALS: Final = _WRONG_PASSWORD | {KafkaError._SSL}

_lock: Final = threading.Lock()
_clients: Final[weakref.WeakSet[Any]] = weakref.WeakSet()
_passwords: Final[dict[str, str]] = {}
"""The password of each user that was changed since this process began."""
_refused = (-RECENT_S, "")
_wrong_password_s = -RECENT_S
_woken: Final = threading.Event()
"""Set when a password was refused: the watch looks for another one at once."""
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
    global _refused, _reported_s, _wrong_password_s
    if error.code() not in _REFUSALS:
        return
    now_s = time.monotonic()
    _refused = now_s, error.str()
    if error.code() in _WRONG_PASSWORD:
        _wrong_password_s = now_s
        _woken.set()
    if now_s - _reported_s >= REPORT_EVERY_S:
        _reported_s = now_s
        logger.warning("no connection to Kafka is made: {}", error.str())


def refusal() -> str:
    """What was said at the last attempt to connect, if that has just failed; empty otherwise."""
    at_s, text = _refused
    return text if time.monotonic() - at_s < RECENT_S else ""


class PasswordWatch:
    """Gives the clients of this process a new password when the file has one, or when the broker knows it before."""

    def __init__(self, brokers: Brokers) -> None:
        self._brokers = brokers
        self._password: Watched[str] | None = None
        self._in_use = ""
        self._taken_s = 0.0
        if brokers.password_file is not None:
            self._password = Watched((brokers.password_file,), self._read, self._report)
            self._in_use = self._password.value
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kafka-password", daemon=True)

    def start(self) -> None:
        if self._brokers.protocol != "PLAINTEXT":
            self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        _woken.set()

    def check(self) -> None:
        """Read the file, take the other password if the one in use is refused, and let the admin clients say what they
        have met, which they do only when they are polled."""
        with _lock:
            clients = list(_clients)
        if self._password is not None:
            current = self._password.value if self._password.refresh() else self._other_password(self._password.value)
            if current not in ("", self._in_use):
                self._take(clients, current)
        for client in clients:
            if isinstance(client, AdminClient):
                client.poll(0)

    def _other_password(self, current: str) -> str:
        """The one to try when that in use was refused; empty if there is none.

        The one of a change is taken at once. The way back is for a change that was killed before the broker knew it. It
        takes a while, since connections that began with the current one may still be refused.
        """
        if _wrong_password_s < self._taken_s:
            return ""
        if self._in_use != current:
            return current if time.monotonic() - self._taken_s >= CHECK_EVERY_S else ""
        assert self._brokers.password_file is not None
        try:
            pending = replace(self._brokers, password_file=pending_file(self._brokers.password_file)).password()
        except Fatal:  # there is none
            return ""
        return pending if pending != current else ""

    def _read(self) -> str:
        try:
            return self._brokers.password()
        except Fatal as error:  # also when its text is damaged: it is tried again until it is mended
            raise OSError(str(error)) from error

    @staticmethod
    def _report(problem: str) -> None:
        logger.warning("the password of Kafka stays as it was: {}", problem)

    def _take(self, clients: list[Any], password: str) -> None:
        user = self._brokers.username
        self._in_use, self._taken_s = password, time.monotonic()
        _passwords[user] = password
        for client in clients:
            if isinstance(client, Consumer):
                client.new_login = user, password
            else:
                client.set_sasl_credentials(user, password)
        logger.info("Kafka's user {!r} has a new password: connections log in with it from now on", user)

    def _run(self) -> None:
        while True:
            _woken.wait(CHECK_EVERY_S)
            _woken.clear()
            if self._stopping.is_set():
                return
            self.check()
