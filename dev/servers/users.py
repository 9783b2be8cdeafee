"""Who is who at the broker of a secure stack: what each process and tool is told to be."""

from collections.abc import Sequence
from typing import Final

from common.config.kafka import Brokers
from common.kafka.access import ADMIN, AUDITOR, OPERATOR

_OF_TOOLS: Final = {"verify": AUDITOR, "trace": AUDITOR, "replay": AUDITOR}


def of_tool(module: str, arguments: Sequence[str]) -> str:
    """The user as whom a module of `ops` runs: one with no more rights than it needs."""
    if module == "secrets" or (module == "topics" and list(arguments[:1]) in (["create"], ["allow"], ["rotate"])):
        return ADMIN
    return _OF_TOOLS.get(module, OPERATOR)


def identity(brokers: Brokers) -> dict[str, str]:
    """The settings with which a process reaches a secure broker so."""
    reached = {
        "KAFKA_BOOTSTRAP_SERVERS": brokers.servers,
        "KAFKA_SECURITY_PROTOCOL": brokers.protocol,
        "KAFKA_CA_FILE": str(brokers.ca_file),
    }
    if brokers.protocol == "SSL":
        return reached | {"KAFKA_CERT_FILE": str(brokers.cert_file), "KAFKA_KEY_FILE": str(brokers.key_file)}
    return reached | {"KAFKA_USERNAME": brokers.username, "KAFKA_PASSWORD_FILE": str(brokers.password_file)}
