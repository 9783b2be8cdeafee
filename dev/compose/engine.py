"""Docker as the stack in Compose uses it: its commands, and how a tool runs in one of its containers."""

import getpass
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dev.stack import StackError, caller

TOOLS_CODES = 64
TELL_TOOLS_CODE = f'"$@" || exit $(($? + {TOOLS_CODES}))'
"""Compose ends with 1 itself when it cannot run the tool, and `verify` when it has found a violation."""


def tools_code(code: int) -> int:
    """The exit code of the tool that ran in a container; 2 when Compose could not run it."""
    if TOOLS_CODES < code <= TOOLS_CODES + 2:
        return code - TOOLS_CODES
    return code if code in (0, 130) else 2


def unhealthy(container: str) -> str | None:
    """What the health check of a container says, unless it is healthy."""
    status = docker("inspect", "--format={{.State.Health.Status}}", container)
    return None if status == "healthy" else f"its health check says {status!r}"


def docker(*arguments: str) -> str:
    """The output of a command of Docker's own, which knows the containers of a service apart. Raises `StackError`."""
    ran = subprocess.run(["docker", *arguments], stdout=subprocess.PIPE, text=True)
    if ran.returncode:
        raise StackError(f"docker {' '.join(arguments)} failed with exit code {ran.returncode}; see above")
    return ran.stdout.strip()


def acting_user() -> list[str]:
    """The options that record an act under the name of its user, who has no account in the container."""
    try:
        return ["-e", f"LOGNAME={getpass.getuser()}"]
    except (ImportError, KeyError, OSError):  # this user has no name
        return []


def passed_on(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The file of `--accepted`, and the arguments with which a container reads it from its standard input: the user in
    a container may not be allowed to read a file of this machine. Of several, the last one counts.

    The tool reports a file that is missing.
    """
    given: Path | None = None
    translated: list[str] = []
    for argument in arguments:
        option = "--accepted=" if argument.startswith("--accepted=") else ""
        path = Path(caller(), argument.removeprefix(option)).resolve()
        if (option or translated[-1:] == ["--accepted"]) and path.is_file():
            given = path
            translated.append(f"{option}-")
        else:
            translated.append(argument)
    return given, translated


def terminal(file: Path | None = None) -> list[str]:
    """The option of Compose without which a container gets a terminal. It gets one when a person types its input, not a
    `file` or another program, and reads its output: a terminal would end the command, or change what is read."""
    is_personal = file is None and all(stream and stream.isatty() for stream in (sys.stdin, sys.stdout))
    return [] if is_personal else ["-T"]


def engine_problem() -> str | None:
    """Why containers cannot run on this machine, or None if Docker answers."""
    if not shutil.which("docker"):
        return "there is no docker on PATH"
    info = subprocess.run(["docker", "info"], capture_output=True, text=True)
    return (info.stderr.strip().splitlines() or ["it does not answer"])[-1] if info.returncode else None


def compose_command() -> list[str]:
    """Docker's plugin, or docker-compose without it."""
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    raise StackError("neither 'docker compose' nor docker-compose was found; 'STACK=native just up' needs no Docker")
