"""The parts of the stacks that decide something: settings, pins, waiting, logs."""

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest
import yaml

from common.http import protocol
from common.kafka.settings import Drift
from dev import doctor
from dev.__main__ import main as command_line
from dev.compose.engine import passed_on, terminal
from dev.compose.stack import ComposeStack
from dev.logs import LogFile, last_lines, readable, show_lines_naming
from dev.native.programs import Programs
from dev.native.stack import NativeStack
from dev.native.supervise import Status, Supervisor
from dev.native.supervised import tells_taken_port
from dev.output import unbreakable
from dev.servers import jars, kafka, postgres
from dev.servers.instance import unready_at
from dev.settings import HOST, ROOT, SERVICES, Settings, free_ports
from dev.stack import StackError
from dev.state import State
from ops.console.sources import Targets
from order.api.read import outcomes, stream

COORDINATE = "org.example:thing:1.0"
GOOD = b"the jar"


@pytest.mark.parametrize(
    "words",
    [
        "OSError: [Errno 98] Address already in use",
        "could not bind IPv4 address: Address already in use",
        "java.net.BindException: Address already in use",
    ],
)
def test_a_taken_port_is_recognised_in_the_log_since_the_start(tmp_path: Path, words: str) -> None:
    path = tmp_path / "payment-1.log"
    assert not tells_taken_port(LogFile(path).new_lines())
    path.write_text(f"yesterday: {words}\n")
    log = LogFile(path)
    assert not tells_taken_port(log.new_lines())
    with path.open("a") as file:
        file.write(f"now: {words}\n")
    assert tells_taken_port(log.new_lines())


def test_a_port_is_given_out_once_even_before_anything_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dev.settings.ports.free_port_range", range(20_000, 20_060))
    ports = [port for _ in range(15) for port in free_ports(2)]
    assert len(set(ports)) == 30


def test_a_port_that_instances_share_is_reported_once(tmp_path: Path) -> None:
    [port] = free_ports(1)
    programs = Programs(Settings(home=tmp_path, payment_port=port), {service.name: 2 for service in SERVICES})
    with socket.create_server((HOST, port)):
        reports = [report for report in programs.listeners(["payment-1", "payment-2"]) if report[0] == port]
    assert [(setting, bool(process)) for _, setting, process in reports] == [("PAYMENT_PORT", True)]


def test_a_stack_remembers_its_ports_and_scale(tmp_path: Path) -> None:
    state = State.load(tmp_path)
    state.scale["payment"] = 3
    state.started("native", Settings(home=tmp_path, payment_port=9999, secure=True))
    again = State.load(tmp_path)
    assert again.instances() == {"order-api": 1, "order-saga": 1, "payment": 3, "inventory": 1}
    remembered = again.remembered(Settings(home=tmp_path))
    assert (remembered.payment_port, remembered.secure) == (9999, True)
    assert NativeStack(Settings(home=tmp_path)).requested.secure, "the next start is like this one"
    assert not NativeStack(Settings(home=tmp_path, secure=False)).requested.secure


def test_the_tools_get_the_settings_with_which_the_stack_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORDER_SETTLE_DEADLINE_S", "60")
    monkeypatch.setenv("TOPIC_PARTITIONS", "12")
    State.load(tmp_path).started("native", replace(Settings.from_environment(), home=tmp_path))
    monkeypatch.delenv("ORDER_SETTLE_DEADLINE_S")
    monkeypatch.delenv("TOPIC_PARTITIONS")
    stack = NativeStack(replace(Settings.from_environment(), home=tmp_path))
    variables = stack.programs.environment()
    assert (variables["ORDER_SETTLE_DEADLINE_S"], variables["TOPIC_PARTITIONS"]) == ("60", "12")
    assert stack.state.changed(stack.requested) == []


def test_settings_other_than_those_of_a_running_stack_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = State.load(tmp_path)
    state.started("native", Settings(home=tmp_path))
    for name, value in {"PAYMENT_PORT": "9082", "LOG_LEVEL": "DEBUG", "KAFKA_PORT": "9092", "SECURE": "1"}.items():
        monkeypatch.setenv(name, value)
    assert state.changed(Settings.from_environment()) == ["PAYMENT_PORT=9082", "SECURE=1", "LOG_LEVEL=DEBUG"]


