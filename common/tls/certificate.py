"""The certificate that a server shows, and when certificates expire.

The server's is read again when its files change, so a new one needs no restart. A connection keeps the certificate with
which it began; new connections get the new one. Files that do not fit together, as in the middle of a change, or cannot
be read, leave the old certificate in place.
"""

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from loguru import logger

from common import metrics
from common.config.kafka import Brokers
from common.errors import Fatal
from common.files import Watched

WARN_DAYS: Final = 14
WARN_EVERY_S: Final = 3_600.0
_DAY_S: Final = 86_400


class _Loaded(NamedTuple):
    context: ssl.SSLContext
    valid_until: datetime


class ServerCertificate:
    """The context in which a server's handshakes take place, of TLS 1.2 and newer."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises `Fatal` when the files cannot be used."""
        self._certificate, self._key = certificate, key
        self._warned_at_s = -WARN_EVERY_S
        try:
            self._files = Watched((certificate, key), self._load, self._report)
        except (OSError, ValueError) as error:
            raise Fatal(
                f"TLS_CERT_FILE={certificate} and TLS_KEY_FILE={key} cannot be used: {error}; "
                "both must be in PEM, and belong together"
            ) from None
        self._show()

    @property
    def context(self) -> ssl.SSLContext:
        return self._files.value.context

    def refresh(self, now_s: float) -> None:
        """Read the files again if they have changed. Logs when they cannot be used, and when the certificate expires
        soon. Takes microseconds while nothing changes. `now_s` is the time of any clock that never goes back."""
        valid_until = self._files.value.valid_until
        if self._files.refresh():
            valid_until = self._files.value.valid_until
            logger.info("a new TLS certificate is in use", valid_until=valid_until.isoformat())
            self._warned_at_s = -WARN_EVERY_S
            self._show()
        if now_s - self._warned_at_s >= WARN_EVERY_S:
            self._warned_at_s = now_s
            days = (valid_until - datetime.now(UTC)).total_seconds() / _DAY_S
            if days < WARN_DAYS:
                logger.warning(
                    "the TLS certificate expires in {:.1f} days: 'just secrets rotate' makes a new one", days
                )

    def _show(self) -> None:
        metrics.certificate_expiry.labels("http").set(self._files.value.valid_until.timestamp())

    def _load(self) -> _Loaded:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self._certificate, self._key)
        return _Loaded(context, valid_until(self._certificate))

    @staticmethod
    def _report(problem: str) -> None:
        logger.warning("the new TLS certificate cannot be used, the old one stays: {}", problem)


def valid_until(path: Path) -> datetime:
    """When the certificate in a file in PEM expires. Raises `OSError` and `ValueError`."""
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc


def show_expiry(brokers: Brokers, authority: Path | None) -> None:
    """Show when the certificates expire that this process has read at its start, and keeps. Raises `Fatal` when one
    cannot be read. Of several authorities in one file, the last one to expire counts."""
    for name, path in _read_at_start(brokers, authority):
        try:
            certificates = x509.load_pem_x509_certificates(path.read_bytes())
        except (OSError, ValueError) as error:
            raise Fatal(f"the certificate {str(path)!r} cannot be read: {error}") from None
        expiry = max if name.endswith("authority") else min
        metrics.certificate_expiry.labels(name).set(expiry(c.not_valid_after_utc for c in certificates).timestamp())


def _read_at_start(brokers: Brokers, authority: Path | None) -> Iterator[tuple[str, Path]]:
    if authority is not None:
        yield "http-authority", authority
    if brokers.ca_file is not None:
        yield "kafka-authority", brokers.ca_file
    if brokers.cert_file is not None:
        yield "kafka-client", brokers.cert_file
