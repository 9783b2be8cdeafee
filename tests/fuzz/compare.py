"""Sends the same bytes to two servers, which have to answer alike: the same statuses, the same sorts of problem. The
second server gets each request in two pieces, so it never uses its fast lane. The two may be one server: then the fast
lane is compared with the ordinary way.
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
"""One server may be full, once or twice, and refuse a request that the other one accepts."""

Seen = list[tuple[int, str]]


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
            seen: list[Seen] = []
            for _ in range(LOOKS):
                seen = [_seen(await r.attack(attack, k)) for r, k in zip(runners, kept, strict=True)]
                if seen[0] == seen[1]:
                    break
            else:
                problem = f"one answers {seen[0]}, the other {seen[1]}"
                differences.append(Finding(number, attack.kind, problem, b"".join(attack.parts)))
        for connections in kept:
            for connection in connections.values():
                connection.close()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return differences + [finding for runner in runners for finding in runner.findings]


def _seen(reply: Reply) -> Seen:
    return [(answer.status, oracle.problem_type(answer)) for answer in reply.answers]
