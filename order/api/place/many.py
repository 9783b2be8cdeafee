"""`POST /api/v1/orders/batch`: up to `LINES_MAX` orders, one a line (NDJSON), each accepted or refused by itself.

The answer has a line for each order, in the same sequence; blank lines have none. Its status is 200 if any order was
accepted. If none was, it is an error that a client cannot overlook: 503 if any line can be sent again, else 422.

Each line counts for the limit of requests of its sender, and those beyond it are refused with 429.

With an `Idempotency-Key` header the whole request has a key, from which each line without one of its own gets its key.
A client that gets no answer can send the whole request again if it has a key, or every line has; otherwise it cannot
know which lines were accepted.

Lines go into the log in chunks, in their sequence. All such requests together take at most `SHARE_MAX` of what may be
in flight, and the loop serves others between two chunks, so that single orders find room and time.

References: https://github.com/ndjson/ndjson-spec.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Final, NamedTuple

import msgspec
from msgspec import UNSET, Raw
from prometheus_client import Counter
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from common import metrics
from common.auth.guard import confined_to, principal_of
from common.auth.principal import Principal
from common.codec import encode
from common.events import OrderId, OrderPlaced
from common.http import problem
from common.http.limits.limiter import Limiter
from common.http.limits.places import Full, Places
from common.http.problem import Problem, ProblemError
from common.http.requests import (
    REPLAYED,
    checked_idempotency_key,
    idempotency_key,
    receive_body,
    within_limit,
)  # fmt: skip
from common.http.responses import request_id_of
from common.http.validation import decode_body
from common.kafka.produce.batch import Acknowledged
from order.api.log.orders_log import OrdersLog
from order.api.place.desk import OrderDesk, check_name
from order.api.place.idempotency import Begun, KeyedOrders, key_of_line, with_key
from order.api.requests import line_decoder
from order.api.responses import PLACED_NOTHING, LineResult, of_line

LINES_MAX: Final = 1_000
BYTES_MAX: Final = 4 * 1024 * 1024
UNDER_WAY_MAX: Final = 16
"""Requests at once in this process: each may hold its body and its answer in memory."""
UNDER_WAY_OF_CUSTOMER_MAX: Final = 2
"""Of these, requests of one customer: slow uploads of one must not keep out others."""
CHUNK_LINES: Final = 100
SHARE_MAX: Final = 0.5
NDJSON: Final = (b"application/x-ndjson", b"application/jsonl")

REPEATS_A_TOKEN: Final = 10
"""So many lines that were placed before cost as much as one new order. They have to be looked up; were they free, a
limit would keep nobody from sending the same request again and again, and were they as dear, a request that is sent
again would get no further than before."""
_lines: Final = Counter(
    "tandem_order_batch_lines_total", "Orders that came many in one request, by their answers.", ["status"]
)
_accepted_lines: Final = _lines.labels(202)


class Line(NamedTuple):
    """A line, and the key that it has by the key of its request."""

    content: bytes
    key: str | None


class Sent(NamedTuple):
    """A line on its way into the log; without `acknowledged`, the log has it already."""

    order_id: OrderId
    customer_id: str
    acknowledged: "asyncio.Future[Acknowledged] | None"
    keyed: bool = False
    repeated: bool = False


class WeightedSemaphore:
    """A number of permits. A caller that asks for more than are free waits, and no other caller overtakes it."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._turn = asyncio.Lock()  # it serves callers in their order; only the first of them waits for permits
        self._released = asyncio.Event()

    @asynccontextmanager
    async def acquire(self, amount: int) -> AsyncIterator[None]:
        """Hold `amount` permits, at most all there are."""
        async with self._turn:
            while amount > self._free:
                self._released.clear()
                await self._released.wait()
            self._free -= amount
        try:
            yield
        finally:
            self._free += amount
            self._released.set()


