from pathlib import Path

import pytest

from common.config.env import Env
from common.config.kafka import brokers
from common.config.process import process_settings
from common.errors import Fatal
from common.kafka.clients import secured

REQUIRED = {"DB": "postgresql://x", "AUTH": "off"}


def test_defaults_need_only_the_database_and_a_way_to_tell_who_asks() -> None:
    process = process_settings(Env("payment", REQUIRED), database="DB", port=8082)
    assert (process.host, process.port, process.partitions) == ("127.0.0.1", 8082, 6)


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(Fatal, match="payment: DB is not set"):
        process_settings(Env("payment", {}), database="DB", port=8082)


@pytest.mark.parametrize("value", ["0", "70000", "http", "8081.0"])
def test_a_wrong_setting_is_named_with_its_value(value: str) -> None:
    with pytest.raises(Fatal, match=f"HTTP_PORT={value}|HTTP_PORT='{value}'"):
        process_settings(Env("payment", {**REQUIRED, "HTTP_PORT": value}), database="DB", port=8082)


def test_only_the_loopback_is_open_to_everybody() -> None:
    public = {**REQUIRED, "HTTP_HOST": "192.0.2.1"}
    with pytest.raises(Fatal, match=r"AUTH=off on 192\.0\.2\.1: deposits"):
        process_settings(Env("payment", public), database="DB", port=8082)
    allowed = {**public, "AUTH": "on", "AUTH_JWKS": "https://id.example/keys", "AUTH_ISSUER": "x"}
    assert process_settings(Env("payment", allowed), database="DB", port=8082).host == "192.0.2.1"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("LOG_LEVEL", "warn", "one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ("LOG_FORMAT", "xml", "one of json, text"),
        ("TOPIC_PARTITIONS", "six", "a whole number from 1 to 1000"),
        ("TOPIC_PARTITIONS", "0", "a whole number from 1 to 1000"),
        ("TOPIC_PARTITIONS", "٦", "a whole number from 1 to 1000"),
        ("TOPIC_PARTITIONS", "9" * 5_000, "a whole number from 1 to 1000"),
        ("INSTANCE", "a\nb", "text in UTF-8 without control characters"),
        ("INSTANCE", "\udcff", "text in UTF-8 without control characters"),
        ("KAFKA_BOOTSTRAP_SERVERS", "http://kafka:9092", "like HOST:PORT"),
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka:90920", "like HOST:PORT"),
        ("DB", "payments", "like postgresql://"),
        ("DB", "postgresql://u:p@h:x/payments", "like postgresql://"),
    ],
)
def test_a_wrong_value_is_one_line_with_what_is_allowed(name: str, value: str, allowed: str) -> None:
    with pytest.raises(Fatal, match=f"^payment: {name}='[^\n]*' must be {allowed}[^\n]*$"):
        process_settings(Env("payment", {**REQUIRED, name: value}), database="DB", port=8082)


@pytest.mark.parametrize("name", ["DB", "TOPIC_PARTITIONS", "LOG_LEVEL", "HTTP_HOST"])
def test_an_empty_value_is_no_default(name: str) -> None:
    with pytest.raises(Fatal, match=f"payment: {name}='' is empty: set a value or remove it"):
        process_settings(Env("payment", {**REQUIRED, name: ""}), database="DB", port=8082)


@pytest.mark.parametrize(
    "url", ["postgresql://u:s3@cret@h:x/d", "http://u:s3cret@h/d", "host=h password=s3cret prot=1"]
)
def test_a_wrong_url_is_shown_without_its_password(url: str) -> None:
    with pytest.raises(Fatal) as error:
        Env("payment", {"DB": url}).database_url("DB")
    assert "cret" not in str(error.value)


def test_the_two_ports_of_a_process_differ() -> None:
    with pytest.raises(Fatal, match="HTTP_PORT and ADMIN_PORT are both 8082"):
        process_settings(Env("payment", {**REQUIRED, "ADMIN_PORT": "8082"}), database="DB", port=8082)


def test_hosts_are_names_and_addresses_without_ports() -> None:
    variables = {**REQUIRED, "ALLOWED_HOSTS": "Shop.example., 192.0.2.1,2001:DB8:0::1,,"}
    process = process_settings(Env("payment", variables), database="DB", port=8082)
    assert process.allowed_hosts == {"shop.example", "192.0.2.1", "2001:db8::1"}
    for wrong in ("http://shop", "shop:80", "*", "a b", "[::1]", "shop/"):
        with pytest.raises(Fatal, match=r"payment: ALLOWED_HOSTS: .* must be a host name or an IP address"):
            process_settings(Env("payment", {**REQUIRED, "ALLOWED_HOSTS": f"ok,{wrong}"}), database="DB", port=8082)


