"""Three brokers that are one Kafka: their settings, their files, and what is refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from common.errors import Fatal
from common.kafka import settings as topic_settings
from dev import home as homes
from dev.compose.stack import ComposeStack
from dev.home import HomeError
from dev.native.programs import Programs
from dev.servers.kafka import PROPERTIES, Broker
from dev.servers.quorum import FILE, REPLICATED, Node, Quorum
from dev.servers.server import StartError
from dev.settings import SERVICES, Settings, environment
from dev.stack import StackError
from dev.state import State
from tests.compose import services as services_of

NODES = [
    Node(number, 9092 + 100 * (number - 1), 9093 + 100 * (number - 1), 9094 + 100 * (number - 1))
    for number in (1, 2, 3)
]


def settings(home: Path, **environ: str) -> Settings:
    return Settings.from_environment({"TANDEM_HOME": str(home), **environ})


def programs(home: Path, brokers: str) -> Programs:
    return Programs(settings(home, BROKERS=brokers), {service.name: 1 for service in SERVICES})


def make_log(home: Path, name: str) -> None:
    (home / name / "log").mkdir(parents=True)
    (home / name / "log/meta.properties").write_text("version=1\nnode.id=1\ncluster.id=x\n")


def test_clients_find_all_brokers_and_topics_get_as_many_copies(tmp_path: Path) -> None:
    assert settings(tmp_path).kafka_servers == "127.0.0.1:9092"
    servers = settings(tmp_path, BROKERS="3", KAFKA_PORT="7000").kafka_servers
    assert servers == "127.0.0.1:7000,127.0.0.1:7100,127.0.0.1:7200"
    variables = environment(kafka_servers=servers, postgres_port=1, folder=tmp_path, partitions=6)
    assert (variables["KAFKA_BOOTSTRAP_SERVERS"], variables["TOPIC_REPLICAS"]) == (servers, "3")


@pytest.mark.parametrize("count", ["0", "2", "4", "three"])
def test_another_number_of_brokers_is_refused(count: str) -> None:
    with pytest.raises(Fatal, match=f"^BROKERS='{count}' must be one of 1, 3$"):
        Settings.from_environment({"BROKERS": count})


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"KAFKA_PORT": "7982"}, "PAYMENT_PORT=8082 and KAFKA_PORT of kafka-2=8082 are the same"),
        ({"KAFKA_PORT": "17962"}, "KAFKA_PORT of kafka-3=18162 is among the admin ports"),
        ({"KAFKA_PORT": "65336"}, "KAFKA_PORT='65336' must be a whole number from 1 to 65335"),
    ],
)
def test_the_ports_of_all_brokers_are_compared(environ: dict[str, str], message: str) -> None:
    with pytest.raises(Fatal, match=message):
        Settings.from_environment({"BROKERS": "3", **environ})


def test_a_stack_remembers_how_many_brokers_it_has(tmp_path: Path) -> None:
    state = State.load(tmp_path)
    state.started("native", settings(tmp_path, BROKERS="3"))
    state = State.load(tmp_path)
    assert state.remembered(settings(tmp_path)).brokers == 3
    assert state.changed(settings(tmp_path)) == []
    assert state.changed(settings(tmp_path, BROKERS="1")) == ["BROKERS=1"]


def test_a_single_broker_keeps_its_name_and_its_folder(tmp_path: Path) -> None:
    single = programs(tmp_path, "1")
    assert single.servers == ["postgres", "kafka"]
    broker = single.server("kafka")
    assert isinstance(broker, Broker)
    assert (broker.name, broker.directory, broker.options["controller.quorum.voters"]) == (
        "kafka",
        tmp_path / "kafka",
        "1@127.0.0.1:9093",
    )


def test_brokers_are_named_like_instances_and_restarted_one_after_the_other(tmp_path: Path) -> None:
    three = programs(tmp_path, "3")
    assert three.matching(["kafka"]) == ["kafka-1", "kafka-2", "kafka-3"]
    assert three.matching(["kafka-2"]) == ["kafka-2"]
    chosen = three.matching(["payment", "kafka", "postgres"])
    assert three.turns(chosen) == [["kafka-1", "postgres"], ["kafka-2"], ["kafka-3"], ["payment-1"]]
    assert three.ports("kafka-3") == {"KAFKA_PORT": 9292, "KAFKA_CONTROLLER_PORT": 9293}


def test_each_broker_has_its_rack_and_knows_all_controllers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dev.servers.jars.provide", lambda cache, link: None)
    monkeypatch.setattr(Broker, "_format", lambda broker: None)
    for number, name in enumerate(("kafka-1", "kafka-2", "kafka-3"), 1):
        broker = programs(tmp_path, "3").server(name)
        broker.prepare()
        lines = (tmp_path / name / PROPERTIES).read_text().splitlines()
        assert not [line for line in lines if line.startswith("controller.quorum.voters=")]
        assert {
            f"node.id={number}",
            f"broker.rack=rack-{number}",
            "controller.quorum.bootstrap.servers=127.0.0.1:9093,127.0.0.1:9193,127.0.0.1:9293",
            "controller.quorum.auto.join.enable=true",
            "offsets.topic.replication.factor=3",
            "transaction.state.log.replication.factor=3",
            "transaction.state.log.min.isr=2",
            "min.insync.replicas=2",
            "unclean.leader.election.enable=false",
        } <= set(lines)


def test_the_first_start_makes_three_voters_and_a_lost_log_a_new_one(tmp_path: Path) -> None:
    made = [Quorum(tmp_path, NODES).format_arguments(number) for number in (1, 2, 3)]
    cluster, (option, voters) = made[0]
    assert made == [(cluster, [option, voters])] * 3
    assert option == "--initial-controllers"
    assert [voter.rsplit(":", 1)[0] for voter in voters.split(",")] == [
        "1@127.0.0.1:9093",
        "2@127.0.0.1:9193",
        "3@127.0.0.1:9293",
    ]
    for number in (1, 2, 3):
        Quorum(tmp_path, NODES).formed(number)
    make_log(tmp_path, "kafka-1")
    assert Quorum(tmp_path, NODES).format_arguments(2) == (cluster, ["--no-initial-controllers"])


def test_brokers_that_have_all_lost_their_logs_do_not_begin_anew(tmp_path: Path) -> None:
    quorum = Quorum(tmp_path, NODES)
    quorum.format_arguments(1)
    quorum.formed(1)
    with pytest.raises(StartError, match=r"^kafka-1: the logs of all brokers .* are gone: .*'just reset'"):
        quorum.format_arguments(1)


@pytest.mark.parametrize("text", ["", "{}", '{"cluster": "x", "folders": {}}', None])
def test_the_ids_of_a_quorum_are_never_made_anew_over_its_logs(text: str | None, tmp_path: Path) -> None:
    make_log(tmp_path, "kafka-1")
    if text is not None:
        (tmp_path / FILE).write_text(text)
    with pytest.raises(StartError, match=rf"{FILE} is (damaged|missing).*Damaged files"):
        Quorum(tmp_path, NODES).format_arguments(2)


@pytest.mark.parametrize(("made", "asked", "right"), [("kafka", 3, 1), ("kafka-2", 1, 3)])
def test_a_log_of_another_number_of_brokers_is_refused(tmp_path: Path, made: str, asked: int, right: int) -> None:
    homes.check_brokers(tmp_path, asked)
    make_log(tmp_path, made)
    homes.check_brokers(tmp_path, right)
    with pytest.raises(
        HomeError, match=f"^BROKERS={asked}, and .* BROKERS={right}; set BROKERS={right}, or 'just reset'"
    ):
        homes.check_brokers(tmp_path, asked)


def test_an_acknowledgement_needs_all_copies_but_one(tmp_path: Path) -> None:
    assert topic_settings.wanted("orders", 3)["min.insync.replicas"] == "2"
    assert topic_settings.wanted(topic_settings.OFFSETS, 3) == {"min.insync.replicas": "2"}
    assert topic_settings.wanted("orders", 1)["min.insync.replicas"] == "1"


def compose(home: Path, **environ: str) -> ComposeStack:
    stack = ComposeStack(settings(home, **environ))
    stack.settings = stack.requested  # as once it is up
    return stack


@pytest.mark.parametrize("secure", ["0", "1"])
def test_all_brokers_of_compose_are_configured_alike_and_as_the_native_ones(tmp_path: Path, secure: str) -> None:
    files = compose(tmp_path, BROKERS="3", SECURE=secure)._files()
    services = services_of(*files[1::2])
    first = services["kafka"]["environment"]
    for number in (1, 2, 3):
        name = f"kafka-{number}" if number > 1 else "kafka"
        told = services[name]["environment"]
        assert {setting for setting in first | told if first.get(setting) != told.get(setting)} <= {
            "KAFKA_NODE_ID",
            "KAFKA_BROKER_RACK",
            "KAFKA_ADVERTISED_LISTENERS",
        }
        assert (told["KAFKA_NODE_ID"], told["KAFKA_BROKER_RACK"]) == (str(number), f"rack-{number}")
        assert told["KAFKA_ADVERTISED_LISTENERS"].count(f"://{name}:") == 1 + (secure == "1")
    for setting, value in REPLICATED.items():
        assert first["KAFKA_" + setting.replace(".", "_").upper()] == value
    assert all(f"{number}@kafka" in first["KAFKA_CONTROLLER_QUORUM_VOTERS"] for number in (1, 2, 3))
    assert "CONTROLLER://:9093" in first["KAFKA_LISTENERS"]
    for name, service in services.items():
        if servers := service.get("environment", {}).get("KAFKA_BOOTSTRAP_SERVERS"):
            assert [server.partition(":")[0] for server in servers.split(",")] == ["kafka", "kafka-2", "kafka-3"], name
    assert services["setup"]["environment"]["TOPIC_REPLICAS"] == "3"


def test_compose_uses_the_files_of_three_brokers_only_for_three(tmp_path: Path) -> None:
    assert compose(tmp_path)._files() == []
    three = compose(tmp_path, BROKERS="3", KAFKA_PORT="7000")
    assert three._files() == ["-f", "docker-compose.yml", "-f", "dev/containers/brokers.yml"]
    assert {name: port for name, port in three.environment().items() if name.startswith("KAFKA_PORT")} == {
        "KAFKA_PORT": "7000",
        "KAFKA_PORT_2": "7100",
        "KAFKA_PORT_3": "7200",
    }
    assert three._matching(["kafka"]) == ["kafka", "kafka-2", "kafka-3"]
    assert three._matching(["kafka-1", "kafka-3"]) == ["kafka", "kafka-3"]


def test_compose_refuses_another_number_of_brokers_than_the_log_was_made_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ComposeStack, "_require_engine", lambda _: None)
    State.load(tmp_path).started("compose", settings(tmp_path))
    with pytest.raises(
        StackError, match=r"^BROKERS=3, and the log was made with BROKERS=1; set BROKERS=1, or 'just reset'"
    ):
        compose(tmp_path, BROKERS="3").up()


def test_compose_restarts_a_broker_when_those_before_it_have_caught_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = compose(tmp_path, BROKERS="3")
    acts: list[str] = []

    def docker(*arguments: str) -> str:
        acts.append(arguments[-1])
        return "healthy"

    def caught_up(*command: str) -> SimpleNamespace:
        acts.append(" ".join(command))
        return SimpleNamespace(returncode=acts.count("topics copies") // 2, stderr="topics: 7 of orders\n")

    monkeypatch.setattr(stack, "_containers", lambda name: [name])
    monkeypatch.setattr(stack, "run_tool", caught_up)
    monkeypatch.setattr("dev.compose.engine.docker", docker)
    with pytest.raises(StackError, match=r"^kafka-2 was restarted, and those after it were not: topics: 7 of orders$"):
        stack.restart(["kafka"])
    assert acts == ["kafka", "kafka", "topics copies", "kafka-2", "kafka-2", "topics copies"]
