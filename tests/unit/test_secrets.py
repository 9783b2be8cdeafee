"""Passwords in files, and the secrets of the containers."""

import asyncio
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any, NamedTuple, cast

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from common.config.env import Env
from common.errors import Fatal
from common.files import write
from common.kafka import access
from common.postgres import CONNECT_TIMEOUT_S, HTTP_LOCK_TIMEOUT_MS, connect_async, pool
from common.secrets.change import change, files_to_try, pending_file
from common.secrets.passwords import (
    connect_by,
    database_url,
    new_line,
    password_file,
    password_in,
    password_of,
    read_password,
    stored_roles,
    urls_to_try,
    write_password,
)
from dev.compose.stack import ComposeStack
from dev.servers.kafka import SECURE
from dev.settings import HOST, Settings
from dev.stack import StackError
from ops.secrets import holders, rotate
from ops.secrets.rotate import nothing, urls_by_server
from tests.compose import services


def test_a_url_names_the_file_and_not_the_password(tmp_path: Path) -> None:
    folder = tmp_path / "a folder?&"
    write_password(folder, "order", "s3cret")
    url = database_url("order", "order", host="127.0.0.1", ports=[5], folder=folder, authority=folder / "ca.pem")
    assert "s3cret" not in url
    assert password_of(url) == "s3cret"
    assert Env("", {"X": url}).database_url("X") == url


@pytest.mark.parametrize("answer", [[8, 3], [12, 5, 7], [8, 0]], ids=["in the clear", "its MD5", "nothing"])
def test_whoever_listens_instead_of_postgres_learns_no_password(answer: list[int], tmp_path: Path) -> None:
    """Another user of the machine may, while PostgreSQL is down, and ask for whatever serves them best."""
    write_password(tmp_path, "order", "s3cret")
    learnt: list[bytes] = []

    def listen(server: socket.socket) -> None:
        client, _ = server.accept()
        with client:
            client.recv(1_000)  # the user and the database
            client.sendall(b"R" + struct.pack(f"!{len(answer)}i", *answer))
            learnt.append(client.recv(1_000))

    with socket.create_server((HOST, 0)) as server, ThreadPoolExecutor(1) as pool:
        listening = pool.submit(listen, server)
        url = database_url("order", "order", host=HOST, ports=[server.getsockname()[1]], folder=tmp_path)
        with pytest.raises(psycopg.OperationalError, match='requirement "scram-sha-256" failed'):
            psycopg.connect(url, connect_timeout=5)
        listening.result()
    assert learnt == [b""]


