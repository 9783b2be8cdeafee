"""Clients follow the file of their password, and what a broker refuses is said."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError

from common.config.kafka import Brokers
from common.errors import Transient
from common.kafka import identity, scram, wire
from common.kafka.clients import client_config
from common.kafka.identity import AdminClient, Consumer, PasswordWatch, Producer, note_refusal, refusal
from common.secrets.change import pending_file
from common.tls.authority import Authority
from tests.waiting import eventually


@pytest.fixture
def brokers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Brokers:
    """A user of a broker that is not there."""
    password = tmp_path / "password"
    password.write_text("first")
    monkeypatch.setattr(identity, "_passwords", {})
    monkeypatch.setattr(identity, "_refused", (-identity.RECENT_S, ""))
    monkeypatch.setattr(identity, "_wrong_password_s", -identity.RECENT_S)
    monkeypatch.setattr(identity, "_woken", threading.Event())
    monkeypatch.setattr(identity, "_reported_s", -identity.REPORT_EVERY_S)
    authority = Authority(tmp_path).ensure("payment").authority
    return Brokers("127.0.0.1:1", "SASL_SSL", authority, "payment", password)


def config(brokers: Brokers) -> dict[str, Any]:
    return {**client_config(brokers, "test"), "log_level": 0}


def test_a_new_password_reaches_every_client_and_those_made_later(
    brokers: Brokers, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str, str]] = []
    for kind in (AdminClient, Producer, Consumer):
        monkeypatch.setattr(
            kind, "set_sasl_credentials", lambda self, *login: told.append((type(self).__name__, *login)), raising=False
        )
    watch, old = PasswordWatch(brokers), config(brokers)
    clients = [AdminClient(old), Producer(old)]
    polling = Consumer({**old, "group.id": "test"})
    watch.check()
    assert told == []
    assert brokers.password_file is not None
    brokers.password_file.write_text("second")
    watch.check()
    watch.check()
    assert sorted(told) == [("AdminClient", "payment", "second"), ("Producer", "payment", "second")]
    polling.consume(1, 0)
    assert told[2:] == [("Consumer", "payment", "second")]
    polling.close()
    assert identity._current(old)["sasl.password"] == "second"
    del clients


@pytest.fixture
def refused(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> Callable[[PasswordWatch, float], dict[str, str]]:
    """Refuses what a process logs in with, at a time in seconds. Returns what it logs in with then."""

    def refuse(watch: PasswordWatch, now_s: float) -> dict[str, str]:
        monkeypatch.setattr(time, "monotonic", lambda: now_s)
        note_refusal(KafkaError(KafkaError._AUTHENTICATION, "invalid credentials"))
        watch.check()
        return identity._passwords

    return refuse


def test_who_is_refused_while_the_password_changes_takes_the_other_one(
    brokers: Brokers, refused: Callable[[PasswordWatch, float], dict[str, str]]
) -> None:
    assert brokers.password_file is not None
    pending = pending_file(brokers.password_file)
    watch = PasswordWatch(brokers)
    assert refused(watch, 1.0) == {}, "there is no other one"
    pending.write_text("second")
    assert refused(watch, 2.0) == {"payment": "second"}
    assert refused(watch, 2.1) == {"payment": "second"}, "this connection may have begun before"
    assert refused(watch, 3.5) == {"payment": "first"}, "the change was killed before the broker knew it"
    assert refused(watch, 3.6) == {"payment": "second"}
    pending.replace(brokers.password_file)
    watch.check()
    assert refused(watch, 9.0) == {"payment": "second"}


def test_who_is_not_refused_stays_with_the_password_in_use(brokers: Brokers) -> None:
    assert brokers.password_file is not None
    pending_file(brokers.password_file).write_text("second")
    watch = PasswordWatch(brokers)
    note_refusal(KafkaError(KafkaError._SSL, "a certificate"))
    watch.check()
    assert identity._passwords == {}


def test_a_refusal_wakes_the_watch(brokers: Brokers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "CHECK_EVERY_S", 600.0)
    assert brokers.password_file is not None
    pending_file(brokers.password_file).write_text("second")
    watch = PasswordWatch(brokers)
    watch.start()
    note_refusal(KafkaError(KafkaError._AUTHENTICATION, "invalid credentials"))
    eventually(lambda: identity._passwords == {"payment": "second"}, "it takes the other password")
    watch.stop()


@pytest.mark.parametrize("known", ["first", "second", "neither"])
def test_a_request_by_hand_shows_both_passwords_while_one_changes(
    brokers: Brokers, monkeypatch: pytest.MonkeyPatch, known: str
) -> None:
    assert brokers.password_file is not None
    pending_file(brokers.password_file).write_text("second")

    @contextmanager
    def connected(_: Brokers, __: str, ___: int, password: str) -> Iterator[str]:
        if password != known:
            raise scram.Refused(f"not {password}")
        yield password

    monkeypatch.setattr(wire, "_connected", connected)
    monkeypatch.setattr(wire, "_exchange", lambda password, *_: password.encode())
    if known == "neither":
        with pytest.raises(Transient, match="does not take user 'payment': not first"):
            wire.request(brokers, "h", 1, 2, 3, b"")
    else:
        assert wire.request(brokers, "h", 1, 2, 3, b"").decode() == known


def test_a_file_that_is_gone_for_a_moment_changes_nothing(brokers: Brokers) -> None:
    watch = PasswordWatch(brokers)
    assert brokers.password_file is not None
    brokers.password_file.unlink()
    watch.check()
    assert identity._passwords == {}


@pytest.mark.parametrize("damaged", [b"", b"\0" * 32, b"\xff" * 32, b"sec\nond"])
def test_a_damaged_file_changes_nothing_until_it_is_mended(brokers: Brokers, damaged: bytes) -> None:
    watch, client = PasswordWatch(brokers), Producer(config(brokers))
    assert brokers.password_file is not None
    brokers.password_file.write_bytes(damaged)
    watch.check()
    assert identity._passwords == {}
    brokers.password_file.write_text("second")
    watch.check()
    assert identity._passwords == {"payment": "second"}
    del client


@pytest.mark.usefixtures("brokers")
def test_a_refusal_is_remembered_for_a_while_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    note_refusal(KafkaError(KafkaError._ALL_BROKERS_DOWN))
    assert refusal() == ""
    note_refusal(KafkaError(KafkaError._AUTHENTICATION, "invalid credentials"))
    assert refusal() == "invalid credentials"
    later_s = time.monotonic() + identity.RECENT_S
    monkeypatch.setattr(time, "monotonic", lambda: later_s)
    assert refusal() == ""
