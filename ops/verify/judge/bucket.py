"""The judgement of a bucket of orders: what a worker process does once all lines are put aside."""

from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from ops.verify.evidence import buckets as spill
from ops.verify.evidence.lines import ACCEPTED, CLAIM, ID_LENGTH, Evidence, gather, read
from ops.verify.evidence.progress import UNREAD, Marks, Progress
from ops.verify.judge.fast_path import is_right
from ops.verify.judge.order import judge
from ops.verify.statements import Finding, Statement


class FirstLook(NamedTuple):
    """What the first look at some buckets came to. Who has to be looked at again stands in their `.again` files."""

    checked: Counter[Statement]
    again: int


def look(directory: Path, buckets: Iterable[str], marks: Marks) -> FirstLook:
    """Judge every order of these buckets for the first time."""
    progress = Progress(marks)
    placed = settled = decisions = again = 0
    for bucket in buckets:
        suspects = []
        known = _Known(directory, bucket, "[dl]*")
        for order_id, text in known.texts.items():
            if is_right(text, known.requests.get(order_id), progress):
                placed, settled, decisions = placed + 1, settled + 1, decisions + 2
                continue
            judged = judge(known.evidence(order_id), progress)
            placed += judged.is_placed
            settled += judged.is_settled
            decisions += judged.decisions
            if judged.verdict.findings or judged.verdict.waiting:
                suspects.append(order_id)
        suspects += known.accepted - known.texts.keys()
        if suspects:
            again_file(directory, bucket).write_text("".join(f"{order_id}\n" for order_id in suspects))
            again += len(suspects)
    checked = {Statement.DECIDED: placed, Statement.OUTCOME: settled, Statement.ONCE: decisions}
    return FirstLook(Counter(checked), again)


class _Known:
    """What the lines of a bucket say, of all its orders or of some."""

    def __init__(self, directory: Path, bucket: str, sources: str, orders: Collection[str] | None = None) -> None:
        def found(sources: str) -> Iterable[str]:
            lines = spill.lines(directory, bucket, sources)
            return lines if orders is None else (line for line in lines if line[:ID_LENGTH] in orders)

        self.texts = gather(found(sources))
        self.requests = gather(found("q*"))
        self.accepted = gather(found("a*")).keys()
        self.claims = gather(found("t*")).keys()

    def evidence(self, order_id: str) -> Evidence:
        parts = [self.texts.get(order_id), self.requests.get(order_id)]
        parts += [tag for tag, orders in ((ACCEPTED, self.accepted), (CLAIM, self.claims)) if order_id in orders]
        return read("\n".join(filter(None, parts)))


def again_file(directory: Path, bucket: str) -> Path:
    return directory / f"again.{bucket}"


def to_look_at_again(directory: Path, bucket: str) -> list[str]:
    path = again_file(directory, bucket)
    return path.read_text().splitlines() if path.exists() else []


class SecondLook(NamedTuple):
    """An order looked at again, after its readers have come to the ends, or could not."""

    order_id: str
    findings: tuple[Finding, ...]
    is_unread: bool
    """Whether a record of the first look has still not been read by all."""
    evidence: Evidence


def look_again(directory: Path, bucket: str, first: Marks, second: Marks) -> Iterable[SecondLook]:
    """Judge the suspects of a bucket by the log as it was put aside and the rows as they are now."""
    suspects = set(to_look_at_again(directory, bucket))
    if not suspects:
        return
    known = _Known(directory, bucket, "[el]*", suspects)
    progress = Progress(second)
    for order_id in suspects:
        evidence = known.evidence(order_id)
        judged = judge(evidence, progress)
        is_unread = judged.verdict.waiting and any(
            UNREAD in second.progress(partition.topic, partition.number, record.offset)
            for record in evidence.records
            for partition in (record.place,)
            if record.offset < first.ends[partition]
        )
        yield SecondLook(order_id, judged.verdict.findings, is_unread, evidence)
