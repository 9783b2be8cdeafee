"""Servers to compare Tandem with: how they serve, and how they are started, driven and accounted for.

They are set up like the order api's server (uvloop, httptools, no access log, no server and date headers).
`python -m bench.measure.servers PORT` is the ceiling: a bare uvicorn that answers every body with itself. What an order
costs the api beyond that is what Tandem does with it.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final, Literal

import uvicorn

from bench.load import runner
from bench.load.spec import Records, Spec
from bench.stack.processes import Running, Window
from dev.environment import child
from dev.settings import HOST

START_S: Final = 20.0


@contextmanager
def running(
    modules: Mapping[str, Sequence[str]], ports: Iterable[int], environment: Mapping[str, str] | None = None
) -> Iterator[dict[str, int]]:
    """Run modules with their arguments. Yields their pids by name as soon as something listens at all the ports."""
    pids = {}
    with ExitStack() as servers:
        for name, arguments in modules.items():
            server = servers.enter_context(
                subprocess.Popen([sys.executable, "-m", *arguments], env=environment or child())
            )
            servers.callback(server.terminate)
            pids[name] = server.pid
        for port in ports:
            _await_listening(port)
        yield pids


def _await_listening(port: int) -> None:
    """Raises `OSError` if nothing listens within `START_S`."""
    until = time.monotonic() + START_S
    while True:
        try:
            return socket.create_connection((HOST, port), timeout=1).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def drive(spec: Spec, pids: Mapping[str, int]) -> tuple[Records, dict[str, float]]:
    """The records of a load, and the CPU microseconds a request of these processes and the generator."""
    window = Window(lambda: Running(pids=pids))
    records = runner.run(spec)
    cpu = window.end(records.cpu_s)
    return records, {name: cpu_s / max(1, records.requests) * 1e6 for name, cpu_s in cpu.seconds.items()}


def serve(app: Any, port: int, lifespan: Literal["on", "off"] = "off") -> None:
    uvicorn.run(
        app,
        host=HOST,
        port=port,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan=lifespan,
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=False,
        proxy_headers=False,
        backlog=2_048,
        timeout_keep_alive=60,
    )


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """The least that an ASGI app can do with a request."""
    await respond(send, 202, await body_of(receive))


async def body_of(receive: Any) -> bytes:
    message = await receive()
    body: bytes = message["body"]
    while message.get("more_body"):
        message = await receive()
        body += message["body"]
    return body


async def respond(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    serve(echo, int(sys.argv[1]))
