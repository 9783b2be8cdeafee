"""Sends attacks and judges what comes back. Every fault becomes a `Finding`, with the bytes that show it."""

import asyncio
import contextlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from tests.fuzz import attacks, oracle
from tests.fuzz.attack import Attack
from tests.fuzz.credentials import People
from tests.fuzz.minimise import least
from tests.fuzz.requests import ORDER_ID, nobody_elses
from tests.fuzz.wire import Answer, Connection, Gone, NotHttp, Target

ANSWER_S: Final = 20.0
"""A due answer arrives within this time: the longest that a client may choose to wait is a second."""
QUIET_S: Final = 0.05
"""Where no answer is due, none is expected after this long without one."""
AGAIN_S: Final = 0.1
"""The same, when a finding is tried once more."""
CLOSE_S: Final = 20.0
PIECE_S: Final = 0.001
SLOW_PIECE_S: Final = 1.0
SLOW_S_MAX: Final = 60.0
"""A server cuts off a client that makes no progress within this time."""


class Finding(NamedTuple):
    """Something wrong. `sent` shows it, or is the least that was found to show it."""

    number: int
    kind: str
    problem: str
    sent: bytes


class Reply(NamedTuple):
    """What came back for an attack. `cut` when something sent has no answer, so that its result is unknown."""

    answers: tuple[Answer, ...] = ()
    cut: bool = False
    wrong: str = ""


