"""One process of a service, run as a child: for the tests and the bench, which have stacks of their own."""

import http.client
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from dev.servers.server import MARKER, Server
from dev.settings import HOST, Service, free_ports, instance_environment


class Instance(Server):
    def __init__(self, directory: Path, service: Service, number: int, port: int, variables: Mapping[str, str]) -> None:
        self.name = service.instance(number)
        super().__init__(directory / self.name)
        self.service = service
        self.launcher: tuple[str, ...] = ()
        """What Python runs the service by, if not directly."""
        [self.admin_port] = free_ports(1)
        self.variables = {
            **os.environ,
            **variables,
            **instance_environment(service, number, port=port, admin_port=self.admin_port),
        }

    def prepare(self) -> None:
        """A service needs nothing on disk."""

    def command(self) -> list[str]:
        return [sys.executable, *self.launcher, *self.service.command]

    def environment(self) -> dict[str, str]:
        return {**self.variables, MARKER: str(self.directory)}

    def unready(self) -> str | None:
        try:
            urllib.request.urlopen(f"http://{HOST}:{self.admin_port}/readyz", timeout=10).close()
        except urllib.error.HTTPError as error:
            with error:
                return error.read().decode()
        except (OSError, http.client.HTTPException) as error:
            return repr(error)
        return None
