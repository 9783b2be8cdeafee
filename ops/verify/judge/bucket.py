"""The judgement of a bucket of orders: what a worker process does once all lines are written."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ops.verify.evidence import buckets
from ops.verify.evidence.kinds import PLACED
from ops.verify.evidence.lines import ID_LENGTH, Evidence, Tag, gather, read
from ops.verify.evidence.progress import UNREAD, Progress
from ops.verify.judge.order import is_right, judge
from ops.verify.statements import DECIDED, ONCE, OUTCOME, Finding, Statement


def judge_all(directory: Path, names: Iterable[str], progress: Progress) -> Counter[Statement]:
    """Judge every order of these buckets; returns what was checked. An order with a finding, or with an unread record,
    is a suspect. The suspects are listed in a file for each bucket."""
    placed = settled = decisions = 0
    for name in names:
        suspects = []
        bucket = _Bucket(directory, name, "[dl]*")
        for order_id, text in bucket.texts.items():
            if is_right(text, bucket.requests.get(order_id), progress):
                placed, settled, decisions = placed + 1, settled + 1, decisions + 2
                continue
            evidence = bucket.evidence(order_id)
            verdict = judge(evidence, progress)
            placed += any(record.kind == PLACED for record in evidence.records)
            settled += bool(evidence.orders) and evidence.orders[0].settled == "t"
            decisions += len(evidence.payments) + len(evidence.reservations)
            if verdict.findings or verdict.is_waiting:
                suspects.append(order_id)
        suspects += bucket.accepted - bucket.texts.keys()
        if suspects:
            (directory / f"suspects.{name}").write_text("".join(f"{order_id}\n" for order_id in suspects))
    return Counter({DECIDED: placed, OUTCOME: settled, ONCE: decisions})


class _Bucket:
    """The lines of a bucket by order, for all its orders or for some."""

    def __init__(self, directory: Path, name: str, sources: str, orders: Collection[str] | None = None) -> None:
        def lines(sources: str) -> Iterable[str]:
            every = buckets.lines(directory, name, sources)
            return every if orders is None else (line for line in every if line[:ID_LENGTH] in orders)

        self.texts = gather(lines(sources))
        self.requests = gather(lines("q*"))
        self.accepted = gather(lines("a*")).keys()
        self._claims = gather(lines("t*")).keys()

    def evidence(self, order_id: str) -> Evidence:
        parts = [self.texts.get(order_id), self.requests.get(order_id)]
        parts += [Tag.ACCEPTED] if order_id in self.accepted else []
        parts += [Tag.CLAIM] if order_id in self._claims else []
        return read("\n".join(filter(None, parts)))


def suspects_of(directory: Path, bucket: str = "*") -> Iterator[str]:
    """The suspects of a bucket, or of all."""
    for path in directory.glob(f"suspects.{bucket}"):
        yield from path.read_text().splitlines()


class Suspect(NamedTuple):
    """An order judged again, after its readers have come to the ends, or could not."""

    order_id: str
    findings: tuple[Finding, ...]
    is_unread: bool
    """Whether a record of the first pass has still not been read by all."""
    evidence: Evidence


def judge_suspects(directory: Path, name: str, first: Progress, second: Progress) -> Iterator[Suspect]:
    """Judge the suspects of a bucket again, by the log and by the rows as they are now."""
    suspects = set(suspects_of(directory, name))
    if not suspects:
        return
    bucket = _Bucket(directory, name, "[el]*", suspects)
    for order_id in suspects:
        evidence = bucket.evidence(order_id)
        verdict = judge(evidence, second)
        is_unread = verdict.is_waiting and any(
            record.offset < first.ends[record.partition] and UNREAD in second.of(*record.partition, record.offset)
            for record in evidence.records
        )
        yield Suspect(order_id, verdict.findings, is_unread, evidence)