class Runner:
    """Clients of one stack."""

    def __init__(
        self,
        targets: Mapping[str, Target],
        order_ids: Sequence[str] = (),
        say: Callable[[str], None] = lambda _: None,
        *,
        in_pieces: bool = False,
        people: People | None = None,
    ) -> None:
        """`order_ids` are those of orders that exist. Findings are printed at once, and kept. `in_pieces` sends the
        first byte of everything by itself. `people` send the attacks, where credentials are asked for.
        """
        self._people = people
        self._say = say
        self._in_pieces = in_pieces
        self._targets = targets
        self._order_ids = list(order_ids)
        self.counts: Counter[tuple[str, str]] = Counter()
        """Answers by kind of attack and status; "none" for what was not answered."""
        self.findings: list[Finding] = []
        self.accepted: set[str] = set()
        self.cut: list[bytes] = []
        """What was sent on connections that broke off before all was answered, as far as it names a customer."""
        self.slow_s: list[float] = []
        """How long slow clients were served until they were cut off."""

    def parts(self, attack: Attack) -> list[bytes]:
        """The parts of an attack as this stack gets them, with ids of its own orders."""
        order_id = self._order_ids[attack.number % len(self._order_ids)] if self._order_ids else ORDER_ID
        parts = [part.replace(ORDER_ID.encode(), order_id.encode()) for part in attack.parts]
        if self._people is not None:
            parts = self._people.of(attack.number).put_into(parts)
        return [parts[0][:1], parts[0][1:], *parts[1:]] if self._in_pieces else parts

    async def attack(self, attack: Attack, kept: dict[str, Connection]) -> Reply:
        """Send it, and judge what comes back. `kept` are a client's open connections, by service."""
        parts = self.parts(attack)
        try:
            if attack.ending == "slow":
                reply = await self._slowly(attack, parts)
            elif attack.ending == "keep":
                reply = await self._keeping(attack, parts, kept)
            else:
                reply = await self._once(attack, parts)
        except (NotHttp, oracle.Wrong) as error:
            reply = Reply(wrong=str(error), cut=True)
        except OSError as error:
            reply = Reply(wrong=f"no connection: {error}")
        self._note(attack, b"".join(parts), reply)
        return reply

    async def minimised(self, seed: int, finding: Finding) -> Finding:
        """The finding with the fewest bytes that show it, if they can be found; not if it depends on time."""
        attack = attacks.draw(seed, finding.number)._replace(due=None, request_ids=(), ending="close")

        async def still(sent: bytes) -> bool:
            try:
                reply = await self._once(attack, [sent], AGAIN_S)
            except (NotHttp, oracle.Wrong) as error:
                reply = Reply(wrong=str(error))
            return _sort(reply.wrong) == _sort(finding.problem)

        if attack.head_only or not finding.sent or not await still(finding.sent):
            return finding
        return finding._replace(sent=await least(finding.sent, still))

    def _note(self, attack: Attack, sent: bytes, reply: Reply) -> None:
        known = self._people is None or self._people.of(attack.number).good is not False
        for answer in reply.answers:
            self.counts[attack.kind, str(answer.status)] += 1
            order_ids = oracle.accepted(answer)
            self.accepted.update(order_ids)
            if order_ids and not known:
                self.report(Finding(attack.number, attack.kind, f"a stranger's orders {order_ids} are placed", sent))
        if missing := attack.requests - len(reply.answers):
            self.counts[attack.kind, "none"] += max(0, missing)
        if reply.cut:
            name = f'"{nobody_elses(attack.number)}"'.encode()
            self.cut.append(name + sent if b"customer" in sent else name)
        if reply.wrong:
            self.report(Finding(attack.number, attack.kind, reply.wrong, sent))

    def report(self, finding: Finding) -> None:
        self._say(f"{finding.kind} {finding.number}: {finding.problem}")
        self.findings.append(finding)

    async def _keeping(self, attack: Attack, parts: Sequence[bytes], kept: dict[str, Connection]) -> Reply:
        """On a connection that was used before, if there is one; after the answer it can be used again."""
        reused = kept.pop(attack.service, None)
        for connection in (reused, None):
            if connection is None:
                connection = await Connection.open(self._targets[attack.service])
            elif reused is None:
                continue
            await _send(connection, parts)
            try:
                async with asyncio.timeout(ANSWER_S):
                    answer = await connection.answer(head_only=attack.head_only)
            except Gone:
                connection.close()
                if connection is reused:
                    continue  # an idle connection may be closed at any time
                return Reply(wrong="closed without an answer", cut=True)
            except TimeoutError:
                connection.reset()
                return Reply(wrong=f"no answer within {ANSWER_S:.0f} s", cut=True)
            except NotHttp:
                connection.reset()
                raise
            if answer.closes:
                connection.close()
            else:
                kept[attack.service] = connection
            return _judged(attack, (answer,))
        raise AssertionError("unreachable")

    async def _once(self, attack: Attack, parts: Sequence[bytes], quiet_s: float = QUIET_S) -> Reply:
        """On a connection of its own."""
        connection = await Connection.open(self._targets[attack.service])
        answers: list[Answer] = []
        try:
            await _send(connection, parts)
            if b"HEAD" in parts[0] and attack.due is None:
                return Reply(cut=True)  # where its answer ends is not known to a client that does not know what it said
            await self._listen(connection, attack, answers, quiet_s)
            if attack.due is not None and len(answers) < attack.due:
                raise oracle.Wrong(f"{len(answers)} answers of {attack.due}: {[a.status for a in answers]}")
            cut = len(answers) < attack.requests or (attack.due is None and not answers[-1].closes)
            reply = _judged(attack, answers)._replace(cut=cut)
            if attack.ending == "half-close":
                connection.half_close()
                async with asyncio.timeout(CLOSE_S):
                    await connection.rest()
        except TimeoutError:
            return Reply(tuple(answers), True, f"still open {CLOSE_S:.0f} s after the client's end was closed")
        finally:
            connection.reset() if attack.ending == "reset" else connection.close()
        return reply

    async def _listen(self, connection: Connection, attack: Attack, answers: list[Answer], quiet_s: float) -> None:
        """Until all that is due has come, or nothing comes any more."""
        limit_s = quiet_s if attack.due is None else ANSWER_S
        with contextlib.suppress(TimeoutError, Gone):
            while attack.due is None or len(answers) < attack.due:
                async with asyncio.timeout(limit_s):
                    answers.append(await connection.answer())

    async def _slowly(self, attack: Attack, parts: Sequence[bytes]) -> Reply:
        """A part a second, until the server closes the connection."""
        connection = await Connection.open(self._targets[attack.service])
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def trickle() -> None:
            for part in parts:
                connection.send(part)
                await asyncio.sleep(SLOW_PIECE_S)

        trickling = asyncio.create_task(trickle())
        answers: list[Answer] = []
        try:
            async with asyncio.timeout(SLOW_S_MAX):
                with contextlib.suppress(Gone):
                    while True:
                        answers.append(await connection.answer())
        except TimeoutError:
            return Reply(tuple(answers), True, f"a slow client is not cut off after {SLOW_S_MAX:.0f} s")
        finally:
            trickling.cancel()
            connection.close()
        self.slow_s.append(loop.time() - began)
        return _judged(attack, answers)


def _sort(problem: str) -> str:
    """What a finding has in common with others of its sort."""
    return re.split(r"[:'\"{]", problem)[0]


async def _send(connection: Connection, parts: Sequence[bytes]) -> None:
    for number, part in enumerate(parts):
        if number:
            await asyncio.sleep(PIECE_S)
        connection.send(part)
    await connection.drained()


def _judged(attack: Attack, answers: Sequence[Answer]) -> Reply:
    for position, answer in enumerate(answers):
        request_id = attack.request_ids[position] if position < len(attack.request_ids) else None
        try:
            oracle.judge(answer, request_id=request_id, path=attack.path)
        except oracle.Wrong as wrong:
            return Reply(tuple(answers), wrong=str(wrong))
    return Reply(tuple(answers))
