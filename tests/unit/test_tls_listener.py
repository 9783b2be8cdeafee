"""Connections whose handshake is under way: they count, they end, and none is lost when the server ends."""

import asyncio
import contextlib
import socket
import ssl
import time
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from common.config.kafka import Brokers
from common.http.connections import Gate
from common.http.server import _Server
from common.tls import listener as listeners
from common.tls.authority import AUTHORITY_DAYS, Authority, Certificate
from common.tls.certificate import ServerCertificate, show_expiry
from common.tls.client import trusting
from tests.unit.test_serving import REQUEST, WAIT_S, answer, connect, with_a_server


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Authority(tmp_path_factory.mktemp("secrets")).ensure("http")


@pytest.fixture
def certificate(files: Certificate) -> ServerCertificate:
    return ServerCertificate(files.certificate, files.key)


async def ask(client: socket.socket, trusted: Path) -> bytes:
    """Shake hands, send a request, and read until the connection ends."""
    async with asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection(sock=client, ssl=trusting(trusted), server_hostname="localhost")
        writer.write(REQUEST)
        received = await reader.read()
        writer.close()
    return received


def test_connections_that_wait_to_be_accepted_are_answered_when_the_server_ends(
    files: Certificate, certificate: ServerCertificate
) -> None:
    async def act(server: _Server, listener: socket.socket) -> None:
        clients = [connect(listener) for _ in range(20)]
        asking = [asyncio.create_task(ask(client, files.authority)) for client in clients]
        await server.shutdown([listener])
        for received in await asyncio.gather(*asking):
            assert received.startswith(b"HTTP/1.1 200 ")
            assert b"connection: close" in received

    with_a_server(act, certificate=certificate)


def test_a_client_that_does_not_go_on_is_cut_off(
    certificate: ServerCertificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listeners, "HANDSHAKE_S", 0.05)

    async def act(server: _Server, listener: socket.socket) -> None:
        silent, plain = connect(listener), connect(listener)
        plain.send(REQUEST)
        with contextlib.suppress(ConnectionResetError):
            assert await answer(plain) == b"", "no answer in the clear"
        assert await answer(silent) == b""
        assert not server.server_state.connections

    with_a_server(act, certificate=certificate)


def test_clients_that_do_not_go_on_give_way_to_others(files: Certificate, certificate: ServerCertificate) -> None:
    limit = 10

    async def act(server: _Server, listener: socket.socket) -> None:
        silent = [connect(listener) for _ in range(3 * limit)]
        while len(server.server_state.connections) < limit - 1:  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0)
        asking = asyncio.create_task(ask(connect(listener), files.authority))
        while not any(isinstance(c, listeners.Handshake) is False for c in server.server_state.connections):
            assert not asking.done(), asking
            await asyncio.sleep(0)
        assert len(server.server_state.connections) <= limit + 1
        for client in silent:  # or the end of the server would wait for them
            client.close()
        await server.shutdown([listener])
        assert (await asking).startswith(b"HTTP/1.1 200 ")

    with_a_server(act, Gate(limit), certificate)


DAY_S = 86_400


def expiry(certificate: str) -> float:
    value = REGISTRY.get_sample_value("tandem_certificate_expiry_timestamp_seconds", {"certificate": certificate})
    assert value is not None
    return value


def test_of_certificates_that_are_kept_from_the_start_the_first_to_expire_is_shown_and_the_last_authority(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    own, other = authority.renew("payment", valid=timedelta(days=3)), authority.ensure("other")
    own.certificate.write_text(own.certificate.read_text() + other.certificate.read_text())
    authorities = tmp_path / "authorities.pem"
    authorities.write_text(own.authority.read_text() + other.certificate.read_text())
    show_expiry(Brokers("127.0.0.1:1", "SSL", authorities, cert_file=own.certificate, key_file=own.key), None)
    assert abs(expiry("kafka-client") - time.time() - 3 * DAY_S) < DAY_S
    assert abs(expiry("kafka-authority") - time.time() - AUTHORITY_DAYS * DAY_S) < DAY_S


def test_a_new_certificate_is_used_once_its_key_has_come_too(files: Certificate, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    made = authority.renew("http", valid=timedelta(days=1))
    certificate = ServerCertificate(made.certificate, made.key)
    first, expires_soon = certificate.context, expiry("http")
    assert abs(expires_soon - time.time() - DAY_S) < DAY_S / 24
    old_key, old_certificate = made.key.read_bytes(), made.certificate.read_bytes()
    authority.renew("http")
    new_certificate = made.certificate.read_bytes()
    made.certificate.write_bytes(old_certificate)
    certificate.refresh(0.0)
    assert certificate.context is first, "the key is the new one, the certificate is not"
    made.certificate.write_bytes(new_certificate)
    certificate.refresh(1.0)
    second = certificate.context
    assert second is not first
    assert expiry("http") > expires_soon + 80 * DAY_S
    certificate.refresh(2.0)
    assert certificate.context is second
    made.key.unlink()
    certificate.refresh(3.0)
    assert certificate.context is second
    made.key.write_bytes(old_key)
    certificate.refresh(4.0)
    assert certificate.context is second
    assert isinstance(second, ssl.SSLContext)
