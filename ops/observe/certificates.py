"""When the certificates of Kafka and PostgreSQL expire, as a client sees them."""

import socket
import ssl
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from psycopg.conninfo import conninfo_to_dict

from common import metrics
from common.config.kafka import Brokers
from common.kafka import wire
from common.worker import Worker

EVERY_S: Final = 60.0
TIMEOUT_S: Final = 5.0
_SSL_REQUEST: Final = struct.pack("!ii", 8, 80_877_103)
"""What a client of PostgreSQL sends first to have its connection encrypted."""
PORT: Final = 5_432


class CertificateSampling(Worker):
    """A task of the process: shows when these servers' certificates expire, anew every minute. Of servers that do not
    encrypt it shows nothing."""

    def __init__(self, brokers: Brokers, urls: Mapping[str, str]) -> None:
        super().__init__(
            "certificates", self._sample, retries_fatal=True, delay_max_s=EVERY_S, stop_timeout_s=TIMEOUT_S
        )
        self._brokers = brokers
        self._urls = urls

    def _sample(self) -> None:
        while True:
            show(self._brokers, self._urls)
            self.report("")
            if self.stopping.wait(EVERY_S):
                return


def show(brokers: Brokers, urls: Mapping[str, str]) -> None:
    """Show when the certificates of the brokers and of these databases expire. Of several servers of one name, the
    first one to expire counts. Raises `OSError` when one does not answer, or its certificate is not good."""
    if brokers.protocol != "PLAINTEXT":
        addresses = [address.rpartition(":") for address in brokers.servers.split(",")]
        expiries = [_expiry(wire.tls(brokers), host, int(port), b"") for host, _, port in addresses]
        metrics.certificate_expiry.labels("kafka").set(min(expiries))
    for database, url in urls.items():
        if authority := _authority(url):
            context = ssl.create_default_context(cafile=authority)
            expiries = [_expiry(context, host, port, _SSL_REQUEST) for host, port in _hosts(url)]
            metrics.certificate_expiry.labels(f"{database}-database").set(min(expiries))


def _expiry(context: ssl.SSLContext, host: str, port: int, opening: bytes) -> float:
    """Seconds since 1970. A server that is sent something first agrees with `S`."""
    with socket.create_connection((host, port), timeout=TIMEOUT_S) as connection:
        if opening:
            connection.sendall(opening)
            if connection.recv(1) != b"S":
                raise OSError(f"{host}:{port} does not encrypt")
        with context.wrap_socket(connection, server_hostname=host) as encrypted:
            certificate = encrypted.getpeercert()
    assert certificate is not None
    return ssl.cert_time_to_seconds(str(certificate["notAfter"]))


def _authority(url: str) -> Path | None:
    authority = conninfo_to_dict(url).get("sslrootcert")
    return Path(str(authority)) if authority else None


def _hosts(url: str) -> Iterator[tuple[str, int]]:
    parameters = conninfo_to_dict(url)
    hosts = str(parameters.get("host", "")).split(",")
    ports = str(parameters.get("port", PORT)).split(",")
    for number, host in enumerate(hosts):
        yield host, int(ports[number if len(ports) > 1 else 0])
