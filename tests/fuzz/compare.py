"""Two servers are sent the same bytes, and have to answer alike: the same statuses, the same sorts of problem.

The second one gets each request in two pieces. So it takes none of it by its fast lane, and the two may be one server:
what is compared then are its two ways to the same answer.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

from tests.fuzz import oracle
from tests.fuzz.attacks import draw
from tests.fuzz.runner import Finding, Reply, Runner
from tests.fuzz.wire import Connection, Target

CLIENTS: Final = 16
LOOKS: Final = 3
"""One may refuse for want of room, once or twice, what the other takes."""

Told = list[tuple[int, str]]


async def compare(
    seed: int, numbers: Iterable[int], left: Mapping[str, Target], right: Mapping[str, Target]
) -> list[Finding]:
    """Send these attacks of the seed to both. Returns where they differ, and what is wrong with either."""
    runners = (Runner(left), Runner(right, in_pieces=True))
    differences: list[Finding] = []
    remaining = iter(numbers)

    async def client() -> None:
        kept: tuple[dict[str, Connection], dict[str, Connection]] = ({}, {})
        for number in remaining:
            attack = draw(seed, number)
            if not attack.comparable or attack.due is None:
                continue
            told: list[Told] = []
            for _ in range(LOOKS):
                told = [_told(await r.attack(attack, k)) for r, k in zip(runners, kept, strict=True)]
                if told[0] == told[1]:
                    break
            else:
                what = f"one answers {told[0]}, the other {told[1]}"
                differences.append(Finding(number, attack.kind, what, b"".join(attack.parts)))
        for connections in kept:
            for connection in connections.values():
                connection.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return differences + [finding for runner in runners for finding in runner.findings]


def _told(reply: Reply) -> Told:
    return [(answer.status, oracle.problem_type(answer)) for answer in reply.answers]
