"""One of the two clusters of a database: the primary, or the standby that follows it and can take over.

What a cluster is, its own folder says. `standby.signal` is PostgreSQL's: with it, the cluster follows the other one and
takes no writes; a promotion removes it. `retired` is ours: the other one has taken over, and this one may have
transactions that the other lacks, so it is not started before it is a copy of the other.

References: PostgreSQL 18, "Log-Shipping Standby Servers", "Synchronous Replication".
"""

import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psutil
import psycopg

from common.errors import describe
from common.files import write
from common.secrets.passwords import database_url
from common.tls.authority import Certificate
from dev.environment import child
from dev.servers import secure_postgres
from dev.servers.postgres import Cluster, binary
from dev.servers.server import StartError, works_in
from dev.servers.unprivileged import as_ordinary_user
from dev.settings import HOST
from dev.waiting import cause

FOLLOWS: Final = "standby.signal"
RETIRED: Final = "retired"
KEPT: Final = "1GB"
"""The WAL that a primary keeps for a standby that is away. A standby that lacks more has to be copied anew."""
COPY_WITHIN_S: Final = 60.0
PROMOTE_WITHIN_S: Final = 60
END_WITHIN_S: Final = 30.0
_STREAMS: Final = "SELECT coalesce((SELECT status FROM pg_stat_wal_receiver), 'stopped')"
_FOLLOWED: Final = "SELECT FROM pg_stat_replication WHERE application_name = %s AND state = 'streaming'"


class Member(Cluster):
    def __init__(
        self,
        directory: Path,
        port: int,
        secrets: Path,
        *,
        other: tuple[Path, int],
        synchronous: bool,
        first: bool,
        options: Mapping[str, str] | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        """`other` are the folder and the port of the other member. With `synchronous`, a primary acknowledges a commit
        when the standby has it on disk, and waits for a standby that is away. The `first` member is the primary of two
        that are new."""
        super().__init__(directory, port, secrets, options, certificate)
        self.name = directory.name
        self._other, self._other_port = other
        self._synchronous = synchronous
        self._first = first
        self.answers = False
        """Whether it answered `unready`, be it that it does not follow its primary."""

    @property
    def is_standby(self) -> bool:
        return (self.directory / FOLLOWS).exists()

    @property
    def is_retired(self) -> bool:
        return (self.directory / RETIRED).exists()

    def configuration(self) -> Mapping[str, str]:
        """What it needs as what it is now. A primary whose standby is retired waits for nobody."""
        follow = f"{self._url_of_other()}&application_name={self.name}"
        waits = self._synchronous and not self.is_standby and not (self._other / RETIRED).exists()
        names = f'ANY 1 ("{self._other.name}")' if waits else ""
        return self.options | {
            "wal_keep_size": KEPT, "primary_conninfo": follow, "synchronous_standby_names": names,
        }  # fmt: skip

    def prepare(self) -> None:
        """Also make a new cluster the standby of the other one, which must be running. Raises `StartError`."""
        if self.is_retired:
            raise StartError(f"{self.name} was the primary before a failover; 'just rejoin' makes it a standby")
        if not (self.directory / "PG_VERSION").exists() and not self._begins_the_pair():
            self._copy_other()
        super().prepare()

    def unready(self) -> str | None:
        missing = super().unready()
        self.answers = missing is None
        if missing or not self.is_standby:
            return missing
        with self.connect(connect_timeout=2) as connection:
            [(status,)] = connection.execute(_STREAMS).fetchall()
        return None if status == "streaming" else f"{self._other.name} is not followed (WAL receiver: {status})"

    def is_followed(self) -> bool:
        """Whether the other one is its standby, and up to date but for what is under way. Raises `psycopg.Error`."""
        with self.connect(connect_timeout=2) as connection:
            return connection.execute(_FOLLOWED, (self._other.name,)).fetchone() is not None

    def configure(self) -> None:
        """Let it run with what it needs now."""
        self.write_configuration()
        with self.connect() as connection:
            connection.execute("SELECT pg_reload_conf()")

    def retire(self) -> None:
        """See that it takes no writes from now on, whoever starts it. Raises `StartError` while it runs."""
        deadline = time.monotonic() + END_WITHIN_S
        while any(works_in(process, self.directory) for process in psutil.process_iter()):
            if time.monotonic() > deadline:
                raise StartError(
                    f"{self.name} still runs {END_WITHIN_S:.0f} s after it was stopped; nothing was changed"
                )
            time.sleep(0.02)
        write(self.directory / FOLLOWS, "")
        write(self.directory / RETIRED, "The other cluster of this database has taken over.\n")

    def promote(self) -> None:
        """Make a standby the primary, and return when it takes writes. Raises `StartError`."""
        try:
            with self.connect() as connection:
                connection.execute("SELECT pg_promote(true, %s)", (PROMOTE_WITHIN_S,))
                [(still,)] = connection.execute("SELECT pg_is_in_recovery()").fetchall()
        except psycopg.Error as error:
            raise StartError(f"{self.name} could not be promoted: {describe(error)}") from error
        if still:
            raise StartError(f"{self.name} is not the primary after {PROMOTE_WITHIN_S} s; 'just logs {self.name}'")

    def set_aside(self) -> Path:
        """Move a retired cluster out of the way, in the place of one that was before. Its files may have transactions
        that are nowhere else. Returns where they are."""
        kept = self.directory.with_name(f"{self.name}.{RETIRED}")
        subprocess.run(["rm", "-rf", "--", str(kept)], check=True)
        self.directory.rename(kept)
        return kept

    def _begins_the_pair(self) -> bool:
        return self._first and not (self._other / "PG_VERSION").exists()

    def _url_of_other(self) -> str:
        authority = None if self.certificate is None else self.certificate.authority
        return database_url(
            "postgres", "postgres", host=HOST, ports=[self._other_port], folder=self.secrets, authority=authority
        )

    def _copy_other(self) -> None:
        """In a directory beside it first, as `_initialise` does."""
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        variables = child()
        if self.certificate is not None:  # the binaries with OpenSSL have no pg_basebackup, but their libpq fits
            variables["LD_PRELOAD"] = str(secure_postgres.libpq(self.cache))
        deadline = time.monotonic() + COPY_WITHIN_S
        while True:
            with tempfile.TemporaryDirectory(
                dir=self.directory.parent, prefix="copy-", ignore_cleanup_errors=True
            ) as temporary:
                data = Path(temporary) / "data"
                arguments = ["-D", str(data), "-d", self._url_of_other(), "-X", "stream", "-c", "fast", "--no-password"]
                done = subprocess.run(
                    as_ordinary_user(Path(temporary), [str(binary("pg_basebackup")), *arguments]),
                    capture_output=True,
                    text=True,
                    env=variables,
                )
                if done.returncode == 0:
                    (data / FOLLOWS).touch()
                    data.rename(self.directory)
                    return
            if time.monotonic() > deadline:
                said = cause((done.stdout + done.stderr).splitlines())
                raise StartError(f"{self.name}: {self._other.name} could not be copied:\n{said}")
            time.sleep(0.2)  # the other one may be starting
