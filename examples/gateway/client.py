"""The card gateway as its client sees it. Every request names the order, and repeating one changes nothing more.

`PUT /payments/{order_id}` authorises, and answers a repeat with the first decision. `POST …/capture`, `…/void` and
`…/refund` change the state, or answer with the state that keeps them from it. A void of an unknown payment is
remembered: an authorisation that was on its way is then refused. `GET` changes
nothing. All answer with the payment.
"""

import asyncio
from typing import Final, Literal

import httpx
import msgspec
from msgspec import Struct

from examples.gateway.breaker import Breaker

ATTEMPT_S: Final = 1.0
CONNECTIONS_MAX: Final = 100
PROBE_EVERY_S: Final = 0.05

State = Literal["authorised", "declined", "captured", "voided", "refunded"]


class CardPayment(Struct, frozen=True, kw_only=True):
    """A payment at the gateway. `amount` is in minor units."""

    order_id: str
    customer_id: str
    amount: int
    currency: str
    state: State


class Unanswered(Exception):
    """There is no answer that can be trusted: whether the request had an effect is not known."""


_payment: Final = msgspec.json.Decoder(CardPayment)


class Gateway:
    """Belongs to one event loop. Every method raises `Unanswered`."""

    def __init__(self, url: str) -> None:
        self.breaker = Breaker()
        limits = httpx.Limits(max_connections=CONNECTIONS_MAX)
        self._http = httpx.AsyncClient(base_url=f"{url}/payments", timeout=ATTEMPT_S, limits=limits, trust_env=False)

    async def close(self) -> None:
        await self._http.aclose()

    def up_s(self) -> float:
        """A clock that stands still while the gateway is taken to be down."""
        at_s = asyncio.get_running_loop().time()
        return at_s - self.breaker.open_s(at_s)

    async def admitted(self) -> None:
        """Wait while the gateway is taken to be down."""
        loop = asyncio.get_running_loop()
        while not self.breaker.admits(loop.time()):  # noqa: ASYNC110 - it is also asked by other loops
            await asyncio.sleep(PROBE_EVERY_S)

    async def authorise(self, order_id: str, customer_id: str, amount: int, currency: str) -> State:
        """Hold an amount on the customer's card."""
        wanted = {"customer_id": customer_id, "amount": amount, "currency": currency}
        payment = await self._request("PUT", order_id, "", customer_id, wanted)
        if payment is None:
            raise Unanswered("the gateway does not know what it was asked to authorise")
        return payment.state

    async def state(self, order_id: str, customer_id: str) -> State | None:
        """The state of an order's payment; None if the gateway does not know it, or not yet."""
        payment = await self._request("GET", order_id, "", customer_id)
        return None if payment is None else payment.state

    async def change(self, order_id: str, customer_id: str, act: Literal["capture", "void", "refund"]) -> State | None:
        """The state after the act, or the one that keeps it from being done."""
        payment = await self._request("POST", order_id, f"/{act}", customer_id)
        return None if payment is None else payment.state

    async def _request(
        self, method: str, order_id: str, act: str, customer_id: str, content: object = None
    ) -> CardPayment | None:
        at_s = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(ATTEMPT_S):  # httpx would wait so long for each packet
                answer = await self._http.request(method, f"/{order_id}{act}", json=content)
            payment = None if answer.status_code == 404 else _payment.decode(answer.content)
        except (httpx.HTTPError, TimeoutError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            self.breaker.failed(customer_id, at_s())
            raise Unanswered(f"{method} {order_id}{act}: {error!r}") from None
        self.breaker.succeeded(at_s())
        if payment is not None and payment.order_id != order_id:  # the second answer to an earlier request
            raise Unanswered(f"{method} {order_id}{act}: the answer is about {payment.order_id}")
        return payment
