"""Connections to servers of the stack: plain, or by TLS with a certificate that its authority has signed."""

import http.client
import socket
import ssl
from functools import lru_cache
from pathlib import Path
from typing import Any


@lru_cache
def trusting(authority: Path) -> ssl.SSLContext:
    """A client's context, which trusts this authority and no other. Raises `OSError` when the file cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(authority)
    return context


class _SecureConnection(http.client.HTTPSConnection):
    """Verifies another name than that of the address it connects to."""

    def __init__(self, host: str, port: int, *, name: str, context: ssl.SSLContext, timeout: float) -> None:
        super().__init__(host, port, context=context, timeout=timeout)
        self._name = name
        self._trusted = context

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        plain: socket.socket = self.sock
        self.sock: Any = self._trusted.wrap_socket(plain, server_hostname=self._name)


def connection(
    host: str, port: int, *, timeout_s: float, authority: Path | None, name: str | None = None
) -> http.client.HTTPConnection:
    """A connection that is made with the first request: by TLS if there is an authority. The server's certificate must
    be valid for `name`, by default the host."""
    if authority is None:
        return http.client.HTTPConnection(host, port, timeout=timeout_s)
    return _SecureConnection(host, port, name=name or host, context=trusting(authority), timeout=timeout_s)