class PlaceMany:
    """Takes many orders in one request. Bare ASGI, behind the router."""

    def __init__(
        self, desk: OrderDesk, keyed: KeyedOrders, log: OrdersLog, in_flight_max: int, limiter: Limiter
    ) -> None:
        self._desk = desk
        self._limiter = limiter
        self._keyed = keyed
        self._log = log
        share = max(1, int(in_flight_max * SHARE_MAX))
        self._chunk_lines = min(CHUNK_LINES, share)
        self._in_flight = WeightedSemaphore(share)
        self._under_way = Places(UNDER_WAY_MAX, UNDER_WAY_OF_CUSTOMER_MAX)
        metrics.watch_pool("requests-of-many", UNDER_WAY_MAX, lambda: self._under_way.taken)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (refused := self._desk.unable()) is not None:
            raise ProblemError(refused)
        principal = principal_of(scope)
        if (full := self._under_way.full(principal)) is not None:
            raise ProblemError(no_room(full))
        with self._under_way.taking(principal):
            customer = confined_to(scope)
            key = idempotency_key(scope)
            headers = dict(scope["headers"])
            body = await receive_body(headers, receive, NDJSON, BYTES_MAX)
            numbers, lines = split(body)
            replayed = key is not None and await self._keyed.came_before(key, lines, customer)
            answers = await self._place_within_limit(principal, lines, headers.get(b"traceparent"), key, customer)
        request_id = request_id_of(scope).decode()
        await _response(results(numbers, answers, request_id), replayed)(scope, receive, send)

    async def _place_within_limit(
        self,
        principal: Principal,
        lines: Sequence[bytes],
        traceparent: bytes | None,
        key: str | None,
        customer: str | None,
    ) -> list[Sent | Problem]:
        """Place as many lines as the limit of their sender allows; the rest is refused. What lines save
        that were placed before goes to those behind them, so a request that is sent again gets further each time."""
        # The request itself has paid for one line.
        paid, limited = self._limiter.lines_of_principal(principal, perf_counter(), max(0, len(lines) - 1))
        answers: list[Sent | Problem] = []
        left = (paid + 1) * REPEATS_A_TOKEN
        while len(answers) < len(lines) and (count := left // REPEATS_A_TOKEN):
            begin = len(answers)
            placed = await self.place(lines[begin : begin + count], traceparent, key, customer, begin)
            repeats = sum(isinstance(answer, Sent) and answer.repeated for answer in placed)
            left -= repeats + (len(placed) - repeats) * REPEATS_A_TOKEN
            answers += placed
        return answers if limited is None else [*answers, *[limited] * (len(lines) - len(answers))]

    async def place(
        self,
        lines: Sequence[bytes],
        traceparent: bytes | None,
        key: str | None = None,
        customer: str | None = None,
        begin: int = 0,
    ) -> list[Sent | Problem]:
        """Place an order for each line; each must be this customer's, if one is given. The first one is the request's
        line `begin`, from 0. Returns in sequence where each went, or why it was refused."""
        turn = asyncio.Lock()
        size = self._chunk_lines
        numbered = enumerate(lines, begin + 1)
        keyed_lines = [Line(line, None if key is None else key_of_line(key, number)) for number, line in numbered]
        chunks = (keyed_lines[start : start + size] for start in range(0, len(lines), size))
        answers = await asyncio.gather(*(self._place_chunk(chunk, traceparent, customer, turn) for chunk in chunks))
        return [answer for chunk in answers for answer in chunk]

    async def _place_chunk(
        self, lines: Sequence[Line], traceparent: bytes | None, customer: str | None, turn: asyncio.Lock
    ) -> list[Sent | Problem]:
        async with self._in_flight.acquire(len(lines)):
            async with turn:
                answers = await self._send(lines, traceparent, customer)
                await asyncio.sleep(0)  # others are served before the next chunk
            # Most futures are done when the first of them wakes this task.
            return [await self._acknowledged(sent) if isinstance(sent, Sent) else sent for sent in answers]

    async def _send(
        self, lines: Sequence[Line], traceparent: bytes | None, customer: str | None
    ) -> list[Sent | Problem]:
        """Send a chunk to the log, in sequence, once the requests with keys are stored, all of them together."""
        if (refused := self._desk.refusal_of_many(len(lines))) is not None:
            return [refused] * len(lines)
        drafts = [self._draft(line, traceparent, customer) for line in lines]
        return [await self._send_draft(draft) for draft in drafts]

    def _draft(self, line: Line, traceparent: bytes | None, customer: str | None) -> Begun | OrderPlaced | Problem:
        try:
            request = decode_body(within_limit(line.content, "line"), line_decoder)
            check_name(request, customer)
            if request.idempotency_key is not UNSET:
                return self._keyed.begin(request, checked_idempotency_key(request.idempotency_key), traceparent)
            if line.key is not None:
                return self._keyed.begin(request, line.key, traceparent)
            return self._desk.draft(request, traceparent)
        except ProblemError as error:
            return error.problem

    async def _send_draft(self, draft: Begun | OrderPlaced | Problem) -> Sent | Problem:
        if isinstance(draft, Problem):
            return draft
        if isinstance(draft, OrderPlaced):
            order_id = OrderId(draft.subject)
            customer_id = draft.partitionkey
            return Sent(order_id, customer_id, self._log.send(order_id, customer_id, encode(draft)))
        try:
            kept = await self._keyed.kept(draft)
        except ProblemError as error:
            return error.problem
        sent = None if kept.in_log else self._keyed.send(kept)
        return Sent(kept.order_id, kept.customer_id, sent, keyed=True, repeated=kept.repeated)

    async def _acknowledged(self, sent: Sent) -> Sent | Problem:
        if sent.acknowledged is not None:
            try:
                await self._log.acknowledged(sent.order_id, sent.customer_id, sent.acknowledged)
            except ProblemError as error:
                return with_key(error.problem) if sent.keyed else error.problem
        return sent


def no_room(full: Full) -> Problem:
    """The refusal of a request with many orders while so many are under way."""
    return problem.unavailable(
        f"{full.limit} uploads of many orders {full.whose} are under way at this process; {PLACED_NOTHING}"
    )


def split(body: bytes) -> tuple[list[int], list[bytes]]:
    """The lines that are not blank, with their numbers from 1. Raises `ProblemError` 413 when there are too many."""
    if body.count(b"\n") > LINES_MAX - (not body.endswith(b"\n")):
        raise ProblemError(problem.too_large(f"the body has over {LINES_MAX} lines"))
    numbered = [(number, line) for number, line in enumerate(body.split(b"\n"), 1) if line and not line.isspace()]
    return [number for number, _ in numbered], [line for _, line in numbered]


_encode_lines: Final = msgspec.json.Encoder().encode_lines


def results(numbers: Sequence[int], answers: Sequence[Sent | Problem], request_id: str) -> list[LineResult]:
    """What became of each line. A refusal of many lines is written once: to refuse must not cost more than to take."""
    written: dict[int, Raw] = {}

    def result(number: int, answer: Sent | Problem) -> LineResult:
        if isinstance(answer, Sent):
            _accepted_lines.inc()
            return LineResult(number, 202, answer.order_id, answer.repeated)
        _lines.labels(answer.status).inc()
        retry_after_s = answer.retry_after_s
        if (document := written.get(id(answer))) is None:
            in_words = answer if retry_after_s is None else of_line(answer)
            document = written[id(answer)] = Raw(in_words.body(request_id))
        return LineResult(
            number, answer.status, problem=document, retry_after=UNSET if retry_after_s is None else retry_after_s
        )

    return [result(number, answer) for number, answer in zip(numbers, answers, strict=True)]


def _response(results: Sequence[LineResult], replayed: bool) -> Response:
    """200 if an order was accepted or there was none; else 503, with the longest `retry_after`, or 422."""
    status, headers = 200, dict(REPLAYED) if replayed else {}
    if results and all(result.status != 202 for result in results):
        waits_s = [result.retry_after for result in results if result.retry_after is not UNSET]
        status = 503 if waits_s else 422
        if waits_s:
            headers["retry-after"] = str(max(waits_s))
    return Response(_encode_lines(results), status, headers, NDJSON[0].decode())
