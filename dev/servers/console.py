"""The console, as a process of the native stack."""

import sys
from collections.abc import Mapping
from pathlib import Path

from common.tls.authority import Certificate
from dev.servers.instance import authority_in, unready_at
from dev.servers.server import Server
from dev.settings import CONSOLE, HOST, certificate_settings


class Console(Server):
    name = CONSOLE

    def __init__(
        self,
        directory: Path,
        port: int,
        admin_port: int,
        order_api_port: int,
        targets: Path,
        variables: Mapping[str, str],
        certificate: Certificate | None = None,
    ) -> None:
        """`targets` is the file with the admin ports of the instances. Without a certificate it serves plain HTTP."""
        super().__init__(directory / self.name)
        self.admin_port = admin_port
        self.variables = {
            **variables,
            **certificate_settings(certificate),
            "INSTANCE": self.name,
            "HTTP_PORT": str(port),
            "ADMIN_PORT": str(admin_port),
            "CONSOLE_ORDER_API": f"{HOST}:{order_api_port}",
            "CONSOLE_TARGETS": str(targets),
            "CONSOLE_STACK": "native",
        }

    def prepare(self) -> None:
        """It keeps nothing on disk."""

    def command(self) -> list[str]:
        return [sys.executable, "-m", "ops.console"]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **self.variables}

    def unready(self) -> str | None:
        return unready_at(self.admin_port, authority_in(self.variables))
