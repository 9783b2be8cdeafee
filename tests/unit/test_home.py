"""The folder of a stack: one identity, nothing in it that is somebody else's, and files that are whole or named."""

import argparse
import io
import json
import os
import signal
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from common.errors import Fatal
from common.files import write
from common.kafka.access import ADMIN, BROKER
from common.secrets.passwords import password_of, read_password
from common.tls.authority import Authority, Purpose
from dev import home as homes
from dev.__main__ import main, natural
from dev.compose.engine import tools_code
from dev.home import HomeError
from dev.native.stack import NativeStack
from dev.servers import processes
from dev.servers.kafka import Broker
from dev.servers.server import StartError
from dev.settings import ROLES, ROOT, Settings, environment, new_passwords
from dev.stack import StackError
from dev.state import State


def home_of(text: str) -> Path:
    return Settings.from_environment({"TANDEM_HOME": text}).home


def just(monkeypatch: pytest.MonkeyPatch, home: Path, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["just", *arguments])
    monkeypatch.setenv("TANDEM_HOME", str(home))
    try:
        return main()
    except SystemExit as ended:  # by argparse
        return int(ended.code or 0)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def streams() -> Iterator[None]:
    """A command that changes a stack replaces them for good."""
    before = sys.stdout, sys.stderr
    yield
    sys.stdout, sys.stderr = before


def test_a_home_has_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.setenv("HOME", str(tmp_path))
    names = [str(tmp_path / "real"), str(tmp_path / "link"), f"{tmp_path}/real/../real/", "~/link"]
    assert {home_of(name) for name in names} == {tmp_path / "real"}
    assert Settings.from_environment({}).home == ROOT.resolve() / ".tandem"


def test_a_relative_home_begins_at_the_checkout_wherever_the_caller_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert home_of("data") == ROOT.resolve() / "data"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/srv/a\nb", "control character"),
        ("/srv/a\x7fb", "control character"),
        ("/srv/a\udcffb", "not UTF-8"),
        ("/srv/" + "x/" * 450, "at most 900"),
        ("/srv/" + "x" * 256, "more than 255"),
        ("~nobody-of-this-name/t", "is no folder"),
    ],
)
def test_a_home_that_no_file_can_name_is_refused_at_once(text: str, message: str) -> None:
    with pytest.raises(Fatal, match=message) as refused:
        home_of(text)
    assert str(refused.value).startswith("TANDEM_HOME=")


