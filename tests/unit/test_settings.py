"""The settings of a stack: each is checked, and all are compared, before anything starts."""

from pathlib import Path

import pytest

from common.errors import Fatal
from dev.settings import (
    DATABASES,
    OWN_SETTINGS,
    ROOT,
    Settings,
    check_processes,
    environment,
    free_ports,
    unknown_settings,
)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("POSTGRES_PORT", "70000", "a whole number from 1 to 65535"),
        ("ADMIN_PORT_BASE", "65400", "a whole number from 1 to 65035"),
        ("TOPIC_PARTITIONS", "six", "a whole number from 1 to 1000"),
        ("STACK", "k8s", "one of native, compose"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_what_is_allowed(name: str, value: str, allowed: str) -> None:
    with pytest.raises(Fatal, match=f"^{name}='{value}' must be {allowed}$"):
        Settings.from_environment({name: value})


@pytest.mark.parametrize("name", ["TANDEM_HOME", "STACK", "KAFKA_PORT", "TOPIC_PARTITIONS"])
def test_an_empty_setting_is_no_default(name: str) -> None:
    with pytest.raises(Fatal, match=f"^{name}='' is empty"):
        Settings.from_environment({name: ""})


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"ORDER_API_PORT": "8082"}, "ORDER_API_PORT=8082 and PAYMENT_PORT=8082 are the same"),
        ({"KAFKA_PORT": "9093"}, "KAFKA_PORT=9093 and KAFKA_CONTROLLER_PORT=9093 are the same"),
        ({"POSTGRES_PORT": "18150"}, "POSTGRES_PORT=18150 is among the admin ports of the instances, 18101 to 18500"),
        ({"ADMIN_PORT_BASE": "7700"}, "8081 is among the admin ports of the instances, 7801 to 8200"),
    ],
)
def test_equal_ports_are_refused_and_both_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(Fatal, match=message):
        Settings.from_environment(environ)


def test_the_settings_of_all_processes_are_read_before_any_starts() -> None:
    check_processes({})
    with pytest.raises(Fatal) as error:
        check_processes({"LOG_LEVEL": "warn", "ORDER_SETTLE_DEADLINE_S": "soon"})
    assert str(error.value).splitlines() == [
        "LOG_LEVEL='warn' must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL",
        "ORDER_SETTLE_DEADLINE_S='soon' must be a whole number from 1 to 2592000 s",
    ]
    with pytest.raises(Fatal, match="ORDER_DEADLINE_MS=20000 ms must be less than"):
        check_processes({"ORDER_DEADLINE_MS": "20000"})


def test_settings_that_nothing_reads_are_reported() -> None:
    names = ["ORDER_API_PROT", "HTTP_PORT", "ORDERS_MAX", "PATH", "HTTP_PROXY", "KAFKA_HEAP_OPTS", "LOG_LEVEL"]
    assert list(unknown_settings(names, "LOGLEVEL=DEBUG\n# COLOUR=1\nexport FRUIT=apple\n")) == [
        "FRUIT is not a setting of Tandem; docs/OPERATIONS.md lists them",
        "HTTP_PORT has no effect: the stack sets it",
        "LOGLEVEL is not a setting of Tandem; did you mean LOG_LEVEL?",
        "ORDERS_MAX is not a setting of Tandem; docs/OPERATIONS.md lists them",
        "ORDER_API_PROT is not a setting of Tandem; did you mean ORDER_API_PORT?",
    ]


def test_a_setting_without_effect_in_compose_is_reported() -> None:
    names = ["LOG_LEVEL", "ORDER_API_PORT", "TOPIC_PARTITIONS", "POSTGRES_PORT", "ORDER_LINGER_MS"]
    names += ["SECURE", "BROKERS", "STANDBYS"]  # which `just` reads itself
    assert list(unknown_settings(names)) == []
    assert list(unknown_settings(names, kind="compose")) == [
        "ORDER_LINGER_MS has no effect in Compose: set it in docker-compose.yml",
        "POSTGRES_PORT has no effect in Compose: set it in docker-compose.yml",
    ]


def test_every_setting_is_in_operations() -> None:
    section = (ROOT / "docs/OPERATIONS.md").read_text().split("\n## Settings\n")[1].split("\n## ")[0]
    assert [name for name in sorted(OWN_SETTINGS) if f"`{name}`" not in section] == []


def test_a_port_of_outgoing_connections_is_reported() -> None:
    outgoing = range(32_768, 61_000)
    settings = Settings.from_environment({"PAYMENT_PORT": "40000", "ADMIN_PORT_BASE": "32400"})
    assert [text.partition(" is among")[0] for text in settings.risky_ports(outgoing)] == [
        "PAYMENT_PORT=40000",
        "ADMIN_PORT_BASE=32400",
    ]
    assert list(Settings.from_environment({}).risky_ports(outgoing)) == []


def test_default_ports_are_below_those_of_outgoing_connections() -> None:
    settings = Settings.from_environment({})
    assert max(settings.postgres_port, settings.kafka_port, settings.admin_port_base + 500) < 32_768
    assert all(port < 32_768 for port in free_ports(20))


def test_a_copy_of_the_example_sets_nothing() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert not [line for line in lines if line and not line.startswith("#")], "the remembered stack would be overruled"


def test_with_standbys_each_database_has_two_ports_that_no_other_setting_may_have() -> None:
    settings = Settings.from_environment({"STANDBYS": "1", "POSTGRES_PORT": "15432"})
    ports = [settings.postgres_ports(database) for database in (*DATABASES, "notify")]
    assert ports == [[15432, 15433], [15434, 15435], [15436, 15437], [15432, 15433]]
    assert Settings.from_environment({}).postgres_ports("payment") == [15432]
    Settings.from_environment({"KAFKA_PORT": "15437"})
    with pytest.raises(Fatal, match=r"KAFKA_PORT=15437 and POSTGRES_PORT\+5=15437 are the same"):
        Settings.from_environment({"STANDBYS": "async", "KAFKA_PORT": "15437"})
    with pytest.raises(Fatal, match="STANDBYS"):
        Settings.from_environment({"STANDBYS": "2"})


def test_a_process_may_be_sent_to_the_primary_wherever_it_is() -> None:
    settings = Settings.from_environment({"STANDBYS": "1"})
    variables = environment(kafka_servers="h:1", postgres_port=settings.postgres_ports, folder=Path("/f"), partitions=6)
    assert "@127.0.0.1:15434,127.0.0.1:15435/payment?" in variables["PAYMENT_DATABASE_URL"]
    assert "target_session_attrs=read-write" in variables["PAYMENT_ADMIN_URL"]
    assert "target_session_attrs=primary" in variables["PAYMENT_AUDITOR_URL"], "its sessions are read-only by default"
