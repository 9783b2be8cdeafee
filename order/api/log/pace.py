"""How long orders are gathered before they are handed to the log together. Pure; what it is told is measured by
`order.api.log.backlog`.

A request to the broker costs the machine nearly the same however many orders are in it, so the longer they are
gathered, the cheaper each is; and the longer its client waits. As long as orders are settled as quickly as they come,
they are gathered for the least time. When they wait for that, a small share of their wait goes before the answer and
not after it: nobody has his order settled any later for it, and the machine comes to settle more.
"""

from collections.abc import Sequence
from typing import Final

from order.api.log.admission import LOOKS, Look, stands_still

SPACING_MAX_S: Final = 0.02
UNSEEN_S: Final = 0.3
"""So long orders seem to wait when they do not: offsets are committed, and looked at, four times a second."""
SHARE: Final = 0.08
"""Of what orders wait beyond that."""
WAITING_MIN: Final = 300.0
"""With fewer orders waiting there is nothing to be gained."""


def spacing_s(least_s: float, looks: Sequence[Look]) -> float:
    """Seconds from one hand-over to the next, given the last looks, the latest last; never less than `least_s`."""
    return max(least_s, min(SPACING_MAX_S, SHARE * (waited_s(looks) - UNSEEN_S)))


def waited_s(looks: Sequence[Look]) -> float:
    """For how long an order waits for the slowest reader: what waits over what is settled in a second (J. D. C. Little,
    1961). 0 while little waits, or nothing can be told, or a reader is away: it is not haste that would help then."""
    lately = looks[-LOOKS:]
    if len(lately) < LOOKS:
        return 0.0
    first, last = lately[0], lately[-1]
    if any(waiting >= WAITING_MIN and stands_still(feed, looks) for feed, waiting in last.waiting.items()):
        return 0.0
    found = [0.0]
    for feed in last.waiting:
        waiting = sum(look.waiting[feed] for look in lately) / LOOKS
        settled_per_s = (last.settled[feed] - first.settled[feed]) / (last.at_s - first.at_s)
        if waiting >= WAITING_MIN and settled_per_s > 0:
            found.append(waiting / settled_per_s)
    return max(found)
