"""`python -m tests.fuzz [--requests N] [--seed N] [--only NUMBER …] [--tokens] [--compare …]`: attack a stack of its
own.

First mutated events against the decoders, in this process; then hostile requests, and what they left behind; then
mutated events in the real topics. Ends with 1 when anything is wrong. `--only NUMBER` sends attack NUMBER of a seed
again, alone. With `--tokens`, it attacks instances that ask for credentials, with good, bad and mutated ones and
without any: no stranger may place an order. With `--compare`, a second order api, perhaps with other settings, is sent
the same bytes in pieces, and has to answer alike.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

import uvloop
from loguru import logger

from dev.settings import HOST
from tests.fuzz import campaign, events, stored
from tests.fuzz.campaign import Campaign, Held
from tests.fuzz.compare import compare
from tests.fuzz.requests import CUSTOMERS, PRODUCTS
from tests.fuzz.topics import Poisoned
from tests.fuzz.wire import Target
from tests.guarded import guarded
from tests.stack import Stack
from tests.waiting import eventually

POISON: Final = 5_000
GROWTH_BYTES_MAX: Final = 24 * 1024 * 1024
DESCRIPTORS_MORE_MAX: Final = 8
CONFIRMED_S: Final = 1.0
SHOWN: Final = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--requests",
        type=int,
        default=200_000,
        metavar="N",
        help="requests to send, and events to mutate (%(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=1, metavar="N", help="the seed that they are drawn from (%(default)s)"
    )
    parser.add_argument("--only", type=int, nargs="+", metavar="NUMBER", help="send these attacks of the seed alone")
    parser.add_argument(
        "--compare", nargs="*", metavar="NAME=VALUE", help="settings of a second order api that has to answer alike"
    )
    parser.add_argument("--tokens", action="store_true", help="attack instances that ask for credentials")
    chosen = parser.parse_args()
    logger.remove()
    numbers = chosen.only or range(chosen.requests)
    if chosen.compare is not None:
        wrong = differences(chosen.seed, numbers, dict(setting.split("=", 1) for setting in chosen.compare))
    elif chosen.only:
        wrong = attacked(chosen.seed, numbers, tokens=chosen.tokens)
    else:
        wrong = decoded(chosen.seed, numbers) + attacked(chosen.seed, numbers, whole=True, tokens=chosen.tokens)
    for problem in wrong[:SHOWN]:
        print(f"WRONG  {problem}")
    print(f"{len(wrong)} wrong")
    return 1 if wrong else 0


def decoded(seed: int, numbers: Sequence[int]) -> list[str]:
    """Mutated events against the decoders."""
    began = time.monotonic()
    outcome = events.run(seed, numbers)
    took_s = time.monotonic() - began
    print(f"{len(numbers):,} mutated events of seed {seed}, in {took_s:.0f} s, by what a decoder said:\n")
    topics = sorted({topic for topic, _ in outcome.counts})
    print("| topic | accepted | refused |\n|---|--:|--:|")
    for topic in topics:
        print(f"| {topic} | {outcome.counts[topic, 'accepted']:,} | {outcome.counts[topic, 'refused']:,} |")
    print()
    return [f"event {number}: {problem}" for number, problem in outcome.wrong.items()]


def attacked(seed: int, numbers: Iterable[int], *, whole: bool = False, tokens: bool = False) -> list[str]:
    """Hostile requests, perhaps with credentials; if it is the `whole` of it, their leaks and then mutated events in
    the topics."""
    with running() as stack, guarded(stack, stack.directory) if tokens else nullcontext() as asking:
        order_ids = campaign.stock(stack)
        outcome = uvloop.run(campaign.run(stack, order_ids, seed, numbers, _print, asking))
        wrong = judged(stack, outcome, leaks=whole)
        show(outcome, seed)
        if whole:
            wrong += poisoned(stack, seed)
    return wrong


def differences(seed: int, numbers: Iterable[int], settings: dict[str, str]) -> list[str]:
    with running() as stack:
        campaign.stock(stack)
        stack.variables |= settings
        other = stack.launch("order-api", 2)
        stack.await_ready(other.name)
        left, right = ({"order-api": Target(HOST, i.admin_port)} for i in (stack["order-api-1"], other))
        findings = uvloop.run(compare(seed, numbers, left, right))
    return [f"{f.kind} {f.number}: {f.problem}\n       sent {f.sent[:2_000]!r}" for f in findings]


@contextmanager
def running() -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="tandem-fuzz-") as directory:
        stack = Stack(Path(directory))
        try:
            stack.start_infrastructure()
            stack.launch_all()
            yield stack
        finally:
            stack.stop()


def judged(stack: Stack, outcome: Campaign, *, leaks: bool) -> list[str]:
    """All that is wrong after a campaign."""
    wrong = [f"{f.kind} {f.number}: {f.problem}\n       sent {f.sent[:2_000]!r}" for f in outcome.findings]
    wrong += (f"{name} is not well: {missing}" for name, i in stack.instances.items() if (missing := i.unready()))
    began = time.monotonic()
    order_id = stack.place(CUSTOMERS[1], (PRODUCTS[0], 1))
    order = stack.await_settled(order_id)
    took_s = time.monotonic() - began
    if order["status"] != "confirmed" or took_s > CONFIRMED_S:
        wrong.append(f"a valid order afterwards is {order['status']} after {took_s:.2f} s")
    unsettled = "SELECT count(*) FROM orders WHERE settled_at IS NULL"
    eventually(lambda: stack.query("order", unsettled) == [(0,)], "every order is settled", 120)
    outcome.accepted.add(order_id)
    wrong += stored.wrongs(stack, outcome.accepted, outcome.cut)
    try:
        print(stored.prove(stack, outcome.accepted))
    except AssertionError as error:
        wrong.append(f"verify: {error}")
    return wrong + (list(leaked(outcome.held)) if leaks else [])


def leaked(by_instance: Mapping[str, Mapping[str, Held]]) -> Iterator[str]:
    """Memory and descriptors that processes hold afterwards and did not hold before."""
    for name, held in by_instance.items():
        grown = held["after"].pss_bytes - held["warm"].pss_bytes
        if grown > GROWTH_BYTES_MAX:
            yield f"{name} has grown by {grown / 2**20:.1f} MiB"
        if held["after"].descriptors > held["before"].descriptors + DESCRIPTORS_MORE_MAX:
            yield f"{name} holds {held['after'].descriptors} descriptors, {held['before'].descriptors} before"


def poisoned(stack: Stack, seed: int) -> list[str]:
    """Mutated events in the real topics: parked, while others' orders settle."""
    sent = Poisoned(stack, seed)
    sent.send(POISON)
    order = stack.await_settled(stack.place(CUSTOMERS[2], (PRODUCTS[0], 1)))
    for service, (parked, roots) in sent.await_parked().items():
        print(f"{service} has parked {parked:,} of {POISON:,} mutated events, {roots} as root causes")
    wrong = [] if order["status"] == "confirmed" else [f"meanwhile, an order is {order['status']}"]
    wrong += (f"{name} is not well: {missing}" for name, i in stack.instances.items() if (missing := i.unready()))
    print(stack.run_tool("ops.verify"))
    return wrong


