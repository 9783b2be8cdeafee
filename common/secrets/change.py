"""How a secret in a file is changed while servers ask for it and clients show it.

A server, the file and its copies cannot change at the same moment. So for a while there are two files. The new secret
is beside the old one, in all copies too, before the first server gets it. It takes the old one's place when all servers
have it. A client that is refused with one tries the other, so one of the two is always good. How long each step takes
makes no difference, and a change that was killed is finished by the next one.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from common.files import stamp, write


def pending_file(file: Path) -> Path:
    """Where the new secret is until all servers have it."""
    return file.with_name(f"{file.name}.next")


def change(secrets: Mapping[Path, str], set_on_servers: Callable[[], None], publish: Callable[[], None]) -> None:
    """Change the secrets in these files to new ones. `set_on_servers` gives the servers what `pending_file` has, and
    returns when all of them have it; `publish` makes the copies. Raises `OSError`, and what these two raise.

    A change that was interrupted goes on with its own secrets, since some servers may have them already.
    """
    for file, text in secrets.items():
        if not pending_file(file).exists():
            write(pending_file(file), text, 0o600)
    publish()
    set_on_servers()
    for file in secrets:
        end_change(file)
    publish()


def end_change(file: Path) -> None:
    """Put the new secret in the place of the old. Raises `OSError`."""
    with suppress(FileNotFoundError):  # another command has done it
        pending_file(file).replace(file)


def files_to_try(file: Path) -> Iterator[Path]:
    """The files to take a secret from, each after the server has refused that of the one before. There is only one,
    unless the secret is being changed. A file may be gone by the time that it is read: go on to the next then."""
    before = _stamp(file)
    yield file
    if pending_file(file).exists():
        yield pending_file(file)
    if _stamp(file) != before:  # the change has ended meanwhile
        yield file


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        return stamp(file)
    except OSError:
        return None
