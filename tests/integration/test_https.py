"""TLS of a real process of HTTP: who is let in, and a certificate that changes while clients come and go."""

import http.client
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from common.tls.authority import Authority, Certificate
from common.tls.client import connection, trusting
from dev.settings import HOST, ROOT, free_ports
from tests.integration.test_http import PROGRAM
from tests.waiting import eventually

ANSWER_S = 10.0


class Server:
    """One process that serves HTTP alone, by TLS."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory / "secrets")
        self.certificate: Certificate = self.authority.ensure("http")
        self.port, admin_port = free_ports(2)
        self.admin_port = admin_port
        self.log = directory / "log"
        settings = {
            "HTTP_PORT": str(self.port),
            "ADMIN_PORT": str(admin_port),
            "DATABASE_URL": "postgresql://x",
            "AUTH": "off",
            "TLS_CERT_FILE": str(self.certificate.certificate),
            "TLS_KEY_FILE": str(self.certificate.key),
        }
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM], cwd=ROOT, env={**os.environ, **settings}, stdout=out, stderr=out
            )

    def text(self) -> str:
        return self.log.read_text()

    def await_text(self, text: str, times: int = 1) -> None:
        eventually(lambda: self.text().count(text) >= times, f"it logs {text!r}", last_words=self.text)

    def serial(self) -> bytes:
        """The certificate that a new connection gets."""
        trusted = trusting(self.certificate.authority)
        with trusted.wrap_socket(self.connect(), server_hostname=HOST) as secured:
            certificate = secured.getpeercert(binary_form=True)
            assert certificate is not None
            return certificate

    def connect(self) -> socket.socket:
        return socket.create_connection((HOST, self.port), ANSWER_S)

    def ask(
        self, port: int | None = None, host: str = HOST, authority: Path | None = None, path: str = "/livez"
    ) -> int:
        client = connection(
            HOST, port or self.port, timeout_s=ANSWER_S, authority=authority or self.certificate.authority, name=host
        )
        try:
            client.request("GET", path)
            answer = client.getresponse()
            answer.read()
            return answer.status
        finally:
            client.close()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("https"))
    server.await_text("listening")
    yield server
    server.stop()
    assert "Traceback" not in server.text()


def test_both_ports_speak_tls(server: Server) -> None:
    assert [server.ask(port) for port in (server.port, server.admin_port)] == [200, 200]


@pytest.mark.parametrize("port", ["port", "admin_port"])
def test_a_plain_client_gets_nothing(server: Server, port: str) -> None:
    plain = connection(HOST, getattr(server, port), timeout_s=ANSWER_S, authority=None)
    plain.request("GET", "/livez")
    with pytest.raises((http.client.HTTPException, OSError)):
        plain.getresponse()
    plain.close()


def test_tls_before_1_2_is_refused(server: Server) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(server.certificate.authority)
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.deprecated_call():
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with server.connect() as plain, pytest.raises(ssl.SSLError):
        old.wrap_socket(plain, server_hostname=HOST)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with old.wrap_socket(server.connect(), server_hostname=HOST) as secured:
        assert secured.version() == "TLSv1.2"


def test_a_client_refuses_a_wrong_name_and_a_wrong_authority(server: Server, tmp_path: Path) -> None:
    for name in ("payment", "127.0.0.2"):
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            server.ask(host=name)
    with pytest.raises(ssl.SSLCertVerificationError):
        server.ask(authority=Authority(tmp_path / "other").ensure("x").authority)


def test_what_comes_with_the_end_of_the_handshake_is_served(server: Server) -> None:
    """A client of TLS 1.3 may send its first request in the packet that ends the handshake."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting(server.certificate.authority).wrap_bio(to_client, to_server, server_hostname=HOST)
    with server.connect() as wire:
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                if sent := to_server.read():
                    wire.sendall(sent)
                to_client.write(wire.recv(16_384))
        client.write(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        wire.sendall(to_server.read())
        answer = b""
        while b"\r\n\r\n" not in answer:
            to_client.write(wire.recv(16_384))
            try:
                answer += client.read(16_384)
            except ssl.SSLWantReadError:
                continue
    assert answer.startswith(b"HTTP/1.1 200 ")


def test_a_new_certificate_is_shown_without_a_restart_and_no_request_is_lost(server: Server) -> None:
    before = server.serial()
    kept = connection(HOST, server.port, timeout_s=ANSWER_S, authority=server.certificate.authority)
    kept.request("GET", "/livez")
    kept.getresponse().read()
    stop, failures, asked = threading.Event(), [], []

    def load() -> None:
        while not stop.is_set():
            try:
                asked.append(server.ask(path="/metrics"))  # health checks have a limit
            except OSError as error:
                failures.append(error)

    clients = [threading.Thread(target=load) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        server.authority.renew("http")
        eventually(lambda: server.serial() != before, "the new certificate is shown", last_words=server.text)
        count = len(asked)
        eventually(lambda: len(asked) > count + 20, "clients go on", last_words=server.text)
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert (failures, set(asked)) == ([], {200})
    kept.request("GET", "/livez")
    assert kept.getresponse().status == 200, "a connection that began before goes on"
    kept.close()


def test_a_certificate_that_cannot_be_used_leaves_the_old_one(server: Server) -> None:
    before = server.serial()
    good = server.certificate.key.read_bytes()
    server.certificate.key.write_text("nonsense")
    server.await_text("the new TLS certificate cannot be used")
    assert server.serial() == before
    server.certificate.key.write_bytes(good)
    server.await_text("a new TLS certificate is in use", server.text().count("a new TLS certificate is in use") + 1)
    assert server.ask() == 200


def test_clients_refuse_an_expired_certificate_and_the_server_warns(server: Server) -> None:
    server.authority.renew("http", valid=timedelta(days=-1))
    server.await_text("the TLS certificate expires in -1")
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        server.ask()
    before = server.text().count("a new TLS certificate is in use")
    server.authority.renew("http")
    server.await_text("a new TLS certificate is in use", before + 1)
    assert server.ask() == 200
