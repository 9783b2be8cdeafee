"""One process of a service."""

import http.client
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from common.tls.authority import Certificate
from common.tls.client import connection
from dev.servers.server import Server
from dev.settings import HOST, Service, certificate_settings, free_ports

ANSWER_S = 5.0


class Instance(Server):
    def __init__(
        self,
        directory: Path,
        service: Service,
        number: int,
        port: int,
        variables: Mapping[str, str],
        admin_port: int | None = None,
        certificate: Certificate | None = None,
    ) -> None:
        """Without an `admin_port`, it takes a free one; without a certificate, it serves plain HTTP."""
        self.name = service.instance(number)
        super().__init__(directory / self.name)
        self.service = service
        self.launcher: tuple[str, ...] = ()
        """What Python runs the service by, if not directly."""
        self.admin_port = admin_port or free_ports(1)[0]
        self.variables = {
            **variables,
            **certificate_settings(certificate),
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
        return unready_at(self.admin_port, authority_in(self.variables))


def authority_in(variables: Mapping[str, str]) -> Path | None:
    """The authority by which the servers with these settings are verified; None when they serve plain HTTP."""
    return Path(variables["TLS_CA_FILE"]) if "TLS_CERT_FILE" in variables else None


def unready_at(port: int, authority: Path | None = None) -> str | None:
    """What the service behind a port lacks, as its /readyz says; None when it is ready."""
    asking = connection(HOST, port, timeout_s=ANSWER_S, authority=authority)
    try:
        asking.request("GET", "/readyz")
        answer = asking.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"no answer on port {port} ({error})"
    finally:
        asking.close()
    if answer.status == http.HTTPStatus.OK:
        return None
    with suppress(ValueError, KeyError, TypeError):
        body = json.loads(text)  # without `missing`, it is the gateway's
        text = "; ".join(body["missing"]) if "missing" in body else body["detail"]
    return text or f"HTTP {answer.status}"
