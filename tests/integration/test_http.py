"""A real process of HTTP alone, without broker and database, under a low limit of open files; and real clients."""

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from common.http.connections import room_in
from dev.settings import HOST, ROOT, free_ports
from tests import java
from tests.waiting import eventually

PROGRAM: Final = """
import sys
from common import log
from common.config.process import process_settings
from common.auth.access import scopes
from common.auth.principal import MERCHANT
from common.config.env import Env
from common.http import server
from common.http.app import application
from common.http.contract.operation import Operation
from common.http.contract.service import OperationRoute
from common.http.requests import read_body
from common.http.responses import json_response

async def echo(request):
    return json_response({"read": len(await read_body(request))})

process = process_settings(Env("http"), database="DATABASE_URL", port=0)
log.configure(process.service, process.instance, process.logs)
ECHO = Operation(
    method="POST", path="/echo", id="echo", summary="", tag="test", access=scopes(MERCHANT), answers=()
)
app = application([OperationRoute(ECHO, echo)])
server.run(server.serve(app, process))
"""
OPEN_FILES: Final = 1_024
CLIENTS: Final = 1_100
REQUEST: Final = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
ANSWER_S: Final = 10.0


class Process:
    """One process of HTTP alone."""

    def __init__(self, directory: Path) -> None:
        self.port, self.admin_port = free_ports(2)
        self.log = directory / "log"
        ports = {"HTTP_PORT": str(self.port), "ADMIN_PORT": str(self.admin_port)}
        command = ["sh", "-c", f'ulimit -n {OPEN_FILES}; exec "$0" -c "$1"', sys.executable, PROGRAM]
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **ports, "AUTH": "off", "DATABASE_URL": "postgresql://x"},
                stdout=out,
                stderr=out,
            )

    def text(self) -> str:
        return self.log.read_text()

    def ended(self) -> str | None:
        return None if self._process.poll() is None else self.text()

    def connect(self, source: str = HOST, port: int | None = None) -> socket.socket:
        return socket.create_connection((HOST, port or self.port), timeout=ANSWER_S, source_address=(source, 0))

    def ask(self, source: str = HOST, port: int | None = None) -> bytes:
        with self.connect(source, port) as client:
            client.sendall(REQUEST)
            return b"".join(iter(lambda: client.recv(4_096), b""))

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # for the clients
    process = Process(tmp_path_factory.mktemp("http"))
    eventually(lambda: "listening" in process.text(), "it listens", ended=process.ended, last_words=process.text)
    yield process
    process.stop()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "begun", [b"", REQUEST[:-2], b"POST /metrics HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\nx"]
)
def test_unfinished_requests_do_not_keep_other_clients_out(process: Process, begun: bytes) -> None:
    room = room_in(OPEN_FILES)
    flood = []
    try:
        for number in range(CLIENTS):
            flood.append(process.connect())
            flood[-1].sendall(begun)
            if number % 64 == 0:
                assert process.ask().startswith(b"HTTP/1.1 200 ")
        for source in (HOST, "127.0.0.2"):
            assert process.ask(source).startswith(b"HTTP/1.1 200 ")
        assert process.ask(port=process.admin_port).startswith(b"HTTP/1.1 200 ")
    finally:
        for client in flood:
            client.close()
    assert room.connections < OPEN_FILES
    eventually(lambda: "too many connections" in process.text(), "it says so", ended=process.ended)
    assert process.text().count("too many connections") < 2 * 3, "now and then, not for each"
    assert "Traceback" not in process.text()


def test_javas_client_is_served_though_it_offers_an_upgrade_with_each_request(process: Process, tmp_path: Path) -> None:
    url = f"http://{HOST}:{process.port}"
    answers = java.post(tmp_path, f"{url}/echo", f"{url}/echo", f"{url}/nowhere", f"{url}/livez", f"{url}/echo")
    assert [status for status, _ in answers] == [200, 200, 404, 405, 200]
    assert answers[-1][1] == '{"read":2}'
