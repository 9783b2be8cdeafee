"""The caller's shell does not reach the processes of a stack."""

import fcntl
import http.server
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import uvicorn

from common.audit.entry import user
from common.config.env import ignore_foreign_variables
from common.files import raise_limit
from common.http import ready
from dev.environment import OPEN_FILES_MAX, child, tight_limits
from dev.native.stack import NativeStack
from dev.native.supervise import Supervisor, Unanswered
from dev.servers.instance import Instance
from dev.servers.kafka import Broker
from dev.settings import HOST, ROOT, SERVICES, Settings

FOREIGN = {
    "http_proxy": "http://127.0.0.1:9",
    "ALL_PROXY": "http://127.0.0.1:9",
    "PGHOSTADDR": "192.0.2.1",
    "PGSERVICE": "none",
    "PGOPTIONS": "-c default_transaction_read_only=on",
    "PYTHONPATH": "/nonexistent",
    "PYTHONSAFEPATH": "1",
    "PYTHONHOME": "/nonexistent",
    "PYTHONOPTIMIZE": "2",
    "JAVA_TOOL_OPTIONS": "-Xmx1m",
    "_JAVA_OPTIONS": "-Xmx1m",
    "CLASSPATH": "/x",
    "KAFKA_OPTS": "-Dx",
    "PROMETHEUS_MULTIPROC_DIR": "/nonexistent",
    "DBMATE_MIGRATIONS_TABLE": "x",
    "LOGURU_FORMAT": "x",
    "LANG": "tr_TR.UTF-8",
    "LC_ALL": "bn_IN.UTF-8",
    "TZ": "Asia/Kolkata",
}


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("foreign")
def test_a_child_gets_nothing_of_other_programs() -> None:
    assert child().keys() & FOREIGN.keys() == {"LC_ALL", "TZ"}
    assert (child()["LC_ALL"], child()["TZ"]) == ("C.UTF-8", "UTC")


@pytest.mark.usefixtures("foreign")
def test_only_a_child_that_fetches_jars_keeps_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/company.pem")
    assert child(downloads=True)["http_proxy"] == FOREIGN["http_proxy"]
    assert child()["SSL_CERT_FILE"] == "/etc/company.pem"


@pytest.mark.usefixtures("foreign")
def test_an_instance_gets_the_settings_of_tandem_and_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDER_LINGER_MS", "5")
    monkeypatch.setenv("HTTP_PORT", "1")
    environment = Instance(tmp_path, SERVICES[0], 2, 8081, {"HTTP_HOST": HOST}, 18102).environment()
    assert environment["ORDER_LINGER_MS"] == "5"
    assert (environment["HTTP_PORT"], environment["INSTANCE"]) == ("8081", "order-api-2")
    assert environment.keys() & FOREIGN.keys() == {"LC_ALL", "TZ"}


@pytest.mark.usefixtures("foreign")
def test_python_starts_in_the_stated_environment() -> None:
    printed = subprocess.run(
        [sys.executable, "-c", "import dev.settings, sys; print('ä', sys.flags.optimize)"],
        cwd=ROOT,
        env=child(),
        capture_output=True,
        check=True,
    )
    assert printed.stdout == "ä 0\n".encode()


class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()
        self.wfile.write(b"ready")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def ready_port() -> Iterator[int]:
    with http.server.HTTPServer((HOST, 0), Ready) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_readiness_checks_bypass_a_proxy(ready_port: int) -> None:
    check = f"from dev.servers.instance import unready_at; print(unready_at({ready_port}))"
    environment = {**os.environ, "http_proxy": "http://127.0.0.1:9"}
    answer = subprocess.run([sys.executable, "-c", check], cwd=ROOT, env=environment, capture_output=True, check=True)
    assert answer.stdout == b"None\n"


