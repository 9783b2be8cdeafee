"""What a stack remembers between commands: whether it is native or in Compose, its ports and its instances.

A stack that was started on other ports than the defaults can be stopped and scaled without naming them again. And the
operator's tools work with the settings of the stack, not with those of the shell that calls them.
"""

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

import msgspec

from common.files import write
from dev.home import SEE_OPERATIONS, HomeError
from dev.settings import PORT_SETTINGS, SERVICES, Kind, Settings, Standbys

FILE = "stack.json"
_Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=99)]


class _Stored(msgspec.Struct):
    stack: Kind = "native"
    up: bool = False  # as of the last `up` or `down`
    ports: dict[str, _Port] = {}
    secure: bool = False
    brokers: Annotated[int, msgspec.Meta(ge=1, le=3)] = 1
    standbys: Standbys = "0"
    topic_partitions: Annotated[int, msgspec.Meta(ge=1, le=1_000)] | None = None
    told: dict[str, str] = {}
    scale: dict[str, _Count] = {}


@dataclass
class State:
    path: Path
    stack: Kind = "native"
    up: bool = False
    ports: dict[str, int] = field(default_factory=dict)
    secure: bool = False
    brokers: int = 1
    standbys: Standbys = "0"
    topic_partitions: int | None = None
    told: dict[str, str] = field(default_factory=dict)
    scale: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, home: Path) -> Self:
        """What was stored, or the defaults if nothing was. Raises `HomeError` when the file is damaged."""
        path = home / FILE
        try:
            stored = msgspec.json.decode(path.read_bytes(), type=_Stored)
        except (FileNotFoundError, NotADirectoryError):
            return cls(path)
        except (msgspec.DecodeError, UnicodeDecodeError, OSError) as error:
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
        stored = _Stored(**{f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "path"})
        write(self.path, msgspec.json.format(msgspec.json.encode(stored), indent=1).decode())

    def started(self, stack: Kind, settings: Settings) -> None:
        self.stack, self.up = stack, True
        self.ports = {name: getattr(settings, name) for name in PORT_SETTINGS}
        self.secure, self.brokers, self.standbys = (
            bool(settings.secure),
            settings.brokers or 1,
            settings.standbys or "0",
        )
        self.topic_partitions, self.told = settings.topic_partitions, dict(settings.told)
        self.save()

    def stopped(self) -> None:
        if self.up:
            self.up = False
            self.save()

    def remembered(self, settings: Settings) -> Settings:
        """The settings with which the stack was started last. They count for the operator's tools too, whatever is set
        in the shell that calls one."""
        ports: dict[str, Any] = {name: self.ports[name] for name in PORT_SETTINGS if name in self.ports}
        if self.topic_partitions is not None:
            settings = dataclasses.replace(settings, topic_partitions=self.topic_partitions, told=self.told)
        settings = dataclasses.replace(settings, secure=self.secure, brokers=self.brokers, standbys=self.standbys)
        return dataclasses.replace(settings, **ports)

    def changed(self, settings: Settings) -> list[str]:
        """What the environment asks for, and the stack was started without, such as `PAYMENT_PORT=9082`."""
        names = (*PORT_SETTINGS, "topic_partitions")
        started = {name: self.ports.get(name, self.topic_partitions) for name in names}
        requested = {name: getattr(settings, name) for name in names if name.upper() in os.environ}
        changed = {name.upper(): value for name, value in requested.items() if value != started[name]}
        if settings.secure is not None and settings.secure != self.secure:
            changed["SECURE"] = int(settings.secure)
        if settings.brokers is not None and settings.brokers != self.brokers:
            changed["BROKERS"] = settings.brokers
        if settings.standbys not in (None, self.standbys):
            changed["STANDBYS"] = settings.standbys
        changed |= {name: value for name, value in settings.told.items() if value != self.told.get(name)}
        return [f"{name}={value}" for name, value in changed.items()]

    def instances(self) -> dict[str, int]:
        return {service.name: self.scale.get(service.name, 1) for service in SERVICES}
