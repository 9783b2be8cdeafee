"""Who is who at the broker of a secure stack: what each process and tool is told to be."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from common.kafka.access import ADMIN, AUDITOR, OPERATOR
from common.secrets.kafka import password_file
from common.tls.authority import Authority

_OF_TOOLS: Final = {"verify": AUDITOR, "trace": AUDITOR, "replay": AUDITOR}


def of_tool(module: str, arguments: Sequence[str]) -> str:
    """The user as whom a module of `ops` runs: one with no more rights than it needs."""
    if module == "secrets" or (module == "topics" and list(arguments[:1]) in (["create"], ["allow"], ["rotate"])):
        return ADMIN
    return _OF_TOOLS.get(module, OPERATOR)


def identity(secrets: Path, user: str) -> dict[str, str]:
    """The settings with which a process is this user."""
    variables = {
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_CA_FILE": str(Authority(secrets).path),
        "KAFKA_USERNAME": user,
        "KAFKA_PASSWORD_FILE": str(password_file(secrets, user)),
    }
    return variables | ({"KAFKA_PASSWORDS_DIR": str(secrets)} if user == ADMIN else {})
