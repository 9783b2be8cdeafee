"""How `just up` waits: it ends with a cause, and does not repeat itself."""

import pytest

from dev.waiting import Progress, Waiting, cause


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_waiting_ends_for_a_program_that_keeps_ending_but_not_for_one_that_recovers() -> None:
    clock = Clock()
    waiting = Waiting(["postgres"], limit_s=10_000, silent_s=60, clock=clock)
    waiting.note("postgres", Progress("exited too quickly", pid=0))
    waiting.note("postgres", Progress("the database system is starting up", pid=12))
    for _ in range(100):
        clock.now += 50
        waiting.note("postgres", Progress("the database system is starting up", pid=12, logged=True))
        assert waiting.late() == []
    for pid in (13, 0, 14):  # each runs for some seconds before it ends
        clock.now += 5
        waiting.note("postgres", Progress("the database system is starting up", pid=pid, logged=True))
    assert waiting.late() == ["postgres"]


def test_waiting_with_a_limit_ends_with_it() -> None:
    clock = Clock()
    waiting = Waiting(["payment-1"], limit_s=90, clock=clock)
    waiting.note("payment-1", Progress("joining the group"))
    clock.now = 91
    assert waiting.late() == ["payment-1"]
    waiting.note("payment-1", Progress(None))
    assert waiting.late() == []


def test_waiting_ends_for_a_program_that_cannot_become_ready_or_falls_silent() -> None:
    clock = Clock()
    waiting = Waiting(["postgres", "kafka"], limit_s=900, silent_s=60, clock=clock)
    waiting.note("kafka", Progress("nothing listens on port 9092 yet"))
    waiting.note("postgres", Progress("password authentication failed", hopeless=True))
    assert waiting.late() == ["postgres"]
    clock.now = 61
    assert waiting.late() == ["postgres", "kafka"]


def test_an_unchanged_problem_is_reported_less_and_less_often(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    waiting = Waiting(["kafka"], limit_s=900, clock=clock)
    for _ in range(900):
        clock.now += 0.1
        waiting.note("kafka", Progress("nothing listens on port 9092 yet"))
        waiting.report()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 10
    assert lines[0] == "waiting for kafka: nothing listens on port 9092 yet"
    assert lines[-1].endswith(" s)")


@pytest.mark.parametrize(
    ("log", "shown"),
    [
        (
            [
                "2026-11-28T19:00:00.000Z [1] LOG:  starting PostgreSQL 18.1",
                *["2026-11-28T19:00:00.001Z [1] FATAL:  could not create lock file: No space left on device"] * 3,
            ],
            ["FATAL:  could not create lock file", "-> free some space"],
        ),
        (
            [
                "[main] ERROR kafka.Kafka$ - Exiting Kafka due to fatal exception",
                "java.lang.RuntimeException: Invalid cluster.id in: /t/kafka/log/meta.properties",
                *["\tat kafka.server.BrokerServer.startup(BrokerServer.scala:123)"] * 40,
                "\t... 12 more",
                "[main] INFO kafka.server - shutting down",
            ],
            ["Exiting Kafka due to fatal exception", "Invalid cluster.id"],
        ),
        (
            [
                "Traceback (most recent call last):",
                *['  File "x.py", line 3', "    f()"] * 9,
                "OSError: x",
            ],
            ["OSError: x"],
        ),
        (
            ['{"time":"19:00","level":"CRITICAL","message":"no such database"}'],
            ["no such database"],
        ),
        (["plain words"], ["plain words"]),
        (
            ["PostgreSQL: could not extend file: No space left on device", "migrate: payment: applying"],
            ["could not extend file", "-> free some space"],
        ),
        ([], ["(it has logged nothing)"]),
    ],
    ids=["postgres", "java", "python", "json", "other", "disk", "nothing"],
)
def test_the_cause_is_the_last_complaint_of_a_program(log: list[str], shown: list[str]) -> None:
    lines = cause(log).splitlines()
    assert len(lines) == len(shown)
    assert all(words in line for words, line in zip(shown, lines, strict=True))
