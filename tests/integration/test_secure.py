"""A stack in which nothing is sent in the clear: plain connections are refused, no secret can be seen from outside, and
secrets change under load without a failed request."""

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from common.config.env import LOOPBACK
from common.kafka.access import ADMIN, BROKER
from common.secrets.passwords import password_file, read_password, write_password
from common.tls.authority import Authority
from common.tls.certificate import valid_until
from common.tls.client import trusting
from dev.servers import users
from dev.settings import CONSOLE, DATABASES, HOST, ROLES, ROOT, SERVICES
from tests.console import Listener, RunningConsole
from tests.stack import API, Stack
from tests.waiting import eventually

CLIENTS = 4
WAIT_S = 10.0
ORDERS_BETWEEN = 20
"""Orders that each client places before, between and after the changes."""


@pytest.fixture(scope="module")
def shop(secure_stack: Stack) -> Stack:
    secure_stack.product("sku-secure", pieces=100_000)
    secure_stack.account("cust-secure", 10**9)
    secure_stack.await_orderable("sku-secure")
    return secure_stack


def test_an_order_is_settled_and_proved(shop: Stack) -> None:
    order = shop.await_settled(shop.place("cust-secure", ("sku-secure", 1)))
    assert order["status"] == "confirmed"
    assert "proved" in shop.run_tool("ops.verify")


@pytest.mark.parametrize("service", [service.name for service in SERVICES])
def test_plain_http_is_refused_on_every_port(shop: Stack, service: str) -> None:
    for port in (shop.ports[service], shop[f"{service}-1"].admin_port):
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://{HOST}:{port}/livez", trust_env=False)


def test_every_session_of_postgres_is_encrypted(shop: Stack) -> None:
    with shop.postgres.connect() as owner:
        sessions = owner.execute(
            "SELECT usename, ssl, version FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
            " WHERE backend_type = 'client backend'"
        ).fetchall()
    assert {usename for usename, *_ in sessions} >= set(DATABASES)
    assert {(ssl, version) for _, ssl, version in sessions} == {(True, "TLSv1.3")}


@pytest.mark.parametrize("role", ROLES)
def test_postgres_refuses_plain_connections(shop: Stack, role: str) -> None:
    database = role if role in DATABASES else "order"
    plain = {"host": HOST, "port": shop.postgres_port, "user": role, "dbname": database, "sslmode": "disable"}
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry .* no encryption"):
        psycopg.connect(**plain, password=read_password(shop.secrets, role))  # type: ignore[arg-type]


def url(shop: Stack, **changed: Any) -> str:
    return psycopg.conninfo.make_conninfo(shop.variables["PAYMENT_DATABASE_URL"], **changed)


def test_postgres_takes_no_tls_before_1_2(shop: Stack) -> None:
    with pytest.raises(psycopg.OperationalError, match=r"(?i)protocol|alert|unsupported"):
        psycopg.connect(url(shop, ssl_min_protocol_version="TLSv1", ssl_max_protocol_version="TLSv1.1"))


def test_a_client_refuses_a_server_of_another_authority_or_name(shop: Stack, tmp_path: Path) -> None:
    other = Authority(tmp_path).ensure("postgres").authority
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        psycopg.connect(url(shop, sslrootcert=str(other)))
    with pytest.raises(psycopg.OperationalError, match=r"server certificate for .* does not match host name"):
        psycopg.connect(url(shop, host="elsewhere", hostaddr=HOST))


def test_a_password_that_is_not_in_a_file_of_its_owner_alone_is_not_used(shop: Stack, tmp_path: Path) -> None:
    write_password(tmp_path, "payment", read_password(shop.secrets, "payment"))
    psycopg.connect(url(shop, passfile=str(password_file(tmp_path, "payment")))).close()
    password_file(tmp_path, "payment").chmod(0o640)
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(url(shop, passfile=str(password_file(tmp_path, "payment"))))


def test_the_console_sees_every_instance_and_passes_orders_on(shop: Stack) -> None:
    console = RunningConsole(shop)
    console.start()
    tab = Listener(console)
    try:
        ready = dict.fromkeys(shop.instances, "ready")
        tab.await_message(
            "flow",
            lambda flow: {i["name"]: i["state"] for i in flow["instances"]} == ready or None,
            "the console finds every instance ready",
        )
        body = {"customer_id": "cust-secure", "product_id": "sku-secure", "quantity": 1}
        assert console.post("/api/orders", body).status_code == 202
        files = {f"{database}-database": "postgres" for database in DATABASES} | {"kafka": "kafka", "http": CONSOLE}
        shown = {
            f'tandem_certificate_expiry_timestamp_seconds{{certificate="{certificate}"}}': valid_until(
                shop.secrets / f"{file}.pem"
            ).timestamp()
            for certificate, file in files.items()
        }
        eventually(lambda: shown.items() <= console.metrics().items(), "the console shows when certificates expire")
    finally:
        console.stop()
        tab.ended.wait(WAIT_S)
        tab.close()
        console.http.close()


def secrets_of(stack: Stack) -> dict[str, str]:
    """Every secret of the stack, by the name of its file: the text that must be seen nowhere."""
    secrets = {path.name: path.read_text().strip() for path in stack.secrets.glob("*.password")}
    secrets |= {f"{role}.pgpass": read_password(stack.secrets, role) for role in ROLES}
    return secrets | {path.name: path.read_text().splitlines()[1] for path in stack.secrets.glob("*.key")}