def show(run: Campaign, seed: int) -> None:
    """The figures."""
    statuses = sorted({status for _, status in run.counts})
    print(f"| kind | {' | '.join(statuses)} |\n|---|{'--:|' * len(statuses)}")
    total: Counter[str] = Counter()
    for kind in sorted({kind for kind, _ in run.counts}):
        row = [run.counts.get((kind, status), 0) for status in statuses]
        total.update(dict(zip(statuses, row, strict=True)))
        print(f"| {kind} | {' | '.join(f'{count:,}' if count else '' for count in row)} |")
    print(f"| all | {' | '.join(f'{total[status]:,}' for status in statuses)} |\n")
    print("| process | PSS before, warm, after, MiB | descriptors | connections |\n|---|---|---|---|")
    for name, held in run.held.items():
        row_held = [held[when] for when in ("before", "warm", "after")]
        sizes = ", ".join(f"{h.pss_bytes / 2**20:.1f}" for h in row_held)
        descriptors = ", ".join(str(h.descriptors) for h in row_held)
        print(f"| {name} | {sizes} | {descriptors} | {', '.join(str(h.connections) for h in row_held)} |")
    print(f"\nseed {seed}: {run.requests:,} requests in {run.seconds:.0f} s; {len(run.accepted):,} orders accepted")
    if len(run.polite_ms) > 1:
        cuts = statistics.quantiles(run.polite_ms, n=100)
        print(
            f"a polite client meanwhile, {len(run.polite_ms):,} orders: p50 {cuts[49]:.1f} ms, p95 {cuts[94]:.1f} ms, "
            f"p99 {cuts[98]:.1f} ms, at most {max(run.polite_ms):.1f} ms; {run.polite_refused} refused with 503"
        )
    if run.slow_s:
        print(f"{len(run.slow_s)} slow clients were cut off after {min(run.slow_s):.1f} to {max(run.slow_s):.1f} s")


def _print(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
