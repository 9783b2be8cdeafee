"""The kinds of attacks, how often each comes, and which one a number stands for."""

import json
import random
from typing import Final

from tests.fuzz import below, bodies, heads
from tests.fuzz.attack import Attack, Draw, post
from tests.fuzz.mutate import mutated, odd_json, spoiled
from tests.fuzz.requests import order

_KINDS: Final[dict[str, tuple[float, Draw]]] = {
    "valid order": (4, lambda d, n: post(order(d), n)),
    "spoiled order": (13, lambda d, n: post(spoiled(d, order(d)), n)),
    "odd JSON": (13, lambda d, n: post(odd_json(d, order(d)), n)),
    "mutated body": (10, lambda d, n: post(mutated(d, json.dumps(order(d)).encode()), n)),
    "odd identifier": (5, bodies.odd_identifier),
    "odd number": (5, bodies.odd_number),
    "not for sale": (2, bodies.not_for_sale),
    "large body": (0.5, bodies.large),
    "many": (3, bodies.with_many_lines),
    "payment": (5, bodies.payment),
    "inventory": (5, bodies.inventory),
    "idempotency key": (4, heads.key),
    "prefer": (1, heads.prefer),
    "traceparent": (2, heads.traceparent),
    "headers": (4, heads.odd_headers),
    "request id": (1, heads.request_id),
    "target": (5, heads.odd_target),
    "method": (2, heads.odd_method),
    "list": (5, heads.listing),
    "order id": (3, heads.odd_order_id),
    "mutated request": (8, below.mutated_whole),
    "truncated": (4, below.truncated),
    "framing": (4, below.framing),
    "header syntax": (3, below.header_syntax),
    "request line": (3, below.request_line),
    "pipelined": (0.5, below.pipelined),
    "in pieces": (1, below.in_pieces),
    "too many at once": (0.02, below.too_many),
    "dropped": (1, below.dropped),
    "slow": (0.4, below.slow),
}
_NAMES: Final = tuple(_KINDS)
_WEIGHTS: Final = tuple(weight for weight, _ in _KINDS.values())


def draw(seed: int, number: int) -> Attack:
    """Attack `number` of `seed`."""
    drawn = random.Random(f"{seed}/{number}")
    kind = drawn.choices(_NAMES, _WEIGHTS)[0]
    attack = _KINDS[kind][1](drawn, number)
    return attack._replace(kind=kind, number=number)
