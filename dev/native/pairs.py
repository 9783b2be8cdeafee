"""The clusters of a stack whose databases have a standby each: two for each of `DATABASES`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from common.config.env import LOOPBACK
from common.tls.authority import Authority
from dev.servers.member import Member
from dev.settings import DATABASES, Settings
from dev.stack import StackError

FOLDER: Final = "pairs"
"""The folder of the home that has them."""


def name_of(database: str, number: int) -> str:
    return f"postgres-{database}-{number}"


class Pairs:
    """Those of a stack. `ports` has the port of each cluster that is not retired, by name."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._places: Mapping[str, tuple[str, int]] = (
            {name_of(database, number): (database, number) for database in DATABASES for number in (1, 2)}
            if settings.has_standbys
            else {}
        )
        self.ports = {name: self.member(name).port for name in self._places if not self.member(name).is_retired}

    def member(self, name: str) -> Member:
        """A cluster, retired or not."""
        settings = self._settings
        database, number = self._places[name]
        ports = settings.postgres_ports(database)
        certificate = (
            Authority(settings.secrets).ensure("postgres", ("postgres", *LOOPBACK)) if settings.secure else None
        )
        member = Member(
            self._folder(name),
            ports[number - 1],
            settings.secrets,
            other=(self._folder(name_of(database, 3 - number)), ports[2 - number]),
            synchronous=settings.standbys == "1",
            first=number == 1,
            certificate=certificate,
        )
        member.cache = settings.cache
        return member

    def of(self, database: str) -> tuple[Member, Member]:
        """The primary of a database and its standby, which may be retired. Raises `StackError`."""
        if not self._settings.has_standbys:
            raise StackError("the databases of this stack have no standbys; it has them with STANDBYS=1 from its start")
        if database not in DATABASES:
            raise StackError(f"there is no database {database!r} with a standby; there are {', '.join(DATABASES)}")
        one, two = (self.member(name_of(database, number)) for number in (1, 2))
        if one.is_retired or (one.is_standby and not two.is_standby):
            return two, one
        return one, two

    def _folder(self, name: str) -> Path:
        return self._settings.home / FOLDER / name
