"""The command line of a service, such as `python -m payment load-demo`."""

import sys
from collections.abc import Callable, Mapping

from common.config.env import ignore_foreign_variables
from common.errors import Fatal
from common.terminal import complain, open_streams


def run(service: str, commands: Mapping[str, Callable[[], None]]) -> None:
    """Run the command that the arguments name; without arguments, the one named "". A `Fatal` ends the process
    with one line and exit code 2."""
    name = " ".join(sys.argv[1:])
    open_streams()
    try:
        if name not in commands:
            usage = f"[{'|'.join(filter(None, commands))}]" if "" in commands else "|".join(commands)
            raise Fatal(f"{service}: unknown arguments {name!r}; usage: python -m {service} {usage}")
        ignore_foreign_variables()
        commands[name]()
    except Fatal as error:
        complain(str(error))
        sys.exit(2)