class Repository:
    """Stands in for jgo's repository: hands out these files, one after the other."""

    def __init__(self, *contents: bytes) -> None:
        self.contents = list(contents)

    def __call__(self, repo_cache: Path, timeout: int) -> "Repository":
        self.cached_path = repo_cache / "thing.jar"
        return self

    def create_dependency(self, coordinate: str) -> "Repository":
        assert coordinate == COORDINATE
        self.artifact = self
        return self

    def resolve(self) -> Path:
        if not self.cached_path.exists():
            self.cached_path.parent.mkdir(parents=True, exist_ok=True)
            self.cached_path.write_bytes(self.contents.pop(0))
        return self.cached_path


@pytest.fixture
def pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pins = tmp_path / "pins"
    pins.write_text(f"{hashlib.sha256(GOOD).hexdigest()}  {COORDINATE}\n")
    monkeypatch.setattr(jars, "PINS", pins)
    return tmp_path / "cache"


def test_a_truncated_jar_is_fetched_again(pinned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "jars"
    monkeypatch.setattr("jgo.maven.MavenContext", Repository(GOOD[:3], GOOD))
    jars.provide(pinned, link)
    jar = tmp_path / jars.classpath("jars")
    assert jar.read_bytes() == GOOD

    monkeypatch.setattr("jgo.maven.MavenContext", Repository())
    before = (pinned / "jars").stat()
    jars.provide(pinned, link)  # warm: nothing is fetched, nor written
    assert (pinned / "jars").stat() == before

    jar.write_bytes(GOOD[:3])
    monkeypatch.setattr("jgo.maven.MavenContext", Repository(GOOD))
    jars.provide(pinned, link)
    assert jar.read_bytes() == GOOD


def test_a_jar_that_is_not_the_pinned_one_is_refused(pinned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jgo.maven.MavenContext", Repository(b"other", b"other", b"other"))
    with pytest.raises(jars.JarError, match=r"cannot fetch org\.example:thing:1\.0 after 3 attempts: its sha256 is"):
        jars.provide(pinned, pinned / "link")


@pytest.mark.parametrize(
    ("answer", "lacks"),
    [
        (b'{"status":"not ready","missing":["no database","no topic"]}', "no database; no topic"),
        (b'{"title":"Not available now","detail":"no instance is ready"}', "no instance is ready"),
        (b"<html>", "<html>"),
    ],
)
def test_the_reason_for_unreadiness_comes_from_the_service_or_the_gateway(answer: bytes, lacks: str) -> None:
    with socket.create_server((HOST, 0)) as listener, ThreadPoolExecutor() as pool:
        request = pool.submit(unready_at, listener.getsockname()[1])
        connection, _ = listener.accept()
        with connection:
            connection.recv(10_000)
            connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\r\n" + answer)
        assert request.result() == lacks


def test_a_log_is_followed_through_its_rotation_in_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "payment-1.log"
    path.write_text("one\ntwo\n")
    log = LogFile(path, lines=1)
    assert log.new_lines() == ["two"]
    with path.open("a") as file:
        file.write("three\nfo")
    assert log.new_lines() == ["three"]
    with path.open("a") as file:
        file.write("ur\n")
    assert log.new_lines() == ["four"]
    path.rename(tmp_path / "payment-1.log.1")
    path.write_text("five\n")
    assert log.new_lines() == ["five"]


def test_lines_are_found_across_rotations_however_many_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "payment-1.log"
    everything = [f"line {number} {'x' * (number % 97)}" for number in range(30_000)]
    text = "".join(f"{line}\n" for line in everything)
    for name, (start, end) in {".2": (0, 300_000), ".1": (300_000, 900_001), "": (900_001, len(text))}.items():
        path.with_name(path.name + name).write_text(text[start:end])
    for count in (0, 1, 1_000, 29_999, 10**9):
        assert last_lines(path, count) == (everything[-count:] if count else [])
    path.write_text("")
    assert last_lines(path, 1_000)[-1], "the current file may have just been begun"


def test_what_was_written_just_before_a_rotation_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "payment-1.log"
    path.write_text("one\ntw")
    log = LogFile(path, lines=5)
    assert log.new_lines() == ["one"]
    with path.open("a") as file:
        file.write("o\nthr")
    path.rename(tmp_path / "payment-1.log.1")
    path.write_text("ee\n")
    assert log.new_lines() == ["two", "three"]


def test_a_record_is_readable_and_other_lines_stay() -> None:
    record = '{"time":"12:00","level":"INFO","message":"batch","service":"payment","events":3}'
    assert readable(record) == ["12:00 INFO     batch events=3"]
    assert readable("plain text") == ["plain text"]
    assert readable("17") == ["17"]


def test_a_log_does_not_steer_the_terminal() -> None:
    record = {"level": "ERROR", "message": "key \x1b[2J\u202e", "key": "\x9b", "traceback": "Traceback:\n  x\x07"}
    assert readable(json.dumps(record)) == [" ERROR    key \\x1b[2J\\u202e key=\\x9b", "Traceback:", "  x\\x07"]
    assert readable("\tat kafka \x1b]0;") == ["    at kafka \\x1b]0;"]


@pytest.mark.parametrize("written", [["--accepted", "{}"], ["--accepted={}"]])
def test_compose_lets_the_operators_tools_read_a_file_of_this_machine(
    written: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its rights and its folder's: the user in the container is another one."""
    ran: list[str] = []
    read: list[bytes] = []

    def process(_: ComposeStack, *arguments: str, stdin: IO[bytes]) -> "subprocess.CompletedProcess[str]":
        ran.extend(arguments)
        read.append(stdin.read())
        return subprocess.CompletedProcess(arguments, 66)

    monkeypatch.setattr(ComposeStack, "_process", process)
    monkeypatch.setenv("LOGNAME", "olga")
    (tmp_path / "ids.txt").write_bytes(b"an id")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        ComposeStack(Settings(home=tmp_path)).ops("verify", ["--json", *(word.format("ids.txt") for word in written)])
    assert ended.value.code == 2, "the tool's own"
    assert read == [b"an id"]
    assert "-T" in ran, "what is not a terminal is given as it is"
    assert "LOGNAME=olga" in ran, "acts are recorded as the user's, not as the image's"
    assert " ".join(ran).endswith(" ".join(["ops.verify --json", *written]).format("-"))


@pytest.mark.parametrize(
    ("typed", "shown", "file", "option"),
    [
        (True, True, None, []),
        (True, True, Path("ids"), ["-T"]),
        (False, True, None, ["-T"]),
        (True, False, None, ["-T"]),
        (None, True, None, ["-T"]),
    ],
)
def test_a_container_gets_a_terminal_for_a_person_alone(
    typed: bool | None, shown: bool, file: Path | None, option: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`just verify --accepted - <ids`, `just psql order -c 'TABLE orders' >file`, and a caller who has closed stdin."""
    monkeypatch.setattr(sys, "stdin", None if typed is None else SimpleNamespace(isatty=lambda: typed))
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: shown))
    assert terminal(file) == option


def test_the_tool_itself_names_a_missing_file() -> None:
    assert passed_on(["verify", "--accepted", "none.txt"]) == (None, ["verify", "--accepted", "none.txt"])


DOCKER = """#!/bin/sh
echo "$*" >> {log}
case "$*" in
    "compose ps "*) echo first second ;;
    inspect*) echo healthy ;;
    "compose exec "*) exit 3 ;;
    "compose up "*) exit 4 ;;
    "compose logs "*) kill -PIPE $$ ;;