@pytest.mark.parametrize(
    ("line", "password"),
    [
        ("*:*:*:order:a", "a"),
        ("h:5:d:order:a:b", "a"),
        (r"h:5:d:order:a\:\\b", r"a:\b"),
        ("h:6:d:order:a\n*:*:d:*:b", "b"),
        ("other:*:*:order:a", None),
        ("*:*:*:payment:a", None),
        ("", None),
    ],
)
def test_a_password_file_is_read_as_libpq_reads_it(line: str, password: str | None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(f"{line}\n")
    url = f"postgresql://order@h:5/d?passfile={tmp_path}/file"
    if password is None:
        with pytest.raises(Fatal, match="file has no password of 'order' for 'd'"):
            password_of(url)
    else:
        assert password_of(url) == password


class Moment(NamedTuple):
    """What a client can meet: the version and the text of each file, and the password that the server knows."""

    files: dict[str, tuple[int, str]]
    server: str


class Recorder:
    """Keeps every moment of a change of payment's password."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._server = read_password(folder, "payment")
        self.moments: list[Moment] = []
        self._keep()
        replace, unlink = Path.replace, Path.unlink

        def replaced(path: Path, target: Path) -> Path:
            result = replace(path, target)
            self._keep()
            return result

        def unlinked(path: Path, missing_ok: bool = False) -> None:
            unlink(path, missing_ok)
            self._keep()

        monkeypatch.setattr(Path, "replace", replaced)
        monkeypatch.setattr(Path, "unlink", unlinked)

    def set_password(self, password: str) -> None:
        self._server = password
        self._keep()

    def _keep(self) -> None:
        files = {path.name: path for path in (password_file(self._folder, "payment"),)}
        files |= {path.name: path for path in map(pending_file, files.values()) if path.exists()}
        kept = {name: (path.stat().st_ino, password_in(path, "payment")) for name, path in files.items()}
        if not self.moments or self.moments[-1] != (kept, self._server):
            self.moments.append(Moment(kept, self._server))


class Client:
    """Connects by `files_to_try`, and meets one moment after the other, one at each of its steps."""

    def __init__(self, moments: Sequence[Moment]) -> None:
        self._coming = iter(moments)
        self.now = next(self._coming)

    def is_let_in(self) -> bool:
        for file in files_to_try(cast(Path, Met(self, "payment.pgpass"))):
            self.now = next(self._coming)
            _, shown = self.now.files.get(file.name, (0, ""))
            self.now = next(self._coming)
            if shown == self.now.server:
                return True
            self.now = next(self._coming)
        return False


class Met(NamedTuple):
    """A file, as a client finds it at the moment."""

    client: Client
    name: str

    def with_name(self, name: str) -> "Met":
        return Met(self.client, name)

    def exists(self) -> bool:
        return self.name in self.client.now.files

    def stamp(self) -> int:
        return self.client.now.files[self.name][0]


@pytest.mark.parametrize("folder", [holders.MADE, "payment"], ids=["the files themselves", "copies in Compose"])
def test_whenever_a_client_comes_while_a_password_changes_it_is_let_in(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long each step takes, on either side."""
    monkeypatch.setattr(os, "chown", lambda *_: None)
    for role in holders.ROLES:
        write_password(tmp_path / holders.MADE, role, role)
    monkeypatch.setattr(holders, "HOLDERS", {"payment": holders.Holder(0, ("payment",), ("payment",))})
    holders.make(tmp_path)
    file = password_file(tmp_path / holders.MADE, "payment")
    with monkeypatch.context() as recording:
        recorder = Recorder(tmp_path / folder, recording)

        def set_on_server() -> None:
            recorder.set_password(password_in(pending_file(file), "payment"))

        change({file: new_line("payment")}, set_on_server, partial(holders.publish, tmp_path))
    first, *_, last = moments = recorder.moments
    assert (first.server, last.server) == ("payment", read_password(tmp_path / folder, "payment"))
    assert first.server != last.server
    assert [*last.files] == ["payment.pgpass"]
    monkeypatch.setattr("common.secrets.change.stamp", Met.stamp)
    steps = 10  # of an attempt that is refused twice
    for met in combinations_with_replacement(moments, steps):
        assert Client(met).is_let_in(), met


def test_a_change_that_was_interrupted_goes_on_with_its_own_password(tmp_path: Path) -> None:
    folder = tmp_path / "a folder?&"
    write_password(folder, "order", "old")
    file = password_file(folder, "order")
    url = database_url("order", "order", host="127.0.0.1", ports=[5], folder=folder, authority=folder / "ca.pem")
    assert list(urls_to_try(url)) == [url]
    known: list[str] = []

    def until_killed() -> None:
        known.append(password_in(pending_file(file), "order"))
        raise KeyboardInterrupt

    def change_it(set_on_server: Callable[[], None]) -> None:
        change({file: new_line("order")}, set_on_server, nothing)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            change_it(until_killed)
    [new] = set(known)
    assert [password_of(tried) for tried in urls_to_try(url)] == ["old", new]
    assert pending_file(file).stat().st_mode & 0o777 == 0o600
    assert stored_roles(folder) == ["order"]
    change_it(nothing)
    assert ([*urls_to_try(url)], password_of(url)) == ([url], new)
    change_it(nothing)
    assert password_of(url) != new


def test_a_connection_that_is_refused_is_made_with_the_other_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_password(tmp_path, "order", "old")
    write(pending_file(password_file(tmp_path, "order")), new_line("order"), 0o600)
    url = database_url("order", "order", host=HOST, ports=[5], folder=tmp_path)
    tried: list[str] = []

    def refuse(conninfo: str) -> str:
        tried.append(conninfo_to_dict(conninfo)["passfile"])  # type: ignore[arg-type]
        if len(tried) % 2:
            raise psycopg.OperationalError(f"{len(tried)}")
        return "taken"

    async def refuse_async(conninfo: str, **_: object) -> str:
        return refuse(conninfo)

    assert connect_by(url, refuse) == "taken"
    monkeypatch.setattr(psycopg.AsyncConnection, "connect", refuse_async)
    assert asyncio.run(connect_async(url, "order-api-1")) == "taken"  # type: ignore[comparison-overlap]
    assert tried == [str(tmp_path / name) for name in ("order.pgpass", "order.pgpass.next")] * 2
    pending_file(password_file(tmp_path, "order")).unlink()
    with pytest.raises(psycopg.OperationalError, match=r"^5$"):
        connect_by(url, refuse)


def test_a_pool_connects_with_either_password_and_its_own_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_password(tmp_path, "order", "old")
    write(pending_file(password_file(tmp_path, "order")), new_line("order"), 0o600)
    url = database_url("order", "order", host=HOST, ports=[5], folder=tmp_path)
    tried: list[dict[str, object]] = []

    async def run() -> None:
        done = asyncio.Event()

        async def refuse(conninfo: str, **options: object) -> None:
            tried.append({**conninfo_to_dict(conninfo), **options})
            if len(tried) == 2:
                done.set()
            raise psycopg.OperationalError("refused")

        monkeypatch.setattr(psycopg.AsyncConnection, "connect", refuse)
        opened = pool(url, "order-api-1", size=1)
        await opened.open(wait=False)
        await done.wait()
        await opened.close()

    asyncio.run(run())
    names = ("order.pgpass", "order.pgpass.next")
    assert [attempt["passfile"] for attempt in tried[:2]] == [str(tmp_path / name) for name in names]
    for attempt in tried:
        assert (attempt["application_name"], attempt["connect_timeout"]) == ("order-api-1", str(CONNECT_TIMEOUT_S))
        assert f"-c lock_timeout={HTTP_LOCK_TIMEOUT_MS} " in str(attempt["options"])


def test_postgres_has_the_new_passwords_before_the_files_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for role in ("postgres", "order"):
        write_password(tmp_path, role, "old")
    urls = [database_url(role, "order", host=HOST, ports=[5], folder=tmp_path) for role in ("postgres", "order")]
    steps: list[object] = []

    class Admin:
        def __enter__(self) -> "Admin":
            return self

        def __exit__(self, *_: object) -> None: ...

        @contextmanager
        def transaction(self) -> Iterator[None]:
            yield
            steps.append("committed")

        def execute(self, statement: str) -> None:
            steps.append(statement)

    monkeypatch.setattr(rotate, "connect", lambda _: Admin())
    monkeypatch.setattr(rotate, "ensure_role", lambda _, role, password: steps.append((role, password)))

    def publish() -> None:
        steps.append([read_password(tmp_path, role) for role in ("order", "postgres")])

    assert rotate.rotate({(HOST, "5"): urls}, publish) == ["order", "postgres"]
    new = [read_password(tmp_path, role) for role in ("order", "postgres")]
    altered: list[object] = [*zip(("order", "postgres"), new, strict=True)]
    assert steps == [["old", "old"], *altered, "committed", new, "SELECT pg_reload_conf()"]


def test_each_container_gets_its_own_secrets_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owners: dict[Path, int] = {}
    monkeypatch.setattr(os, "chown", lambda path, user, group: owners.__setitem__(Path(path), user))
    holders.make(tmp_path)
    files = {name: {path.name for path in (tmp_path / name).iterdir()} for name in holders.HOLDERS}
    certificate = {"payment.key", "payment.pem", "payment.both.pem"}
    assert files["payment"] == {"ca.pem", "payment.pgpass", "kafka-payment.password", *certificate}
    for user in access.USERS:
        given_to = {user} & holders.HOLDERS.keys() - {"auditor"}  # what watches Kafka shows a certificate
        assert {name for name, held in files.items() if f"kafka-{user}.password" in held} == {"setup", *given_to}
    assert {name for name, held in files.items() if "admin.client.key" in held} == {"setup"}
    assert {name for name, held in files.items() if "kafka.key" in held} == {"kafka"}
    assert {name for name, held in files.items() if "postgres.pgpass" in held} == {"setup", "postgres"}
    assert {name for name, held in files.items() if "ca.key" in held} == set()
    given = {path.name.removesuffix(".new"): user for path, user in owners.items()}
    assert (given["payment.key"], given["postgres.key"], given["gateway.key"]) == (holders.USER, 999, 0)
    assert all(owners[tmp_path / name] == holder.user for name, holder in holders.HOLDERS.items())
    texts = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.stat().st_mode & 0o077 for path in texts if path.parent.name != holders.MADE} == {0}
    holders.make(tmp_path)
    assert texts == {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}, "once"
    holders.renew_certificates(tmp_path)
    changed = {path.name for path, text in texts.items() if path.read_text() != text}
    clients = {f"{client}.client.{kind}" for client in (access.ADMIN, access.AUDITOR) for kind in ("key", "pem")}
    assert {"payment.key", "payment.pem", "postgres.key"} | clients <= changed
    assert not {name for name in changed if name.endswith((".pgpass", ".password"))} | (changed & {"ca.pem", "ca.key"})


