"""Turns at shared threads: one principal's requests do not keep those of others waiting."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from common.auth.principal import ANYONE, Principal
from common.http.limits.turns import AT_ONCE, Turns
from tests.unit.principals import principal


def request_of(asker: Principal) -> Request:
    return Request({"type": "http", "headers": [], "state": {"principal": asker}})


async def answered_at_once(asker: Principal) -> tuple[int, int, Turns]:
    """How many of 50 requests of one principal, and then of one of another, are being answered."""
    turns, answered = Turns(), list[str]()
    done = asyncio.Event()

    async def endpoint(request: Request) -> Response:
        answered.append(request.scope["state"]["principal"].subject)
        await done.wait()
        return Response()

    limited = turns.limited(endpoint)
    requests = [asyncio.ensure_future(limited(request_of(asker))) for _ in range(50)]
    await asyncio.sleep(0)
    at_once = len(answered)
    requests.append(asyncio.ensure_future(limited(request_of(principal("olga", "operator")))))
    await asyncio.sleep(0)
    others = answered.count("olga")
    done.set()
    await asyncio.gather(*requests)
    assert len(answered) == 51
    return at_once, others, turns


def test_one_auditor_leaves_threads_of_the_console_to_others() -> None:
    at_once, others, turns = asyncio.run(answered_at_once(principal("axel", "auditor")))
    assert (at_once, others) == (AT_ONCE, 1)
    assert not turns._semaphores


def test_nobody_waits_where_nobody_is_told_from_others() -> None:
    assert asyncio.run(answered_at_once(ANYONE))[:2] == (50, 1)