def test_origins_are_as_browsers_send_them() -> None:
    variables = {**REQUIRED, "CORS_ORIGINS": "https://Shop.example:443, http://localhost:3000,http://[::1]:80,"}
    process = process_settings(Env("payment", variables), database="DB", port=8082)
    assert process.cors_origins == {b"https://shop.example", b"http://localhost:3000", b"http://[::1]"}
    assert process_settings(Env("payment", REQUIRED), database="DB", port=8082).cors_origins == frozenset()
    for wrong in ("*", "shop.example", "https://shop.example/", "https://*.example", "null"):
        with pytest.raises(Fatal, match=r"payment: CORS_ORIGINS: .* must be like https://shop.example"):
            process_settings(Env("payment", {**REQUIRED, "CORS_ORIGINS": wrong}), database="DB", port=8082)


def test_an_idle_connection_is_kept_for_75_s_unless_set() -> None:
    assert process_settings(Env("payment", REQUIRED), database="DB", port=8082).keep_alive_s == 75
    variables = {**REQUIRED, "KEEP_ALIVE_S": "5"}
    assert process_settings(Env("payment", variables), database="DB", port=8082).keep_alive_s == 5


def kafka(tmp_path: Path, **changes: str) -> dict[str, str]:
    """The settings of a user with a password. An empty change takes one away."""
    files = {name: tmp_path / name for name in ("ca", "password", "cert", "key")}
    for path in files.values():
        path.write_text("s3cret\n")
    secured = {
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_CA_FILE": str(files["ca"]), "KAFKA_USERNAME": "payment",
        "KAFKA_PASSWORD_FILE": str(files["password"]), "KAFKA_CERT_FILE": str(files["cert"]),
        "KAFKA_KEY_FILE": str(files["key"]),
    }  # fmt: skip
    return {name: value for name, value in (secured | changes).items() if value}


def test_a_password_is_read_from_its_file_each_time(tmp_path: Path) -> None:
    settings = brokers(Env("payment", kafka(tmp_path)))
    assert (settings.username, settings.password()) == ("payment", "s3cret")
    (tmp_path / "password").write_text("new")
    assert settings.password() == "new"
    assert secured(settings)["sasl.password"] == "new"
    assert "new" not in repr(settings)


@pytest.mark.parametrize(
    ("protocol", "needed", "not_needed"),
    [
        ("PLAINTEXT", [], ["CA_FILE", "USERNAME", "PASSWORD_FILE", "CERT_FILE", "KEY_FILE"]),
        ("SASL_SSL", ["CA_FILE", "USERNAME", "PASSWORD_FILE"], ["CERT_FILE", "KEY_FILE"]),
        ("SSL", ["CA_FILE", "CERT_FILE", "KEY_FILE"], ["USERNAME", "PASSWORD_FILE"]),
    ],
)
def test_what_the_protocol_needs_has_to_be_there(
    tmp_path: Path, protocol: str, needed: list[str], not_needed: list[str]
) -> None:
    settings = kafka(tmp_path, KAFKA_SECURITY_PROTOCOL=protocol, **{f"KAFKA_{name}": "" for name in not_needed})
    assert secured(brokers(Env("payment", settings))).get("security.protocol", "PLAINTEXT") == protocol
    for name in needed:
        lacking = {n: value for n, value in settings.items() if n != f"KAFKA_{name}"}
        with pytest.raises(Fatal, match=f"payment: KAFKA_{name} is not set"):
            brokers(Env("payment", lacking))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    settings = kafka(tmp_path, KAFKA_CA_FILE=str(tmp_path / "absent"))
    with pytest.raises(Fatal, match=r"KAFKA_CA_FILE='.*absent' cannot be read: No such file"):
        brokers(Env("payment", settings))
    (tmp_path / "empty").write_text(" \n")
    with pytest.raises(Fatal, match=r"KAFKA_PASSWORD_FILE='.*empty' is empty"):
        brokers(Env("payment", kafka(tmp_path) | {"KAFKA_PASSWORD_FILE": str(tmp_path / "empty")}))