def test_the_servers_of_a_rotation_are_those_of_the_superusers(tmp_path: Path) -> None:
    def url(role: str, port: int) -> str:
        return database_url(role, role, host="h", ports=[port], folder=tmp_path)

    environ = {
        f"{name}_{kind}_URL": url(role, port)
        for name, port in (("ORDER", 1), ("NOTIFY", 1), ("PAYMENT", 2))
        for kind, role in (("ADMIN", "postgres"), ("DATABASE", name.lower()), ("AUDITOR", "auditor"))
    }
    urls = urls_by_server(Env("", environ), environ)
    assert {server: [known.split("@")[0].split("//")[1] for known in all_] for server, all_ in urls.items()} == {
        ("h", "1"): ["postgres", "notify", "auditor", "order", "auditor"],
        ("h", "2"): ["postgres", "payment", "auditor"],
    }


def test_secure_compose_is_the_same_stack_with_nothing_in_the_clear() -> None:
    plain, secure = services("docker-compose.yml"), services("dev/compose-secure.yml")
    assert secure.keys() <= plain.keys()
    plainly = "sslmode=disable&require_auth=scram-sha-256"
    verified = "sslmode=verify-full&channel_binding=require&sslrootcert=/secrets/ca.pem"
    for name, service in plain.items():
        settings = service.get("environment", {})
        changed = secure.get(name, {}).get("environment", {})
        urls = {variable: url for variable, url in settings.items() if variable.endswith("_URL")}
        expected = {variable: url.replace(plainly, verified) for variable, url in urls.items()}
        assert {variable: changed.get(variable) for variable in urls} == expected, name
        if "HTTP_PORT" in settings:
            files = [f"/secrets/{name}.pem", f"/secrets/{name}.key", "/secrets/ca.pem"]
            assert [changed[v] for v in ("TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CA_FILE")] == files
        if service["image"].startswith("postgres:"):
            command = secure[name]["command"]
            assert command[: len(service["command"])] == service["command"]
            assert {"--ssl=on", "--hba_file=/secrets/hba.conf"} <= set(command)


