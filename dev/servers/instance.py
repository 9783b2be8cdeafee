"""One process of a service."""

import http.client
import json
import sys
import urllib.error
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dev.environment import direct
from dev.servers.server import Server
from dev.settings import HOST, Service, free_ports


class Instance(Server):
    def __init__(
        self,
        directory: Path,
        service: Service,
        number: int,
        port: int,
        variables: Mapping[str, str],
        admin_port: int | None = None,
    ) -> None:
        """Without an `admin_port`, it takes a free one."""
        self.name = service.instance(number)
        super().__init__(directory / self.name)
        self.service = service
        self.launcher: tuple[str, ...] = ()
        """What Python runs the service by, if not directly."""
        self.admin_port = admin_port or free_ports(1)[0]
        self.variables = {
            **variables,
            "INSTANCE": self.name,
            "HTTP_PORT": str(port),
            "ADMIN_PORT": str(self.admin_port),
        }

    def prepare(self) -> None:
        """A service needs nothing on disk."""

    def command(self) -> list[str]:
        return [sys.executable, *self.launcher, "-m", *self.service.arguments]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **self.variables}

    def unready(self) -> str | None:
        return unready_at(self.admin_port)


def unready_at(port: int) -> str | None:
    """What the service behind a port lacks, as its /readyz says; None when it is ready."""
    try:
        direct.open(f"http://{HOST}:{port}/readyz", timeout=5).close()
    except urllib.error.HTTPError as error:
        with error:
            text = error.read().decode(errors="replace")
        with suppress(ValueError, KeyError, TypeError):
            answer = json.loads(text)  # without `missing`, it is the gateway's
            text = "; ".join(answer["missing"]) if "missing" in answer else answer["detail"]
        return text or str(error)
    except (OSError, http.client.HTTPException) as error:
        return f"no answer on port {port} ({getattr(error, 'reason', error)})"
    return None
