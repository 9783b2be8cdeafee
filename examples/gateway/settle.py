"""Captures what was authorised for confirmed orders, and releases the rest. It tries until the gateway has said so.

A batch only notes what is wanted. So an outcome costs the batch loop nothing, and the gateway may be away for hours.
"""

import asyncio
from itertools import islice
from typing import Final

from loguru import logger

from common.backoff import delays_s
from common.config.process import Process
from common.postgres import AsyncConn, connect_async
from common.worker import Worker
from examples.gateway import store
from examples.gateway.client import Gateway, Unanswered
from examples.gateway.store import Task

AT_ONCE: Final = 50
LEASE_S: Final = 30.0
"""More than all requests of a round take."""
IDLE_S: Final = 0.2
ATTEMPTS_MAX: Final = 20
"""Beyond, the delay does not grow any more."""


class Settler(Worker):
    def __init__(self, process: Process, url: str) -> None:
        super().__init__("card settlement", lambda: asyncio.run(self._settle_all(process, url)))

    async def _settle_all(self, process: Process, url: str) -> None:
        gateway = Gateway(url)
        connection = await connect_async(process.database_url, f"{process.instance}-cards")
        try:
            self.report("")
            while not self.stopping.is_set():
                if not gateway.breaker.admits(asyncio.get_running_loop().time()):
                    self.report("the card gateway does not answer")
                    await asyncio.sleep(IDLE_S)
                    continue
                tasks = await store.take(connection, AT_ONCE, LEASE_S)
                for task, problem in zip(
                    tasks, await asyncio.gather(*(settle(gateway, t) for t in tasks)), strict=True
                ):
                    await self._note(connection, task, problem)
                if not gateway.breaker.is_open:
                    self.report("")
                if not tasks:
                    await asyncio.sleep(IDLE_S)
        finally:
            await connection.close()
            await gateway.close()

    async def _note(self, connection: AsyncConn, task: Task, problem: str) -> None:
        if not problem:
            await store.done(connection, task)
            return
        delay_s = next(islice(delays_s(), min(task.attempts, ATTEMPTS_MAX) - 1, None))
        await store.later(connection, task, problem, delay_s)
        logger.warning("cannot {} a card payment yet: {}", task.wanted, problem, order=task.order_id)


async def settle(gateway: Gateway, task: Task) -> str:
    """Do what is wanted; returns the problem, or "" when it is done. Repeating it changes nothing more."""
    try:
        # Not every gateway is idempotent: an earlier attempt may have had an effect without an answer, or be one that a
        # restored database does not know of.
        state = await gateway.state(task.order_id, task.customer_id)
        if task.wanted == "capture":
            if state != "captured":
                state = await gateway.change(task.order_id, task.customer_id, "capture")
            return "" if state == "captured" else f"it cannot be captured, since it is {state}"
        if state == "captured":
            state = await gateway.change(task.order_id, task.customer_id, "refund")
        elif state in (None, "authorised"):
            state = await gateway.change(task.order_id, task.customer_id, "void")
        return "" if state in ("voided", "refunded", "declined") else f"it cannot be released, since it is {state}"
    except Unanswered as unanswered:
        return str(unanswered)