def listeners(settings: str) -> dict[str, str]:
    return dict(listener.split(":", 1) for listener in settings.split(","))


def test_secure_compose_lets_nobody_in_at_kafka_without_a_user_or_a_certificate() -> None:
    plain, secure = services("docker-compose.yml"), services("dev/compose-secure.yml")
    broker = secure["kafka"]["environment"]
    names = listeners(broker["KAFKA_LISTENERS"])
    protocols = listeners(broker["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"])
    assert protocols.keys() == names.keys()
    for name, protocol in protocols.items():
        if protocol == "SASL_SSL":
            login = broker[f"KAFKA_LISTENER_NAME_{name}_SCRAM___SHA___512_SASL_JAAS_CONFIG"]
            assert login.endswith("ScramLoginModule required;"), "without a password"
        else:
            assert (protocol, broker[f"KAFKA_LISTENER_NAME_{name}_SSL_CLIENT_AUTH"]) == ("SSL", "required")
    assert names["CONTROLLER"] == "//127.0.0.1:9093", "in its container"
    assert (
        set(holders.LISTENERS)
        == names.keys() - {"CONTROLLER"}
        == listeners(broker["KAFKA_ADVERTISED_LISTENERS"]).keys()
    )
    assert protocols[broker["KAFKA_INTER_BROKER_LISTENER_NAME"]] == "SSL"
    assert "SSL:" not in broker["KAFKA_ADVERTISED_LISTENERS"], "the image would ask for other key stores"
    differs = {"listener.security.protocol.map", "inter.broker.listener.name", "ssl.keystore.location"}
    for setting, value in SECURE.items():
        if setting not in differs and not setting.startswith("listener.name.sasl_ssl."):
            assert broker["KAFKA_" + setting.replace(".", "_").upper()].replace("$$", "$") == value, setting
    assert f"/secrets/{access.BROKER}.both.pem" == broker["KAFKA_SSL_KEYSTORE_LOCATION"] == holders.KEY_STORE
    assert secure["kafka"]["volumes"] == ["secrets-kafka:/secrets:ro"]
    for name, service in plain.items():
        if "KAFKA_BOOTSTRAP_SERVERS" not in service.get("environment", {}) or name == "setup":
            continue
        told, holder = secure[name]["environment"], holders.HOLDERS[name]
        assert told["KAFKA_SECURITY_PROTOCOL"] == "SASL_SSL"
        assert holder.kafka_users == (told["KAFKA_USERNAME"],) == (name,)
        assert told["KAFKA_PASSWORD_FILE"] == f"/secrets/kafka-{name}.password"
    for name in ("setup", "secrets"):
        told = secure[name]["environment"]
        assert (told["KAFKA_BOOTSTRAP_SERVERS"], told["KAFKA_SECURITY_PROTOCOL"]) == ("kafka:19094", "SSL")
        assert told["KAFKA_CERT_FILE"] == f"/secrets/{access.ADMIN}.client.pem"
    for name in ("kafka-exporter", "kafka-ui"):
        assert secure[name]["volumes"] == ["secrets-auditor:/secrets:ro"]
        assert (secure[name]["user"], holders.HOLDERS["auditor"].user) == (str(holders.USER), holders.USER)
        assert "/secrets/auditor.client." in str(secure[name])


