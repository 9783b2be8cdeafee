"""The certificate that a server shows. It is read again when its files change, so a new one needs no restart.

A connection keeps the certificate with which it began; new connections get the new one. Files that do not fit together,
as in the middle of a change, or cannot be read, leave the old certificate in place.
"""

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from loguru import logger

from common.errors import Fatal
from common.files import stamp

WARN_DAYS: Final = 14
WARN_EVERY_S: Final = 3_600.0
_DAY_S: Final = 86_400


class ServerCertificate:
    """The context in which a server's handshakes take place, of TLS 1.2 and newer."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Raises `Fatal` when the files cannot be used."""
        self._certificate, self._key = certificate, key
        self._seen = self._stamps()
        self._warned_at_s = -WARN_EVERY_S
        try:
            self.context = self._load()
        except (OSError, ValueError) as error:
            raise Fatal(
                f"TLS_CERT_FILE={certificate} and TLS_KEY_FILE={key} cannot be used: {error}; "
                "both must be in PEM, and belong together"
            ) from None

    def refresh(self, now_s: float) -> None:
        """Read the files again if they have changed. Logs when they cannot be used, and when the certificate expires
        soon. Takes microseconds while nothing changes. `now_s` is the time of any clock that never goes back."""
        if (stamps := self._stamps()) != self._seen:
            self._seen = stamps
            try:
                self.context = self._load()
            except (OSError, ValueError) as error:
                logger.warning("the new TLS certificate cannot be used, the old one stays: {}", error)
            else:
                logger.info("a new TLS certificate is in use", valid_until=self.valid_until.isoformat())
                self._warned_at_s = -WARN_EVERY_S
        if now_s - self._warned_at_s >= WARN_EVERY_S:
            self._warned_at_s = now_s
            days = (self.valid_until - datetime.now(UTC)).total_seconds() / _DAY_S
            if days < WARN_DAYS:
                logger.warning(
                    "the TLS certificate expires in {:.1f} days: 'just secrets rotate' makes a new one", days
                )

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self._certificate, self._key)
        self.valid_until = x509.load_pem_x509_certificate(self._certificate.read_bytes()).not_valid_after_utc
        return context

    def _stamps(self) -> tuple[object, ...] | None:
        """Changes with the files; None while one of them is away."""
        try:
            return stamp(self._certificate), stamp(self._key)
        except OSError:
            return None
