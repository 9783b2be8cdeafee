"""Who has changed how the stack runs: a line of `acts.log` for each command, written before the command begins.

What is done to money, stock and parked events has an entry in the databases (`just audit`). This has not: a command may
stop them, or delete them, and the file outlives both.
"""

import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from common.audit.entry import ACTOR, user_author
from common.errors import describe

NAME: Final = "acts"
FILE: Final = f"{NAME}.log"


def record(home: Path, act: str, arguments: Sequence[str]) -> None:
    """Add a line, as services write them. One that cannot be written is reported, and keeps nobody from stopping a
    stack whose disk is full."""
    author = user_author(os.environ.get(ACTOR))
    target = " ".join(arguments)
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "level": "INFO",
        "message": f"audit: {act} {target}".strip(),
        **{name: value for name, value in author._asdict().items() if value is not None},
        "act": act,
        "target": target,
    }
    try:
        descriptor = os.open(home / FILE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with open(descriptor, "a", encoding="utf-8") as file:
            file.write(f"{json.dumps(line)}\n")
    except OSError as error:
        print(f"{act}: this could not be recorded in {home / FILE}: {describe(error)}", file=sys.stderr)