def test_a_tool_in_compose_is_the_user_that_it_is_natively(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, ...]] = []

    def process(_: ComposeStack, *arguments: str, **__: Any) -> "subprocess.CompletedProcess[str]":
        ran.append(arguments)
        return subprocess.CompletedProcess(arguments, 0)

    monkeypatch.setattr(ComposeStack, "_process", process)
    stack = ComposeStack(Settings(home=tmp_path, secure=True))
    stack.settings = stack.requested  # as once it is up
    for module, arguments in (("verify", []), ("topics", ["list"]), ("topics", ["create"]), ("topics", ["allow", "a"])):
        with pytest.raises(SystemExit):
            stack.ops(module, arguments)
    as_auditor, as_operator, as_admin, allow = ran
    assert {"KAFKA_USERNAME=auditor", "KAFKA_PASSWORD_FILE=/secrets/kafka-auditor.password"} <= set(as_auditor)
    assert {"KAFKA_USERNAME=operator", "KAFKA_BOOTSTRAP_SERVERS=kafka:19092"} <= set(as_operator)
    assert not [part for part in (*as_admin, *allow) if part.startswith("KAFKA_")], "by its certificate"
    assert ("setup" in as_admin, "secrets" in allow) == (True, True), "which may write the new user's password"
    with pytest.raises(StackError, match="'just secrets rotate'"):
        stack.ops("topics", ["rotate"])


def test_each_container_mounts_its_own_secrets_and_no_others() -> None:
    for name, service in services("docker-compose.yml").items():
        mounted = [volume.split(":")[0] for volume in service.get("volumes", ()) if volume.startswith("secrets-")]
        if name == "secrets":
            assert {volume.removeprefix("secrets-") for volume in mounted} == {*holders.HOLDERS, holders.MADE}
            continue
        assert len(mounted) <= 1
        passfiles = {
            url.partition("/secrets/")[2] for url in service.get("environment", {}).values() if "passfile" in url
        }
        if passfiles:
            [volume] = mounted
            roles = holders.HOLDERS[volume.removeprefix("secrets-")].roles
            assert passfiles == {f"{role}.pgpass" for role in roles}


def test_a_url_of_several_servers_asks_for_the_one_that_takes_writes(tmp_path: Path) -> None:
    write_password(tmp_path, "order", "s3cret")
    one = database_url("order", "order", host="h", ports=[5], folder=tmp_path)
    assert "target_session_attrs" not in one
    url = database_url("order", "order", host="h", ports=[5, 6], folder=tmp_path)
    assert Env("", {"X": url}).database_url("X") == url
    assert conninfo_to_dict(url) | {"passfile": ""} == {
        "user": "order", "dbname": "order", "host": "h,h", "port": "5,6", "sslmode": "disable",
        "require_auth": "scram-sha-256", "target_session_attrs": "read-write", "passfile": "",
    }  # fmt: skip
    assert password_of(url) == "s3cret"
    # The auditor's sessions are read-only by default, which libpq would take for a standby.
    auditor = database_url("auditor", "order", host="h", ports=[5, 6], folder=tmp_path, writes=False)
    assert conninfo_to_dict(auditor)["target_session_attrs"] == "primary"