@pytest.mark.usefixtures("foreign")
def test_a_containers_health_check_bypasses_a_proxy(
    ready_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ADMIN_PORT", str(ready_port))
    assert ready.main() == 0
    monkeypatch.setenv("ADMIN_PORT", "1")
    assert ready.main() == 1
    assert capsys.readouterr().out.startswith("ready\nno answer: ")


def test_libpqs_own_variables_do_not_lead_a_connection_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSERVICE", "nowhere")
    url = "postgresql://u:p@127.0.0.1:1/d"
    with pytest.raises(psycopg.OperationalError, match="nowhere"):
        psycopg.connect(url)
    ignore_foreign_variables()
    with pytest.raises(psycopg.OperationalError, match="port 1"):
        psycopg.connect(url)


@pytest.mark.parametrize(
    ("variables", "shown"),
    [
        ({}, "curl -i "),
        ({"http_proxy": "http://p:1"}, "curl --noproxy '*' -i "),
        ({"http_proxy": "http://p:1", "no_proxy": "127.0.0.1"}, "curl -i "),
    ],
    ids=["no proxy", "proxy", "not for this machine"],
)
def test_the_first_order_goes_past_the_proxy_of_the_shell(
    variables: dict[str, str],
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    NativeStack(Settings(home=tmp_path, told={"AUTH": "off"})).print_addresses()
    assert f"  {shown}http://127.0.0.1:8081/" in capsys.readouterr().out


def test_uvicorns_own_variable_is_no_setting_of_a_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "auto")
    with pytest.raises(ValueError, match="auto"):
        uvicorn.Config("app")
    ignore_foreign_variables()
    assert uvicorn.Config("app").workers == 1


def test_every_shell_finds_a_supervisor_and_none_waits_for_a_frozen_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the path of its home is, and wherever a shell's temporary files are."""
    home = tmp_path / ("x" * 200)
    folder = home / "supervisor"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("dev.native.supervise.ANSWER_S", 0.01)
    assert not Supervisor(home).running()
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(folder)
        listener.bind("supervisor.sock")
        monkeypatch.chdir("/")
        listener.listen()
        with pytest.raises(Unanswered, match="it is frozen, or the machine is too busy"):
            Supervisor(home).running()
    assert not Supervisor(home).running(), "a socket that nobody listens at is left of an earlier run"


def test_the_broker_needs_nothing_of_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dev.servers.jars.classpath", lambda _: "")
    broker = Broker(tmp_path / "kafka", 1, 2)
    assert f"-Djava.io.tmpdir={tmp_path}/kafka/tmp" in broker.command()
    assert "-XX:+PerfDisableSharedMem" in broker.command()


def test_a_limit_that_is_too_low_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {resource.RLIMIT_NOFILE: (256, 256), resource.RLIMIT_FSIZE: (1024, 1024)}
    monkeypatch.setattr(resource, "getrlimit", lambda limit: limits.get(limit, (-1, -1)))
    assert [text.partition(" allows ")[0] for text in tight_limits()] == ["ulimit -n", "ulimit -f"]


def test_the_limit_of_open_files_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    limits_set: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 10**9))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: limits_set.append(limits))
    raise_limit(OPEN_FILES_MAX)
    assert limits_set == [(65_536, 10**9)]


def test_a_user_without_a_name_is_recorded_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nameless)
    monkeypatch.setattr("os.getuid", lambda: 12345)
    assert user() == "uid 12345"