def visible(stack: Stack) -> dict[str, str]:
    """What others can see of the stack: the arguments and the environment of its processes, and its logs."""
    servers = [stack.postgres, stack.kafka, *stack.instances.values()]
    processes = [psutil.Process(server.process.pid) for server in servers if server.process is not None]
    texts = {path.name: path.read_text(errors="replace") for path in stack.directory.rglob("*.log")}
    for process in [member for parent in processes for member in (parent, *parent.children(recursive=True))]:
        for file in ("cmdline", "environ"):
            text = Path(f"/proc/{process.pid}/{file}").read_text(errors="replace")
            texts[f"{file} of {process.name()} {process.pid}"] = text
    return texts


def test_no_secret_is_in_arguments_environments_logs_or_the_repository(shop: Stack) -> None:
    secrets, texts = secrets_of(shop), visible(shop)
    assert len(secrets) >= len(ROLES) + len(SERVICES)
    assert len(texts) > 2 * len(SERVICES)
    assert [(name, where) for name, secret in secrets.items() for where, text in texts.items() if secret in text] == []
    patterns = [option for secret in secrets.values() for option in ("-e", secret)]
    found = subprocess.run(
        ["git", "grep", "--fixed-strings", "-l", *patterns], cwd=ROOT, capture_output=True, text=True
    )
    assert (found.returncode, found.stdout) == (1, "")
    modes = {path.name: path.stat().st_mode & 0o777 for path in shop.secrets.iterdir() if path.name in secrets}
    assert set(modes.values()) == {0o600}


def test_no_other_user_of_the_machine_can_read_what_the_servers_keep(shop: Stack) -> None:
    kept = [shop.kafka.directory, shop.postgres.directory, shop.secrets]
    assert {path.name: path.stat().st_mode & 0o777 for path in kept} == {path.name: 0o700 for path in kept}


def test_new_passwords_and_certificates_fail_no_request(shop: Stack) -> None:
    placed: list[str] = []
    refused: list[object] = []
    stop = threading.Event()

    def load(kept: bool) -> None:
        body = {"customer_id": "cust-secure", "product_id": "sku-secure", "quantity": 1}
        assert shop.authority is not None
        limits = httpx.Limits(max_keepalive_connections=10 * kept)
        with httpx.Client(verify=trusting(shop.authority), timeout=15, trust_env=False, limits=limits) as client:
            while not stop.is_set():
                try:
                    answer = client.post(f"https://{HOST}:{shop.ports['order-api']}{API}/orders", json=body)
                    read = client.get(f"https://{HOST}:{shop.ports['payment']}{API}/accounts/cust-secure")
                except httpx.HTTPError as error:
                    refused.append(error)
                    continue
                refused.extend(response.text for response in (answer, read) if response.status_code >= 400)
                if answer.status_code == 202:
                    placed.append(answer.json()["order_id"])

    def more() -> None:
        count = len(placed)
        eventually(lambda: len(placed) >= count + CLIENTS * ORDERS_BETWEEN or refused, "clients place orders")

    before = secrets_of(shop)
    clients = [threading.Thread(target=load, args=(number % 2 == 0,)) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        more()
        assert shop.servers.authority is not None
        for name in ("postgres", CONSOLE, *(service.name for service in SERVICES)):
            shop.servers.authority.renew(name, (name, *LOOPBACK))
        shop.postgres.show_certificate()
        shop.servers.authority.renew(ADMIN, purpose="client")
        shop.servers.authority.renew(BROKER, purpose="both")
        shop.kafka.show_certificate()
        shop.run_tool("ops.secrets", "rotate")
        more()
        with shop.postgres.connect() as owner:  # every connection has to be made anew, with the new password
            roles = [*DATABASES, "auditor"]
            owner.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = ANY(%s)", (roles,))
        more()
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert refused == []
    after = secrets_of(shop)
    assert [name for name in before if name.endswith((".pgpass", ".key")) and before[name] == after[name]] == ["ca.key"]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url(shop, passfile="", password=before["payment.pgpass"]))
    for order_id in placed[-CLIENTS:]:
        shop.await_settled(order_id)
    assert "proved" in shop.run_tool("ops.verify")


KILLED = """
import os, runpy, signal
from common.secrets import change
from ops.secrets import rotate
module = {module}
real = module.{step}
def die(*arguments):
    if any(str(argument).endswith(("postgres", "postgres.pgpass")) for argument in arguments):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
module.{step} = die
runpy.run_module("ops.secrets", run_name="__main__", alter_sys=True)
"""


def test_a_rotation_that_is_killed_locks_nobody_out_and_can_be_repeated(shop: Stack) -> None:
    def kill_before(step: str, module: str) -> None:
        script = [sys.executable, "-c", KILLED.format(module=module, step=step), "rotate"]
        environment = shop.tool_environment(users.of_tool("secrets", ["rotate"]))
        assert subprocess.run(script, cwd=ROOT, env=environment).returncode == -signal.SIGKILL

    first = read_password(shop.secrets, "postgres")
    kill_before("ensure_role", "rotate")
    assert shop.postgres.unready() is None
    assert read_password(shop.secrets, "postgres") == first
    kill_before("end_change", "change")  # the server knows the new password, and the file has the old one
    shop.run_tool("ops.migrate")
    shop.run_tool("ops.secrets", "rotate")
    second = read_password(shop.secrets, "postgres")
    kill_before("end_change", "change")
    assert shop.postgres.unready() is None
    shop.postgres.connect().close()
    assert read_password(shop.secrets, "postgres") not in (first, second)
    assert shop.http.get(shop.url("payment", "/accounts/cust-secure")).status_code == 200