esac
"""


@pytest.fixture
def docker_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What was asked of a Docker that stands in for the real one."""
    program, log = tmp_path / "docker", tmp_path / "docker.log"
    program.write_text(DOCKER.format(log=log))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return log


def test_compose_restarts_the_instances_of_a_service_in_turn(docker_log: Path, tmp_path: Path) -> None:
    ComposeStack(Settings(home=tmp_path)).restart(["order-db"])
    healthy = "inspect --format={{.State.Health.Status}}"
    asked = [line for line in docker_log.read_text().splitlines() if not line.startswith("compose")]
    assert asked == ["restart first", f"{healthy} first", "restart second", f"{healthy} second"]


def test_compose_refuses_standbys(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, standbys="async")
    with pytest.raises(
        StackError, match=r"^STANDBYS=async is for the native stack: .* 'STANDBYS=0 STACK=compose just up'"
    ):
        ComposeStack(settings).up()


def test_compose_upgrades_by_a_new_container_before_an_old_one_ends(
    docker_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dev.compose.stack.unready_at", lambda *_: None)
    # It has another container from when one is added until one is removed.
    added, script = tmp_path / "added", (tmp_path / "docker").read_text()
    lists = f'"compose ps "*) echo old; [ ! -e {added} ] || echo new ;;\n"compose up "*scale*) touch {added} ;;'
    script = script.replace('"compose ps "*) echo first second ;;', lists)
    (tmp_path / "docker").write_text(script.replace('"compose up "*) exit 4 ;;', f"rm*) rm -f {added} ;;"))
    ComposeStack(Settings(home=tmp_path)).upgrade()
    skipped = ("info", "compose version", "compose ps")
    asked = [line for line in docker_log.read_text().splitlines() if not line.startswith(skipped)]
    healthy = "inspect --format={{.State.Health.Status}} new"
    expected = ["compose build", *(f"compose run -T --rm --no-deps {name}" for name in ("secrets", "setup"))]
    for name in ("payment", "inventory", "order-saga", "order-api"):
        more = f"compose up --detach --no-deps --no-recreate --scale {name}=2 {name}"
        expected += [more, healthy, "stop old", "rm old"]
    assert asked == [*expected, "compose up --detach --no-deps console"]


def test_to_scale_a_compose_stack_that_is_down_does_not_start_it(
    docker_log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ComposeStack(Settings(home=tmp_path)).scale({"payment": 2})
    assert not docker_log.exists()
    assert capsys.readouterr().out == "remembered; 'just up' starts that many\n"
    assert ComposeStack(Settings(home=tmp_path)).state.instances()["payment"] == 2


def test_compose_shows_why_the_setup_failed(docker_log: Path, tmp_path: Path) -> None:
    with pytest.raises(StackError, match="docker compose up failed with exit code 4; see above"):
        ComposeStack(Settings(home=tmp_path)).up()
    assert docker_log.read_text().splitlines()[-1] == "compose logs --tail 5 setup"


def test_compose_works_with_the_settings_that_the_stack_was_started_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = {"ALLOWED_HOSTS": "shop.example", "TOPIC_PARTITIONS": "12", "COMPOSE_PROJECT_NAME": "shop"}
    settings = Settings.from_environment({"TANDEM_HOME": str(tmp_path), "KAFKA_PORT": "9999", **started})
    ComposeStack(settings).state.started("compose", settings)
    for name in ("ALLOWED_HOSTS", "LOG_LEVEL", "COMPOSE_PROJECT_NAME"):
        monkeypatch.setenv(name, "of-this-shell")
    environment = ComposeStack(Settings(home=tmp_path)).environment()
    assert {name: environment[name] for name in started} == started
    assert environment["KAFKA_PORT"] == "9999"
    assert environment["LOG_LEVEL"] == environment["KEEP_ALIVE_S"] == "", "the default of docker-compose.yml"
    references = re.findall(r"\$\{(.*?)}", (ROOT / "docker-compose.yml").read_text())
    assert all(":-" in reference for reference in references), "which counts for an empty value too"


@pytest.mark.usefixtures("docker_log")
def test_psql_in_compose_ends_as_psql_does(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        ComposeStack(Settings(home=tmp_path)).psql("order", ["-c", "SELECT nothing"])
    assert ended.value.code == 3


@pytest.mark.usefixtures("docker_log")
def test_logs_in_compose_whose_reader_has_gone_are_no_failure(tmp_path: Path) -> None:
    with pytest.raises(BrokenPipeError):
        ComposeStack(Settings(home=tmp_path)).logs([], lines=1, follow=False)


def test_compose_configures_the_broker_and_the_databases_as_the_native_stack_does() -> None:
    compose = "".join((ROOT / file).read_text() for file in ("docker-compose.yml", "dev/containers/broker.yml"))
    different = {"listener.security.protocol.map"}  # one listener more, for clients outside the containers
    for name, value in kafka.CONFIGURATION.items():
        if name not in different:
            variable = "KAFKA_" + name.replace(".", "_").upper()
            assert f'{variable}: "{value}"\n' in compose or f"{variable}: {value}\n" in compose, variable
    implied = {"listen_addresses", "unix_socket_directories", "password_encryption", "fsync", "synchronous_commit"}
    told_apart = {"timezone", "log_timezone", "log_line_prefix"}
    for name, value in postgres.CONFIGURATION.items():
        if name not in implied | told_apart:
            assert f"- --{name}={value}\n" in compose, name
    assert f"image: locustio/locust:{version('locust')}\n" in compose


def test_a_certificate_that_is_taken_up_leaves_the_broker_threads_for_orders() -> None:
    """An instance of each service, the console and a tool may wait for its settings then, with a thread each."""
    threads = kafka.SECURE["num.io.threads"]
    assert int(threads) > len(SERVICES) + 2
    environments: dict[str, dict[str, str]] = {}
    for file in ("dev/compose-secure.yml", "dev/containers/brokers-secure.yml"):
        for name, container in yaml.safe_load((ROOT / file).read_text())["services"].items():
            environments.setdefault(name, {}).update(container.get("environment", {}))
    of_brokers = {name: environments[name]["KAFKA_NUM_IO_THREADS"] for name in ("kafka", "kafka-2", "kafka-3")}
    assert set(of_brokers.values()) == {threads}


def test_the_gateway_bounds_a_request_as_the_services_do() -> None:
    """The behaviour itself needs HAProxy, which not every machine has: decision 10 says how it was tried."""
    lines = [line.partition(" # ")[0].split() for line in (ROOT / "dev/gateway.cfg").read_text().splitlines()]
    seconds = {words[1]: int(words[2].removesuffix("s")) for words in lines if words[:1] == ["timeout"]}
    assert seconds["http-request"] == protocol.ARRIVE_S
    assert ["option", "http-buffer-request"] in lines, "without it the limit is for the head alone"
    # A stream and an answer that waits are quiet for so long, and must not be cut off.
    assert min(seconds["client"], seconds["server"]) > max(stream.HEARTBEAT_S, outcomes.WAIT_S_MAX)
    [buffer] = [int(words[1]) for words in lines if words[:1] == ["tune.bufsize"]]
    assert buffer >= 2 * protocol.HEAD_BYTES_MAX
    text = (ROOT / "dev/gateway.cfg").read_text()
    assert text.count('"request_id":"%[unique-id]"') == text.count("hdr x-request-id %[unique-id]") == 4
    assert {words[2] for words in lines if words[:1] == ["server-template"]} == {str(ComposeStack.instances_max)}


def test_the_gateway_believes_no_client_who_says_where_it_comes_from() -> None:
    """Clients of this machine come from Docker's own network, and so from an address whose word counts."""
    words = [line.partition(" # ")[0].split() for line in (ROOT / "dev/gateway.cfg").read_text().splitlines()]
    replaced = words.count(["http-request", "set-header", "x-forwarded-for", "%[src]"])
    assert replaced == len([each for each in words if each[:1] == ["listen"]]) == 4
    assert ["option", "forwardfor"] not in words, "it would add to what the client has written"
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    believing = [name for name, each in services.items() if "TRUSTED_PROXIES" in each.get("environment", {})]
    assert believing == ["order-api", "payment", "inventory", "order-saga"]
    assert not [name for name in believing if "ports" in services[name]], "clients would reach it past the gateway"


@pytest.mark.parametrize("recipe", ["verify", "dead_letters"])
def test_a_stack_that_is_not_up_is_unproven_and_not_violated(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["just", "ops", recipe])
    monkeypatch.setattr(Settings, "from_environment", lambda: Settings(home=tmp_path))
    assert command_line() == 2
    assert capsys.readouterr().err.startswith("dlq: " if recipe == "dead_letters" else "verify: ")


def test_a_command_outlives_the_reader_of_its_output() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        output = unbreakable(writer)
        for _ in range(2):
            print("waiting for payment-1", file=output)
        assert subprocess.run(["/bin/echo", "of a child"], stdout=writer).returncode == 0
    finally:
        os.close(writer)


def test_output_is_printed_to_an_open_pipe() -> None:
    reader, writer = os.pipe()
    print("payment-1 … is ready", file=unbreakable(writer))
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as output:
        assert output.read() == "payment-1 … is ready\n"


class FakeSupervisor:
    """Knows the state of each program, and which were started."""

    def __init__(self, states: dict[str, str]) -> None:
        self.states = states
        self.started: list[str] = []

    def running(self) -> bool:
        return True

    def statuses(self) -> dict[str, Status]:
        return {name: Status(name, state, 0, 0, "") for name, state in self.states.items()}

    def set_programs(self, programs: dict[str, str], *, replacing: bool = True) -> None:
        self.states |= {name: "STOPPED" for name in programs if name not in self.states}

    def start(self, names: list[str]) -> None:
        self.started += names


def test_other_settings_are_refused_while_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    State.load(tmp_path).started("native", Settings(home=tmp_path))
    monkeypatch.setenv("KAFKA_PORT", "9095")
    stack = NativeStack(replace(Settings.from_environment(), home=tmp_path))
    monkeypatch.setattr(stack, "supervisor", FakeSupervisor({"postgres": "RUNNING", "kafka": "BACKOFF"}))
    with pytest.raises(StackError, match="Tandem is up without KAFKA_PORT=9095; 'just down' first"):
        stack.up()


def test_scaling_a_service_starts_its_stopped_instances_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = NativeStack(Settings(home=tmp_path))
    stack.state.scale = {"inventory": 2}
    states = {"payment-1": "STOPPED", "inventory-1": "RUNNING", "inventory-2": "STOPPED"}
    fake = FakeSupervisor({"order-api-1": "RUNNING", "order-saga-1": "RUNNING", **states})
    monkeypatch.setattr(stack, "supervisor", fake)
    monkeypatch.setattr(stack, "_configured", lambda: dict.fromkeys(stack.programs.names, ""))
    monkeypatch.setattr(stack, "_wait_ready", lambda *_: None)
    stack.scale({"inventory": 3})
    assert fake.started == ["inventory-2", "inventory-3"]


def test_an_instance_beyond_the_scale_is_refused_with_the_command_that_adds_it(tmp_path: Path) -> None:
    programs = Programs(Settings(home=tmp_path), {service.name: 1 for service in SERVICES})
    with pytest.raises(StackError, match=r"there is no 'payment-2'; 'just scale payment=2' adds it"):
        programs.matching(["payment-2"])
    with pytest.raises(StackError, match="services are postgres"):
        programs.matching(["payments-2"])


def test_an_instance_is_frozen_by_its_name_and_one_that_does_not_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = NativeStack(Settings(home=tmp_path))
    stack.state.scale = {"payment": 2}
    sent: list[tuple[list[int], signal.Signals]] = []
    pids = {"payment-1": 11, "payment-2": 12, "kafka": 0}
    statuses = {name: Status(name, "RUNNING" if pid else "STOPPED", pid, 0, "") for name, pid in pids.items()}
    monkeypatch.setattr(stack, "_require_running", lambda: None)
    monkeypatch.setattr(stack.supervisor, "statuses", lambda: statuses)
    monkeypatch.setattr("dev.native.stack.processes.send", lambda pids, number: sent.append((pids, number)))
    stack.send_signal(["payment"], signal.SIGSTOP)
    assert sent == [([11, 12], signal.SIGSTOP)]
    with pytest.raises(StackError, match="kafka does not run; 'just start' starts it"):
        stack.send_signal(["kafka"], signal.SIGKILL)
    with pytest.raises(StackError, match="only the native stack"):
        ComposeStack(Settings(home=tmp_path)).send_signal(["payment"], signal.SIGKILL)


def test_the_console_finds_every_instance_in_the_file_that_the_stack_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = NativeStack(Settings(home=tmp_path))
    stack.state.scale = {"payment": 2}
    assert "console" in stack._configured()
    console = stack.programs.server("console")
    found = Targets(Path(console.environment()["CONSOLE_TARGETS"])).read()
    assert {target.name: target.address.port for target in found} == {
        "order-api-1": 18101,
        "order-saga-1": 18401,
        "payment-1": 18201,
        "payment-2": 18202,
        "inventory-1": 18301,
    }


def test_doctor_names_a_topic_that_someone_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    drift = Drift("orders", "retention.ms", "1000", "-1")
    programs = SimpleNamespace(environment=lambda: {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"})
    stack: Any = SimpleNamespace(programs=programs)
    monkeypatch.setattr(doctor, "fetch_drift", lambda *_: [])
    assert [finding.good for finding in doctor.topics(stack)] == [True]
    monkeypatch.setattr(doctor, "fetch_drift", lambda *_: [drift])
    [finding] = doctor.topics(stack)
    assert not finding.good
    assert "topic 'orders': retention.ms is 1000, must be -1" in finding.text


def test_doctor_names_secrets_that_others_can_read(tmp_path: Path) -> None:
    (tmp_path / "auth").mkdir(mode=0o700)
    assert [finding.good for finding in doctor.secrets(tmp_path)] == [True]
    (tmp_path / "auth").chmod(0o750)
    [finding] = doctor.secrets(tmp_path)
    assert (finding.good, finding.text) == (False, f"secrets: others can read {tmp_path / 'auth'}")


def test_doctor_finds_nothing_wrong_with_a_warm_up_that_has_ended() -> None:
    """It ends by itself, as it should; a stopped service is a finding."""
    statuses = {
        "warm-up": Status("warm-up", "EXITED", 0, 0, "Nov 29 03:39 AM"),
        "payment-1": Status("payment-1", "STOPPED", 0, 0, "Nov 29 03:39 AM"),
    }
    programs = SimpleNamespace(names=["payment-1"])
    stack: Any = SimpleNamespace(supervisor=SimpleNamespace(statuses=lambda: statuses), programs=programs)
    [finding] = doctor.programs(stack)
    assert not finding.good
    assert finding.text.startswith("payment-1: stopped")


def test_a_frozen_process_is_shown_as_frozen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = NativeStack(Settings(home=tmp_path))
    process = subprocess.Popen(["sleep", "600"])
    try:
        statuses = {
            "payment-1": Status("payment-1", "RUNNING", process.pid, 61, ""),
            "inventory-1": Status("inventory-1", "STOPPED", 0, 0, "ended at 2026-11-29T03:39:00Z"),
        }
        monkeypatch.setattr(stack, "_require_running", lambda: None)
        monkeypatch.setattr(stack.supervisor, "statuses", lambda: statuses)
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        stack.ps()
        found = list(doctor.programs(stack))
    finally:
        process.kill()
        process.wait()
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["payment-1"][1] == "frozen"
    assert lines["payment-1"][6:10] == ["no:", "frozen;", "'just", "thaw"]
    assert lines["inventory-1"][1] == "stopped"
    assert [finding.text for finding in found] == [
        "payment-1: frozen; 'just thaw payment-1' lets it go on",
        "inventory-1: stopped, ended at 2026-11-29T03:39:00Z",
    ]


def test_a_program_ended_at_a_time_in_utc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"name": "kafka", "statename": "STOPPED", "pid": 0, "now": 0, "start": 0, "spawnerr": ""}
    ended = [{**known, "stop": 1_795_930_526, "description": "Nov 29 05:35 AM"}]
    supervisor = Supervisor(tmp_path)
    monkeypatch.setattr(supervisor, "_call", lambda _: ended)
    assert supervisor.statuses()["kafka"].remark == "ended at 2026-11-29T05:35:26Z"
    ended[0] |= {"stop": 0, "description": "Not started"}
    assert supervisor.statuses()["kafka"].remark == "Not started"


def test_the_lines_that_name_an_order_are_found_in_all_files_of_a_log_and_in_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    payment, saga = tmp_path / "payment-1.log", tmp_path / "order-saga-1.log"
    (tmp_path / "payment-1.log.1").write_text("first of order-7\nof another\n")
    payment.write_text("second of order-7\n")
    saga.write_text("nothing\n")
    assert show_lines_naming("order-7", [payment, saga, tmp_path / "absent.log"])
    assert capsys.readouterr().out == "payment-1    | first of order-7\npayment-1    | second of order-7\n"
    assert not show_lines_naming("order-8", [payment, saga])


def test_without_a_log_line_the_story_of_the_order_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = NativeStack(replace(Settings(), home=tmp_path))
    asked: list[tuple[str, list[str]]] = []
    monkeypatch.setattr(NativeStack, "ops", lambda _, module, arguments: asked.append((module, arguments)))
    monkeypatch.setattr(NativeStack, "print_lines_naming", lambda _, text, names: text == "named")
    stack.logs_of_order("named", [])
    assert asked == []
    stack.logs_of_order("silent", [])
    assert asked == [("trace", ["silent"])]
    assert "no log line names it" in capsys.readouterr().out
