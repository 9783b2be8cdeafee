"""The stack under measurement, as the bench sees it from outside: a child process that runs `bench.stack.private`."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import psycopg

from bench.stack.private import Layout, NotReady
from dev.settings import Settings

STOP_S: Final = 90.0


def out_directory() -> Path:
    """Where the bench leaves what it finds."""
    out = Settings.from_environment().home / "bench"
    out.mkdir(parents=True, exist_ok=True)
    return out


@contextmanager
def run_directory() -> Iterator[Path]:
    """For one run; gone after it."""
    with tempfile.TemporaryDirectory(prefix="run-", dir=out_directory(), ignore_cleanup_errors=True) as directory:
        yield Path(directory)


class System:
    """A private Tandem; a context manager, at whose end it is gone."""

    def __init__(
        self,
        directory: Path,
        *,
        root: Path,
        databases_only: bool = False,
        settings: Mapping[str, str] | None = None,
        servers: Sequence[str] = (),
    ) -> None:
        """`root` is the checkout whose services, brokers' and databases' settings are run; `settings` are the services'
        variables; `servers` are other settings of the broker and PostgreSQL, such as `kafka.num.io.threads=2`."""
        self.directory = directory
        directory.mkdir(parents=True)
        options = [*(["--databases-only"] if databases_only else []), *servers]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.stack.private", str(directory), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=root,
            env={**os.environ, **(settings or {})},
            # A signal to the bench's process group must not end it before it has stopped what it started: the end of
            # its input does.
            start_new_session=True,
        )
        self.layout = self._answer()

    def _answer(self) -> Layout:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise NotReady(f"the stack ended with {self._process.wait()}; what it said stands above")
        return msgspec.json.decode(line, type=Layout)

    def _command(self, *words: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(words).encode() + b"\n")
        self._process.stdin.flush()
        self.layout = self._answer()

    def start(self, service: str, number: int = 1) -> None:
        """Start an instance and wait until it is ready."""
        self._command("start", service, str(number))

    def stop(self, service: str, number: int = 1) -> None:
        """Stop an instance: it finishes its batch and leaves."""
        self._command("stop", service, str(number))

    def run(self, *arguments: str) -> None:
        """A tool of this stack's checkout, to its end. Raises `NotReady` with what it said."""
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.layout.root,
            env={**os.environ, **self.layout.variables},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise NotReady(f"{' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}")

    def connect(self, service: str) -> "psycopg.Connection[tuple[object, ...]]":
        """A superuser's connection to a service's database."""
        url = self.layout.variables[f"{service.upper()}_ADMIN_URL"]
        return psycopg.connect(url, dbname=service, autocommit=True)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def __enter__(self) -> "System":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
