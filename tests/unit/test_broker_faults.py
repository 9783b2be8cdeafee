"""What a load met while a broker was away: how the chaos with three brokers judges it."""

from array import array

from bench.load.spec import NO_ANSWER, Records, Spec
from tests.chaos.brokers.faults import INJECT, PLAN
from tests.chaos.brokers.measure import Span, judge, longest_gap

S = 1_000_000_000


def records(answers: list[tuple[float, float, int, str]]) -> Records:
    """Each answer: when its request was due and when it was answered, its status and its order."""
    due, done, statuses, ids = zip(*answers, strict=True)
    return Records(
        spec=Spec(port=1, mode="open", duration_s=1, connections=1),
        due_ns=array("q", [int(at * S) for at in due]),
        done_ns=array("q", [int(at * S) for at in done]),
        statuses=array("H", statuses),
        ids=[(number, order_id) for number, order_id in enumerate(ids) if order_id],
        started_wall_ns=0,
        elapsed_s=1,
        cpu_s=1,
        bytes_sent=0,
        bytes_received=0,
        connections=1,
        waited_for_connection=0,
        late=0,
    )


def test_a_pause_is_the_longest_time_without_an_acknowledgement() -> None:
    assert longest_gap([1, 2, 7, 9], Span(0, 10)) == 5
    assert longest_gap([2.5], Span(0, 10)) == 7.5, "it may go on until the end"
    assert longest_gap([], Span(3, 10)) == 7
    assert longest_gap([1, 20], Span(3, 10)) == 7, "what was before and after does not count"


def test_a_partition_that_waits_is_not_hidden_by_the_others() -> None:
    """One partition's leader is away for 4 s; the others go on every half second."""
    others = [(at / 2, at / 2 + 0.01, 202, "b") for at in range(20)]
    waited = [(1.0, 1.01, 202, "a"), (2.0, 6.0, 202, "a"), (7.0, 7.01, 202, "a")]
    effect = judge(records(others + waited), Span(1, 9), {"a": 1, "b": 2})
    assert round(effect.pause_s, 2) == 4.99
    assert round(effect.pause_of_all_s, 2) == 0.5


def test_answers_within_the_span_are_counted_and_others_are_wrong() -> None:
    answers = [
        (0.0, 0.1, 503, ""),
        (1.0, 1.1, 202, "a"),
        (1.5, 1.6, 503, ""),
        (2.0, 9.0, NO_ANSWER, ""),
        (4.0, 4.1, 500, ""),
    ]
    effect = judge(records(answers), Span(1, 4), {"a": 0})
    assert (effect.accepted, effect.refused, effect.unanswered, effect.wrong) == (1, 1, 1, (500,))


def test_latencies_before_and_during_a_fault_are_kept_apart() -> None:
    quick = [(at / 1000, at / 1000 + 0.01, 202, "a") for at in range(1000)]
    slow = [(1 + at / 1000, 1 + at / 1000 + 2, 202, "a") for at in range(1000)]
    effect = judge(records(quick + slow), Span(1, 3), {"a": 0})
    assert effect.before_p99_ms is not None
    assert effect.p99_ms is not None
    assert round(effect.before_p99_ms) == 10
    assert round(effect.p99_ms / 10) == 200
    assert judge(records(quick[:9]), Span(0, 1), {"a": 0}).p99_ms is None, (
        "nine say nothing about the 99th of a hundred"
    )


def test_every_broker_is_killed_frozen_and_restarted() -> None:
    assert {fault.kind for fault in PLAN} == set(INJECT)
    for kind in ("kill", "freeze", "roll"):
        assert {0, 1, 2, 3} - {0} <= {target for fault in PLAN if fault.kind == kind for target in fault.targets}
    for kind in ("kill", "freeze", "cut-off"):
        assert any(fault.targets == (0,) for fault in PLAN if fault.kind == kind), f"{kind} of the controller"
