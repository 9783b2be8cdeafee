"""What a load of orders met while a broker was away. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from bench.load.latency import summary, supported
from bench.load.spec import NO_ANSWER, Records

ACCEPTED: Final = 202
REFUSED: Final = 503


class Span(NamedTuple):
    """From when the fault began until all copies were complete again; seconds since the start of the load."""

    begins_s: float
    ends_s: float


class Effect(NamedTuple):
    """The answers to the requests that were due within a span, and how the time between them went."""

    pause_s: float
    """The longest time without an acknowledged order in the partition that had the longest."""
    pause_of_all_s: float
    """The longest time without any acknowledged order."""
    before_p99_ms: float | None
    """Of accepted orders that were due before the fault."""
    p99_ms: float | None
    accepted: int
    refused: int
    """Orders answered with 503."""
    unanswered: int
    wrong: tuple[int, ...]
    """Other statuses, which there must not be."""


def judge(records: Records, span: Span, partitions: Mapping[str, int]) -> Effect:
    """`partitions` are those of the accepted orders, by id."""
    due = [ns / 1e9 for ns in records.due_ns]
    done = [ns / 1e9 for ns in records.done_ns]
    within = [number for number, at in enumerate(due) if span.begins_s <= at < span.ends_s]
    statuses = [records.statuses[number] for number in within]
    acknowledged: dict[int, list[float]] = {}
    for number, order_id in records.ids:
        acknowledged.setdefault(partitions.get(order_id, -1), []).append(done[number])
    taken = [number for number, status in enumerate(records.statuses) if status == ACCEPTED]
    return Effect(
        pause_s=max((longest_gap(times, span) for times in acknowledged.values()), default=span.ends_s - span.begins_s),
        pause_of_all_s=longest_gap((time for times in acknowledged.values() for time in times), span),
        before_p99_ms=_p99_ms(due, done, [number for number in taken if due[number] < span.begins_s]),
        p99_ms=_p99_ms(due, done, [number for number in taken if span.begins_s <= due[number] < span.ends_s]),
        accepted=statuses.count(ACCEPTED),
        refused=statuses.count(REFUSED),
        unanswered=statuses.count(NO_ANSWER),
        wrong=tuple(sorted(set(records.statuses) - {ACCEPTED, REFUSED, NO_ANSWER})),
    )


def longest_gap(times: Iterable[float], span: Span) -> float:
    """The longest time within a span in which nothing happened."""
    moments = [span.begins_s, *sorted(time for time in times if span.begins_s < time < span.ends_s), span.ends_s]
    return max(later - earlier for earlier, later in pairwise(moments))


def _p99_ms(due: Sequence[float], done: Sequence[float], numbers: Sequence[int]) -> float | None:
    if not supported(len(numbers), 99):
        return None
    return summary(round((done[number] - due[number]) * 1e6) for number in numbers).p99
