"""What a stack remembers between commands: whether it is native or in Compose, its ports and its instances.

A stack that was started on other ports than the defaults can be stopped and scaled without naming them again.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

import msgspec

from dev import home as homes
from dev.home import SEE_OPERATIONS, HomeError
from dev.settings import PORT_SETTINGS, SERVICES, Kind, Settings

FILE = "stack.json"
_Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=99)]


class _Stored(msgspec.Struct):
    stack: Kind = "native"
    up: bool = False  # as of the last `up` or `down`
    ports: dict[str, _Port] = {}
    scale: dict[str, _Count] = {}


@dataclass
class State:
    path: Path
    stack: Kind = "native"
    up: bool = False
    ports: dict[str, int] = field(default_factory=dict)
    scale: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, home: Path) -> Self:
        """What was stored, or the defaults if nothing was. Raises `HomeError` when the file is damaged."""
        path = home / FILE
        try:
            stored = msgspec.json.decode(path.read_bytes(), type=_Stored)
        except (FileNotFoundError, NotADirectoryError):
            return cls(path)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            remedy = f"'just down' stops what runs and sets the file aside, or {SEE_OPERATIONS}"
            raise HomeError(f"{path} is damaged ({error}); {remedy}") from error
        return cls(path, **msgspec.structs.asdict(stored))

    @classmethod
    def load_to_stop(cls, home: Path) -> Self:
        """The same, but a damaged file is set aside: what runs can be stopped without it."""
        try:
            return cls.load(home)
        except HomeError:
            kept = (home / FILE).rename(home / f"{FILE}.damaged")
            print(f"{home / FILE} was damaged and is now {kept}: the ports and the scale are the defaults again")
            return cls(home / FILE)

    def save(self) -> None:
        stored = _Stored(self.stack, self.up, self.ports, self.scale)
        homes.write(self.path, msgspec.json.format(msgspec.json.encode(stored), indent=1).decode())

    def started(self, stack: Kind, settings: Settings) -> None:
        self.stack, self.up = stack, True
        self.ports = {name: getattr(settings, name) for name in PORT_SETTINGS}
        self.save()

    def stopped(self) -> None:
        if self.up:
            self.up = False
            self.save()

    def remembered(self, settings: Settings) -> Settings:
        """The settings with which the stack was started last."""
        ports: dict[str, Any] = {name: self.ports[name] for name in PORT_SETTINGS if name in self.ports}
        return dataclasses.replace(settings, **ports)

    def instances(self) -> dict[str, int]:
        return {service.name: self.scale.get(service.name, 1) for service in SERVICES}
