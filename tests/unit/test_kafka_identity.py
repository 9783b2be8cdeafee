"""Clients follow the file of their password, and what a broker refuses is said."""

import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError

from common.config.kafka import Brokers
from common.kafka import identity
from common.kafka.clients import client_config
from common.kafka.identity import AdminClient, Consumer, PasswordWatch, Producer, note_refusal, refusal
from common.tls.authority import Authority


@pytest.fixture
def brokers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Brokers:
    """A user of a broker that is not there."""
    password = tmp_path / "password"
    password.write_text("first")
    monkeypatch.setattr(identity, "_passwords", {})
    monkeypatch.setattr(identity, "_refused", (-identity.RECENT_S, ""))
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
