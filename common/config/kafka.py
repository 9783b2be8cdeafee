"""Where Kafka is, how clients show it who they are, and how many partitions its topics have."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast, get_args

from common.config.env import Env
from common.errors import Fatal

KafkaProtocol = Literal["PLAINTEXT", "SSL", "SASL_SSL"]
KAFKA_SECURITY: Final = frozenset(
    {"KAFKA_CA_FILE", "KAFKA_USERNAME", "KAFKA_PASSWORD_FILE", "KAFKA_CERT_FILE", "KAFKA_KEY_FILE"}
)
"""The settings that `KAFKA_SECURITY_PROTOCOL` may need beside itself."""


@dataclass(frozen=True, slots=True)
class Brokers:
    """Where Kafka is, and how its clients show who they are.

    `SASL_SSL` takes a user and a password (SCRAM-SHA-512), `SSL` a certificate and its key (mutual TLS), each over TLS
    that is checked against `ca_file`. `PLAINTEXT` has none of it.
    """

    servers: str
    protocol: KafkaProtocol = "PLAINTEXT"
    ca_file: Path | None = None
    username: str = ""
    password_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def __str__(self) -> str:
        return self.servers

    def password(self) -> str:
        """The password as its file has it now. Raises `Fatal`."""
        assert self.password_file is not None
        try:
            password = self.password_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Fatal(f"KAFKA_PASSWORD_FILE={str(self.password_file)!r} cannot be read: {error}") from error
        if not password:
            raise Fatal(f"KAFKA_PASSWORD_FILE={str(self.password_file)!r} is empty: it must hold the password")
        if not password.isprintable():
            raise Fatal(f"KAFKA_PASSWORD_FILE={str(self.password_file)!r} is damaged: it must hold one line of text")
        return password


def brokers(env: Env) -> Brokers:
    """How to reach Kafka. Only what the protocol needs is read, and has to be set."""
    servers = env.servers("KAFKA_BOOTSTRAP_SERVERS")
    protocol = cast(KafkaProtocol, env.choice("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT", get_args(KafkaProtocol)))
    env.names.update(KAFKA_SECURITY)
    match protocol:
        case "PLAINTEXT":
            return Brokers(servers)
        case "SSL":
            cert_file, key_file = env.file("KAFKA_CERT_FILE"), env.file("KAFKA_KEY_FILE")
            return Brokers(servers, protocol, env.file("KAFKA_CA_FILE"), cert_file=cert_file, key_file=key_file)
        case "SASL_SSL":
            username, password_file = env.text("KAFKA_USERNAME"), env.file("KAFKA_PASSWORD_FILE")
            secured = Brokers(servers, protocol, env.file("KAFKA_CA_FILE"), username, password_file)
            secured.password()
            return secured


TOPIC_PARTITIONS: Final = 6


def topic_partitions(env: Env) -> int:
    """How many partitions each topic has when it is created; a topic keeps them for ever."""
    return env.integer("TOPIC_PARTITIONS", TOPIC_PARTITIONS, least=1, most=1_000)
