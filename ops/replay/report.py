"""What a replay brings back, and what it cannot."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from common.errors import Fatal

SHOWN_MAX: Final = 20


@dataclass
class Restored:
    """What was brought back from the log: how many decisions, and what was done besides, line by line."""

    decisions: int
    notes: list[str] = field(default_factory=list)


def refuse_shortfalls(lines: Sequence[str], what: str) -> None:
    """Raise `Fatal` when there are any: what was published needs more than the database has."""
    if lines:
        more = [f"… and {len(lines) - SHOWN_MAX} more"] if len(lines) > SHOWN_MAX else []
        raise Fatal(
            "\n".join(
                [
                    f"replay: {what} made after the backup are gone, and what was published rests on them:",
                    *lines[:SHOWN_MAX],
                    *more,
                    f"replay: nothing was changed; enter the {what} again (the service takes them while it waits),",
                    "or run it with --cover, which enters the least that the published decisions prove",
                ]
            )
        )
