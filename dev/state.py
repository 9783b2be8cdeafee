"""What a stack remembers between commands: whether it is native or in Compose, its ports and its instances.

A stack that was started on other ports than the defaults can be stopped and scaled without naming them again.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from dev.settings import PORT_SETTINGS, SERVICES, Kind, Settings


@dataclass
class State:
    path: Path
    stack: Kind = "native"
    up: bool = False  # as of the last `up` or `down`
    ports: dict[str, int] = field(default_factory=dict)
    scale: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, home: Path) -> Self:
        path = home / "stack.json"
        stored: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return cls(path, **stored)

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".new")
        stored = {"stack": self.stack, "up": self.up, "ports": self.ports, "scale": self.scale}
        unfinished.write_text(json.dumps(stored, indent=1))
        os.replace(unfinished, self.path)

    def started(self, stack: Kind, settings: Settings) -> None:
        self.stack, self.up = stack, True
        self.ports = {name: getattr(settings, name) for name in PORT_SETTINGS}
        self.save()

    def stopped(self) -> None:
        self.up = False
        self.save()

    def remembered(self, settings: Settings) -> Settings:
        """The settings with which the stack was started last."""
        ports: dict[str, Any] = {name: self.ports[name] for name in PORT_SETTINGS if name in self.ports}
        return dataclasses.replace(settings, **ports)

    def instances(self) -> dict[str, int]:
        return {service.name: self.scale.get(service.name, 1) for service in SERVICES}


@contextlib.contextmanager
def exclusive(home: Path) -> Iterator[None]:
    """Lets one command at a time change a stack; the next one waits."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            print(f"waiting until another command has finished (pid {lock.read()})", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
