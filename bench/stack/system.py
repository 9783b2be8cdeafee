"""The stack under measurement, as the bench sees it: a child process that runs `bench.stack.private`."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import msgspec
import psycopg

from bench.stack.private import Layout, StackFailed, run_tool
from dev.settings import ROOT

STOP_S: Final = 90.0


class System:
    """A private Tandem. A context manager, which stops the stack at its end."""

    def __init__(
        self,
        directory: Path,
        *,
        root: Path = ROOT,
        databases_only: bool = False,
        settings: Mapping[str, str] | None = None,
        servers: Sequence[str] = (),
    ) -> None:
        """`root` is the checkout to run; `settings` are variables of its services; `servers` are settings of the broker
        and PostgreSQL, such as `kafka.num.io.threads=2`. Raises `StackFailed`."""
        self.directory = directory
        directory.mkdir(parents=True)
        # A checkout brings its own stack up. Revisions before the bench had rooms have that in bench/stack.py.
        module = "bench.stack" if (root / "bench/stack.py").exists() else "bench.stack.private"
        options = [*(["--databases-only"] if databases_only else []), *servers]
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(directory), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=root,
            env={**os.environ, **(settings or {})},
            # A signal to the bench's process group must not end the stack's process before it has stopped what it
            # started. The end of its input tells it to stop.
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._commands, self._answers = self._process.stdin, self._process.stdout
        self.layout = self._answer()
        self.kafka = self.layout.variables["KAFKA_BOOTSTRAP_SERVERS"]
        self.api_port = self.layout.ports["order-api"]

    def _answer(self) -> Layout:
        line = self._answers.readline()
        if not line:
            raise StackFailed(f"the stack ended with {self._process.wait()}; its last words are above")
        return msgspec.json.decode(line, type=Layout)

    def _command(self, *words: str) -> None:
        self._commands.write(" ".join(words).encode() + b"\n")
        self._commands.flush()
        self.layout = self._answer()

    def start(self, service: str, number: int = 1) -> None:
        """Start an instance and wait until it is ready."""
        self._command("start", service, str(number))

    def stop(self, service: str, number: int = 1) -> None:
        """Stop an instance: it finishes its batch and leaves the group."""
        self._command("stop", service, str(number))

    def environment(self) -> dict[str, str]:
        """The environment in which a tool finds this stack."""
        return {**os.environ, **self.layout.variables}

    def tool(self, *arguments: str) -> str:
        """Run a tool of this stack's checkout to its end. Returns what it printed. Raises `StackFailed` with that."""
        return run_tool(self.layout.variables, *arguments, root=self.layout.root)

    def connect(self, service: str) -> "psycopg.Connection[tuple[object, ...]]":
        """A superuser's connection to a service's database."""
        url = self.layout.variables[f"{service.upper()}_ADMIN_URL"]
        return psycopg.connect(url, dbname=service, autocommit=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._commands.close()
        self._answers.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
