"""What a command prints: the text of strangers, such as the key of a record, and streams that take all of it."""

import io
import os
import sys
import traceback
import unicodedata
from contextlib import suppress
from types import TracebackType


def printable(text: str) -> str:
    """The text with control characters escaped: it must not steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, characters: int) -> str:
    """The text, cut to this many characters; an ellipsis shows the cut."""
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def width(text: str) -> int:
    """The columns that printable text takes on a terminal."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def open_streams() -> None:
    """Let this process print every character, escaped if the encoding lacks it, and nothing where a stream is closed.

    Else the next file that it opens would take the stream's place, and be printed into.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            os.dup2(opened, number)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def complain(text: str) -> None:
    """Print a line on stderr, if it can be written."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def flushed() -> bool:
    """Whether all that was printed could be written. If not, the rest is dropped: else Python would end with 120."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return False
    return True


def end_with_2_after_traceback() -> None:
    """Let this process end with 2 instead of 1 when nothing catches an exception, not even one of an import."""

    def end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        traceback.print_exception(kind, error, trace)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, AttributeError):
                stream.flush()
        os._exit(2)

    sys.excepthook = end
