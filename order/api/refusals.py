"""What a refusal says of itself: that nothing came of what is refused, so that it can be sent again without fear.

Of a line of a batch, only that line is refused: others of the same request may be in the log.
"""

from typing import Final

import msgspec

from common.http.problem import Problem

PLACED_NOTHING: Final = "this request placed nothing, send it again"
LINE_PLACED_NOTHING: Final = "this line placed nothing, send this line again"


def of_line(refused: Problem) -> Problem:
    """The refusal, as a line of a batch is told it."""
    return msgspec.structs.replace(refused, detail=refused.detail.replace(PLACED_NOTHING, LINE_PLACED_NOTHING))