def test_a_loop_of_links_is_named(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises((Fatal, HomeError), match="TANDEM_HOME"):
        homes.claim(home_of(str(tmp_path / "loop")))


@pytest.mark.parametrize("command", [["down"], ["reset", "--yes"], ["stop", "payment"], ["up"], ["scale", "payment=2"]])
def test_a_folder_of_somebody_else_stays_as_it_is(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("kafka", "postgres", "logs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("precious")
    (tmp_path / "secrets.json").write_text("mine too")
    before = sorted(map(str, tmp_path.rglob("*")))
    assert just(monkeypatch, tmp_path, *command) == (0 if command == ["down"] else 2)
    assert sorted(map(str, tmp_path.rglob("*"))) == before


def test_reset_deletes_what_is_tandems_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    homes.claim(home)
    State.load(home).started("native", Settings(home=home))
    for name in ("kafka/log", "postgres/base", "logs", "cache/jars"):
        (home / name).mkdir(parents=True)
    (home / "notes").write_text("mine")
    assert just(monkeypatch, home, "reset", "--yes") == 0
    assert {path.name for path in home.iterdir()} == {homes.MARK, "acts.log", "cache", "lock", "notes"}
    assert just(monkeypatch, home, "reset", "--yes") == 0, "again"


def test_what_reset_cannot_delete_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "disk"
    homes.claim(home)
    elsewhere.mkdir()
    (home / "postgres").symlink_to(elsewhere)
    with pytest.raises(HomeError, match=r"symbolic links: .*/home/postgres"):
        homes.delete_data(home)


def test_a_home_of_an_earlier_version_is_still_a_home(tmp_path: Path) -> None:
    stored = {"stack": "native", "up": False, "ports": {"kafka_port": 9092}, "scale": {"payment": 2}}
    (tmp_path / "stack.json").write_text(json.dumps(stored))
    (tmp_path / "postgres").mkdir()
    homes.claim(tmp_path)
    assert State.load(tmp_path).instances()["payment"] == 2
    assert homes.is_marked(tmp_path)


def test_a_home_that_cannot_be_written_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeError, match=r"TANDEM_HOME=.*/file/home cannot be used: Not a directory"):
        homes.claim(tmp_path / "file/home")


DAMAGED = ["", "{", "[]", "null", '{"scale": {"payment": -1}}', '{"ports": {"kafka_port": "x"}}', "\xff", '{"up": 1']


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_state_is_named_and_the_stack_can_be_stopped(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    homes.claim(tmp_path)
    (tmp_path / "stack.json").write_text(text, encoding="latin-1")
    for command in ("ps", "up", "logs"):
        assert just(monkeypatch, tmp_path, command) == 2
        assert "stack.json is damaged" in capfd.readouterr().err
    assert (tmp_path / "stack.json").read_text(encoding="latin-1") == text, "never replaced without a word"
    assert just(monkeypatch, tmp_path, "down") == 0
    assert "is now" in capfd.readouterr().out
    assert (tmp_path / "stack.json.damaged").read_text(encoding="latin-1") == text


@pytest.mark.parametrize("text", ["", "{", "*:*:*:order:", "*:*:*:payment:x", "\xff"])
def test_damaged_passwords_are_named(text: str, tmp_path: Path) -> None:
    homes.make_passwords(tmp_path)
    path = tmp_path / "secrets/order.pgpass"
    path.write_text(text, encoding="latin-1")
    homes.make_passwords(tmp_path)
    with pytest.raises(HomeError, match=r"order\.pgpass.*(damaged|cannot be read).*Damaged files"):
        homes.check_passwords(tmp_path)
    assert path.read_text(encoding="latin-1") == text


def test_the_passwords_are_readable_by_their_owner_only(tmp_path: Path) -> None:
    homes.make_passwords(tmp_path)
    files = [tmp_path / f"secrets/{role}.pgpass" for role in ROLES]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700


def test_the_superusers_password_is_not_made_anew_behind_databases_that_have_it(tmp_path: Path) -> None:
    homes.make_passwords(tmp_path)
    texts = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres/PG_VERSION").write_text("18")
    (tmp_path / "secrets/order.pgpass").unlink()
    homes.make_passwords(tmp_path)  # `ops.migrate` gives it to the database
    kept = {path.name for path in (tmp_path / "secrets").iterdir() if texts[path.name] == path.read_text()}
    assert kept == texts.keys() - {"order.pgpass"}
    (tmp_path / "secrets/postgres.pgpass").unlink()
    with pytest.raises(HomeError, match=r"postgres\.pgpass is missing.*Damaged files"):
        homes.make_passwords(tmp_path)


def test_the_passwords_of_an_earlier_version_are_taken_over(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres/PG_VERSION").write_text("18")
    earlier = new_passwords() | {"notify": "mine"}
    (tmp_path / "secrets.json").write_text(json.dumps(earlier))
    homes.make_passwords(tmp_path)
    assert {role: read_password(tmp_path / "secrets", role) for role in earlier} == earlier
    assert not (tmp_path / "secrets.json").exists()
    (tmp_path / "secrets.json").write_text("{")
    with pytest.raises(HomeError, match=r"secrets\.json is damaged"):
        homes.make_passwords(tmp_path)


def test_a_service_beside_the_stack_gets_a_password_and_a_database_of_its_own(tmp_path: Path) -> None:
    homes.make_passwords(tmp_path)
    homes.store_password(tmp_path, "notify")
    password = read_password(tmp_path / "secrets", "notify")
    homes.store_password(tmp_path, "notify")
    assert read_password(tmp_path / "secrets", "notify") == password, "it keeps its password"
    folder, databases = tmp_path / "secrets", homes.databases(tmp_path)
    variables = environment(kafka_servers="-", postgres_port=15432, folder=folder, databases=databases, partitions=6)
    url = f"postgresql://notify@127.0.0.1:15432/notify?sslmode=disable&require_auth=scram-sha-256&passfile={folder}/notify.pgpass"
    assert variables["NOTIFY_DATABASE_URL"] == url
    assert password_of(url) == password


@pytest.mark.parametrize("text", ["", "version=1\n", "version=1\nnode.id=1\ncluster.id=\n", None])
def test_a_brokers_identity_is_never_made_anew_over_its_topics(
    text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dev.servers.jars.provide", lambda cache, link: None)
    monkeypatch.setattr(Broker, "_format", lambda broker: pytest.fail("formatted"))
    broker = Broker(tmp_path / "kafka", 1, 2, cache=tmp_path)
    (tmp_path / "kafka/log/orders-0").mkdir(parents=True)
    if text is not None:
        (tmp_path / "kafka/log/meta.properties").write_text(text)
    with pytest.raises(StartError, match=r"meta\.properties is (damaged|missing).*Damaged files"):
        broker.prepare()


def test_certificates_of_a_rotation_that_was_killed_are_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The administrator and the broker have no passwords: nothing else could lock them out."""
    monkeypatch.setattr("dev.servers.jars.provide", lambda cache, link: None)
    authority = Authority(tmp_path / "secrets")
    broker = Broker(tmp_path / "kafka", 1, 2, cache=tmp_path, secrets=authority.folder, certificates_port=3)
    (tmp_path / "kafka/log").mkdir(parents=True)
    (tmp_path / "kafka/log/meta.properties").write_text("version=1\nnode.id=1\ncluster.id=x\n")
    broker.prepare()

    def killed(path: Path, text: str, mode: int = 0o644) -> None:
        if path.suffix == ".pem":
            raise InterruptedError
        write(path, text, mode)

    with monkeypatch.context() as patched:
        patched.setattr("common.tls.authority.write", killed)
        purposes: dict[str, Purpose] = {ADMIN: "client", BROKER: "both"}
        for user, purpose in purposes.items():
            with pytest.raises(InterruptedError):
                authority.renew(user, purpose=purpose)
    broker.prepare()
    shown = broker.brokers()
    assert shown.cert_file is not None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(shown.cert_file, shown.key_file)
    context.load_cert_chain(broker.directory / "keys.pem")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "stack.json"
    write(path, "before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(path, "after")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("stack.json", "before")]


def test_a_command_that_changes_the_stack_is_recorded_with_who_ran_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever comes of it, and although every database may be down."""
    homes.claim(tmp_path)
    monkeypatch.setattr("common.audit.entry.user", lambda: "bea")
    just(monkeypatch, tmp_path, "stop", "payment", "kafka")
    monkeypatch.setenv("TANDEM_ACTOR", "ann")
    just(monkeypatch, tmp_path, "scale", "payment=2")
    just(monkeypatch, tmp_path, "ps")  # changes nothing
    lines = [json.loads(line) for line in (tmp_path / "acts.log").read_text().splitlines()]
    assert [(line["message"], line["principal"], line["kind"]) for line in lines] == [
        ("audit: stop payment kafka", "bea", "user"),
        ("audit: scale payment=2", "ann (run by bea)", "user"),
    ]
    assert (tmp_path / "acts.log").stat().st_mode & 0o777 == 0o600
    capfd.readouterr()
    assert just(monkeypatch, tmp_path, "logs", "--no-follow", "acts") == 0
    assert "audit: stop payment kafka" in capfd.readouterr().out
    (tmp_path / "acts.log").unlink()
    (tmp_path / "acts.log").mkdir()
    just(monkeypatch, tmp_path, "stop", "payment")
    assert "this could not be recorded" in capfd.readouterr().err


@pytest.fixture
def child() -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    children = []

    def start(**options: Any) -> "subprocess.Popen[bytes]":
        children.append(subprocess.Popen(["sleep", "1000"], **options))
        return children[-1]

    yield start
    for process in children:
        process.kill()
        process.wait()


def test_only_what_was_recorded_is_stopped(tmp_path: Path, child: Callable[..., "subprocess.Popen[bytes]"]) -> None:
    (tmp_path / "postgres").mkdir()
    ours = child()
    processes.record(tmp_path, "payment-1", ours.pid)
    for folder in (tmp_path, tmp_path / "postgres"):  # an operator's shells
        child(cwd=folder, env={**os.environ, "TANDEM_HOME": str(tmp_path), "TANDEM_STACK": str(tmp_path)})
    assert [process.pid for process in processes.of_stack(tmp_path)] == [ours.pid]
    NativeStack(Settings(home=tmp_path))._stop_left_over()
    assert not psutil.pid_exists(ours.pid)
    assert not (tmp_path / "run").exists()


def test_a_pid_that_is_another_process_by_now_is_left_alone(
    tmp_path: Path, child: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    stranger = child()
    processes.record(tmp_path, "payment-1", stranger.pid)
    record = tmp_path / "run/payment-1"
    pid, boot, ticks = record.read_text().split()
    for text in (f"{pid} {boot} {int(ticks) - 1}", f"{pid} other-boot {ticks}", f"{pid} ", pid, "", "x y z"):
        record.write_text(text)
        assert processes.of_stack(tmp_path) == []
    assert psutil.Process(stranger.pid).is_running()


@pytest.mark.parametrize(("code", "ends"), [(0, 0), (65, 1), (66, 2), (1, 2), (125, 2), (127, 2), (130, 130), (17, 2)])
def test_what_compose_fails_at_is_no_violation(code: int, ends: int) -> None:
    assert tools_code(code) == ends


@pytest.mark.parametrize(
    "arguments",
    [
        ["scale", "payment=-1"],
        ["scale", "payment=1e3"],
        ["scale", "payment=٣"],
        ["scale", "payment=1", "payment=2"],
        ["scale", "payment=0"],
        ["scale", "payment=100"],
        ["scale", "nobody=1"],
        ["start"],
        ["start", "nobody"],
        ["logs", "-n", "-1"],
        ["logs", "nobody"],
        ["psql", "nobody"],
        ["migrate", "notify=examples.notify"],
        ["migrate", "notify"],
        ["migrate", "postgres=examples.notify"],
        ["env"],
        ["env", "true"],
        ["nonsense"],
        ["reset"],
    ],
)
def test_what_cannot_be_done_ends_with_2_and_a_line(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    homes.claim(tmp_path)
    assert just(monkeypatch, tmp_path, *arguments) == 2
    assert "Traceback" not in capfd.readouterr().err


def test_a_process_of_another_user_is_named(
    tmp_path: Path, child: Callable[..., "subprocess.Popen[bytes]"], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = child()
    processes.record(tmp_path, "payment-1", theirs.pid)

    def denied(process: psutil.Process, number: int) -> None:
        raise psutil.AccessDenied(process.pid)

    monkeypatch.setattr(psutil.Process, "send_signal", denied)
    monkeypatch.setattr(psutil, "wait_procs", lambda chosen, timeout: None)
    with pytest.raises(StackError, match=rf"1 processes could not be ended: sleep \(pid {theirs.pid}\)"):
        NativeStack(Settings(home=tmp_path))._stop_left_over()
    assert processes.of_stack(tmp_path), "it is still known"


def test_ps_tells_of_processes_that_go_on_without_their_supervisor(
    tmp_path: Path, child: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    processes.record(tmp_path, "payment-1", child().pid)
    with pytest.raises(StackError, match="1 processes of an earlier run go on, and 'just down' ends them"):
        NativeStack(Settings(home=tmp_path)).ps()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_whose_streams_are_closed_does_its_work(closed: str, tmp_path: Path) -> None:
    variables = {**os.environ, "TANDEM_HOME": str(tmp_path)}
    command = ["sh", "-c", f'exec "$0" -m dev down {closed}', sys.executable]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


BUFFERED_PS = """
import sys
from dev.__main__ import main
from dev.native.stack import NativeStack
NativeStack.ps = lambda _: print("payment-1")
sys.exit(main())
"""


def test_output_that_cannot_be_written_is_not_done(tmp_path: Path) -> None:
    variables = {**os.environ, "TANDEM_HOME": str(tmp_path)}
    command = ["sh", "-c", 'exec "$0" -c "$1" ps >/dev/full', sys.executable, BUFFERED_PS]
    done = subprocess.run(command, cwd=ROOT, env=variables, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "ps: [Errno 28] No space left on device\n")


def test_psql_asks_only_for_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert just(monkeypatch, tmp_path, "psql") == 2
    assert capfd.readouterr().err.endswith("the following arguments are required: service\n")


def test_compose_without_docker_says_the_way_out_and_saves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    home, docker = tmp_path / "home", tmp_path / "docker"
    docker.write_text("#!/bin/sh\n[ \"$1\" != info ] || { echo 'no daemon' >&2; exit 1; }\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("STACK", "compose")
    assert just(monkeypatch, home, "up") == 2
    assert (
        capfd.readouterr().err
        == "up: Docker: no daemon; start Docker, or use the native stack: 'STACK=native just up'\n"
    )
    assert not State.load(home).path.exists()
    State.load(home).started("compose", Settings(home=home))
    for command in (["down"], ["reset", "--yes"]):
        assert just(monkeypatch, home, *command) == 2
        assert capfd.readouterr().err.endswith(f"and its containers with it, delete {home}/stack.json\n")


def test_a_stack_can_be_stopped_on_a_disk_that_became_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, child: Callable[..., "subprocess.Popen[bytes]"]
) -> None:
    homes.claim(tmp_path)
    with homes.exclusive(tmp_path):
        State.load(tmp_path).started("native", Settings(home=tmp_path))
        processes.record(tmp_path, "payment-1", child().pid)
    opened, opened_path = os.open, Path.open

    def read_only(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(tmp_path)):
            raise OSError(30, "Read-only file system", str(path))
        return opened(path, flags, *arguments, **options)

    def read_only_path(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if mode[:1] in "wax" and path.is_relative_to(tmp_path):
            raise OSError(30, "Read-only file system", str(path))
        return opened_path(path, mode, *arguments, **options)

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(Path, "open", read_only_path)
    assert just(monkeypatch, tmp_path, "down") == 2, "it could not note that"
    monkeypatch.undo()
    assert processes.of_stack(tmp_path) == []


@pytest.mark.parametrize("text", ["-1", "1e3", "٣", "", "ten"])
def test_what_is_no_number_of_lines_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a number of lines"):
        natural(text)


def test_a_state_that_cannot_be_read_is_set_aside_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    homes.claim(tmp_path)
    (tmp_path / "stack.json").mkdir()
    assert just(monkeypatch, tmp_path, "ps") == 2
    assert just(monkeypatch, tmp_path, "down") == 0
    assert (tmp_path / "stack.json.damaged").is_dir()


def test_two_commands_may_claim_a_new_home_at_once(tmp_path: Path) -> None:
    program = f"from pathlib import Path; from dev.home import claim; claim(Path({str(tmp_path / 'home')!r}))"
    both = [subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE) for _ in range(4)]
    assert [(process.communicate()[1], process.returncode) for process in both] == [(b"", 0)] * 4
    assert {path.name for path in (tmp_path / "home").iterdir()} == {homes.MARK}


def test_a_script_of_statements_is_the_same_for_everybody_and_ends_at_a_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = NativeStack(Settings(home=tmp_path))
    monkeypatch.setattr(stack, "_require_running", lambda: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scripts").mkdir()
    monkeypatch.setenv("TANDEM_CALLER", str(tmp_path / "scripts"))
    became: list[tuple[list[str], dict[str, str], str]] = []
    monkeypatch.setattr(
        os, "execve", lambda _, arguments, variables: became.append((arguments, variables, os.getcwd()))
    )
    stack.psql("payment", ["-f", "repair.sql"])
    [(arguments, variables, folder)] = became
    assert {"--no-psqlrc", "--set=ON_ERROR_STOP=1"} < set(arguments)
    assert arguments[-2:] == ["-f", "repair.sql"]
    assert (int(variables["PGCONNECT_TIMEOUT"]), folder) == (10, str(tmp_path / "scripts"))
