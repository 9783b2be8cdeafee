"""How a refusal says that nothing came of the request, so that it can safely be sent again.

For one line of many, only that line is refused: others of the same request may be in the log.
"""

from typing import Final

import msgspec

from common.http.problem import Problem

PLACED_NOTHING: Final = "this request placed nothing, send it again"
LINE_PLACED_NOTHING: Final = "this line placed nothing, send this line again"


def of_line(refusal: Problem) -> Problem:
    """The refusal in the words for one line of many."""
    return msgspec.structs.replace(refusal, detail=refusal.detail.replace(PLACED_NOTHING, LINE_PLACED_NOTHING))
