"""`python -m tests.crash.launch POINT -m MODULE …` is `python -m MODULE …` that kills itself at the point.

The functions that the point names are wrapped before the module runs; the code itself knows nothing of it. It dies by
SIGKILL: nothing is flushed, closed, committed or answered.
"""

import functools
import importlib
import inspect
import itertools
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from tests.crash.points import POINTS, Point

SAID: Final = "killed at crash point {}"
"""The last line in the process's log. It shows that the process died at this point."""

Note = Callable[[], None]


def nothing() -> None:
    """Do nothing."""


def find(target: str) -> tuple[list[Any], str]:
    """The objects that a target's path passes, module first, and the last name. Raises `AttributeError`."""
    module_name, _, path = target.partition(":")
    *through, name = path.split(".")
    owners = [importlib.import_module(module_name)]
    for step in through:
        owners.append(getattr(owners[-1], step))
    return owners, name


def wrap(target: str, *, before: Note = nothing, after: Note = nothing) -> None:
    """Have `before` and `after` called around each call of the target; `after` only if it has not raised."""
    owners, name = find(target)
    called = getattr(owners[-1], name)
    wrapped: Callable[..., Any]
    if inspect.iscoroutinefunction(called):

        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            before()
            result = await called(*args, **kwargs)
            after()
            return result
    else:

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            before()
            result = called(*args, **kwargs)
            after()
            return result

    functools.update_wrapper(wrapped, called)
    try:
        setattr(owners[-1], name, wrapped)
    except TypeError:
        # A class written in C takes no attributes, so its module gets a subclass.
        module, base = owners
        setattr(module, base.__name__, type(base.__name__, (base,), {name: wrapped}))


def install(point: Point, die: Note) -> None:
    """Have `die` called at the point's passage."""
    passages = itertools.count(1)
    thread = threading.local()

    def prime() -> None:
        thread.primed = True

    def arrive() -> None:
        if point.following:
            if not getattr(thread, "primed", False):
                return
            thread.primed = False
        if next(passages) == point.passage:
            time.sleep(point.pause_s)
            die()

    wrap(point.target, **{point.at: arrive})
    if point.following:
        wrap(point.following, after=prime)


def main(arguments: Sequence[str]) -> None:
    name, _, module, *rest = arguments

    def die() -> None:
        os.write(sys.stderr.fileno(), f"{SAID.format(name)}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)

    install(POINTS[name], die)
    sys.argv = [module, *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