def test_a_checkout_has_unix_line_endings_however_git_is_configured() -> None:
    listed = subprocess.run(["git", "ls-files", "--eol"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert [line for line in listed.stdout.splitlines() if "eol=lf" not in line] == []


def test_a_first_run_can_be_interrupted(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    script = shutil.copy(ROOT / "dev/bootstrap.py", tmp_path / "dev")
    with (tmp_path / "requirements-dev.txt").open("w") as other_run:
        fcntl.flock(other_run, fcntl.LOCK_EX)
        # A shell's background job ignores SIGINT, and its children inherit that.
        command = ["env", "--default-signal=INT", sys.executable, "-I", script]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
            assert run.stdout is not None
            assert "waiting" in run.stdout.readline()
            run.send_signal(signal.SIGINT)
            assert run.stdout.read() == "justw: interrupted; the same command starts anew\n"
    assert run.returncode == 130


def test_a_package_index_that_cannot_be_reached_is_said_in_a_sentence(tmp_path: Path) -> None:
    """Not by what pip prints about each attempt."""
    (tmp_path / "dev").mkdir()
    script = shutil.copy(ROOT / "dev/bootstrap.py", tmp_path / "dev")
    (tmp_path / "requirements-dev.txt").write_text(f"nothing==1 --hash=sha256:{'0' * 64}\n")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/installed").write_text(f"{tmp_path.resolve()} ")
    pip = tmp_path / ".venv/bin/python"
    error = "connection broken by 'ProxyError(refused)': /simple/nothing/"
    failing = f'echo "WARNING: {error}"; echo "ERROR: No matching distribution found for nothing==1"; exit 1'
    pip.write_text(f'#!/bin/sh\ncase "$*" in *--version*) exit 0 ;; esac\n{failing}\n')
    pip.chmod(0o755)
    done = subprocess.run([sys.executable, "-I", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout.startswith("justw: the package index cannot be reached (ProxyError); check the network")
    assert done.stdout.count("\n") == 1


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """One in which Python says where the command was typed, and what LOG_LEVEL is."""
    folder = tmp_path / "checkout"
    programs = folder / ".venv/bin"
    programs.mkdir(parents=True)
    for name in ("justw", "justfile"):
        shutil.copy(ROOT / name, folder)
    (folder / "requirements-dev.txt").touch()
    (folder / ".venv/installed").write_text(f"{folder.resolve()} ")
    (programs / "just").symlink_to(Path(sys.executable).parent / "just")
    (programs / "python").write_text('#!/bin/sh\necho "$TANDEM_CALLER ${LOG_LEVEL-unset}"')
    (programs / "python").chmod(0o755)
    return folder


def justw(script: Path, cwd: Path) -> tuple[int, str]:
    """The exit code of `just ps` and what it says."""
    environment = {name: value for name, value in os.environ.items() if name != "LOG_LEVEL"}
    done = subprocess.run([script, "ps"], cwd=cwd, env=environment, stdout=-1, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize(
    ("dotenv", "code", "said"),
    [
        (b'A=1\n# a comment\n\n  export LOG_LEVEL = "a b"\r\nC=\n', 0, "a b"),
        (b"A=1\nORDER_API_PORT\n", 2, "justw: .env has a line that is not NAME=VALUE: 2:ORDER_API_PORT"),
        (b"LOG_LEVEL=INFO INFO\n", 2, "Error parsing line: 'INFO INFO'"),
        (b'LOG_LEVEL="INFO\n', 2, "Error parsing line: 'LOG_LEVEL=\"INFO '"),
        (b"\xef\xbb\xbfLOG_LEVEL=INFO\n", 2, "justw: .env begins with a byte order mark"),
        (b"LOG_LEVEL=\xff\n", 2, "stream did not contain valid UTF-8"),
    ],
    ids=["good", "no value", "spaces", "open quote", "byte order mark", "not UTF-8"],
)
def test_a_line_of_dotenv_that_just_cannot_read_is_no_violation(
    dotenv: bytes, code: int, said: str, checkout: Path
) -> None:
    (checkout / ".env").write_bytes(dotenv)
    ended, output = justw(checkout / "justw", checkout)
    assert ended == code
    assert said in output
    assert "\n" not in output


def test_the_dotenv_of_a_parent_folder_does_not_count(checkout: Path) -> None:
    (checkout.parent / ".env").write_text("LOG_LEVEL=of-a-stranger")
    assert justw(checkout / "justw", checkout) == (0, f"{checkout.resolve()} unset")


def test_paths_begin_where_the_command_was_typed(checkout: Path) -> None:
    """Through a link to justw too."""
    docs = checkout / "docs"
    docs.mkdir()
    (docs / "tandem").symlink_to("../justw")
    for script in (checkout / "justw", docs / "tandem"):
        assert justw(script, docs) == (0, f"{docs.resolve()} unset")
