"""The HTTP server of every process: its sockets, its tasks, how it begins and how it ends.

Instances of one service share its public port by SO_REUSEPORT (the kernel spreads connections over them) and each has
an admin port of its own, where a supervisor or a scraper reaches exactly this instance. Both serve the same routes.

An instance that comes or goes costs no request. It listens on the public port only once it can serve. When it ends, it
takes no new connection, accepts what has connected, closes the listener, and answers each connection's next request
with `connection: close`.

With a certificate, both ports speak TLS and nothing else.
"""

import asyncio
import contextlib
import ctypes
import gc
import signal
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any, Final, Protocol

import uvicorn
import uvloop
from loguru import logger

from common import metrics
from common.auth.authenticator import CLOSED, authenticator
from common.config.process import Process
from common.errors import Fatal
from common.http.app import Frame, Readiness, nothing_missing
from common.http.connections import ADMIN_CONNECTIONS_MAX, Gate, ListenerState, make_room
from common.http.heads import Hosts
from common.http.limits.limiter import Limiter
from common.http.protocol import Connection
from common.kafka.identity import PasswordWatch
from common.tls.certificate import ServerCertificate, show_expiry
from common.tls.listener import TlsListener

TICK_S: Final = 1.0
"""uvicorn's own takes a tenth of it. On an idle core each costs half a millisecond."""
TICK_AT_S: Final = 0.002
"""When in a second: a timer may run a millisecond early."""
READY_CHECK_EVERY_S: Final = 0.05
DRAIN_S: Final = 8
GC_OBJECTS: Final = 50_000
HANDSHAKES_S: Final = 0.01
"""Far longer than a handshake takes on one machine or in one network."""
_SO_ATTACH_FILTER: Final = 26
# Load the byte of flags; if it has SYN, keep 0 bytes of the packet, otherwise all.
_DROP_SYN: Final = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


class Task(Protocol):
    """Something that runs beside HTTP for as long as the process lives."""

    def start(self) -> None: ...
    def stop(self) -> None: ...


class _Server(uvicorn.Server):
    """A uvicorn server for one port. `serve` handles the signals, since two of these share one loop."""

    def __init__(
        self, config: uvicorn.Config, gate: Gate | None = None, certificate: ServerCertificate | None = None
    ) -> None:
        super().__init__(config)
        self._certificate = certificate
        self._secured: TlsListener | None = None
        self._stopping = asyncio.Event()
        self.server_state: ListenerState = ListenerState(gate)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def stop(self) -> None:
        """Have `serve` drain and end."""
        self.should_exit = True
        self._stopping.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            # At whole seconds by the clock, so that the servers of a process wake it once.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), TICK_S + TICK_AT_S - time.time() % TICK_S)

    async def on_tick(self, counter: int) -> bool:
        now = asyncio.get_running_loop().time()
        for connection in list(self.server_state.connections):
            if isinstance(connection, Connection):
                connection.check_time(now)
        self.server_state.gate.report(now)
        if self._certificate is not None:
            self._certificate.refresh(now)
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self._certificate is None:
            await super().startup(sockets)
            return
        [listener] = sockets or []
        listener.listen(self.config.backlog)
        self._secured = TlsListener(listener, self._certificate, self.server_state, self._make_protocol)
        self.servers = [self._secured]  # type: ignore[list-item]  # it can be closed like one of asyncio's
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listeners without losing a connection, then drain.

        The kernel resets what waits in the accept queue of a listener that closes. So no handshake begins any more, and
        those under way get `HANDSHAKES_S` to end: a client whose first packet is dropped repeats it after a second, and
        finds another instance. A duplicate keeps the listener open past uvloop's close, so that the queue can be
        emptied right before it really closes.
        """
        for listener in sockets or []:
            drop_handshakes(listener)
        await asyncio.sleep(HANDSHAKES_S)
        listeners = [listener.dup() for listener in sockets or []]
        for server in self.servers:
            server.close()
        await asyncio.sleep(0)  # uvloop lets go of its listeners
        accepted = [connection for listener in listeners for connection in _accept_all(listener)]
        loop = asyncio.get_running_loop()
        for connection in accepted:
            if self._secured is not None:
                self._secured.secure(connection)
                continue
            await loop.connect_accepted_socket(self._make_protocol, connection)
        await super().shutdown(sockets)

    def _make_protocol(self) -> Connection:
        protocol: Connection = self.config.http_protocol_class(  # type: ignore[assignment, call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return protocol


def _accept_all(listener: socket.socket) -> list[socket.socket]:
    """Empty a listener's queue, and close it at once."""
    connections = []
    with listener, contextlib.suppress(BlockingIOError):
        listener.setblocking(False)
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            connections.append(connection)
    return connections


def drop_handshakes(listener: socket.socket) -> None:
    """Let the kernel drop the first packet (SYN) of new connections. Only Linux can; elsewhere nothing changes.

    References: classic BPF, socket(7) SO_ATTACH_FILTER; a listener's filter sees packets from their TCP header on.
    """
    filtered = b"".join(struct.pack("HBBI", *instruction) for instruction in _DROP_SYN)
    instructions = ctypes.create_string_buffer(filtered)
    program = struct.pack("HL", len(_DROP_SYN), ctypes.addressof(instructions))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _bind(host: str, port: int) -> socket.socket:
    """A socket that has the port and does not listen yet. Raises `Fatal` when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.setblocking(False)
    try:
        bound.bind((host, port))
    except OSError as error:
        raise Fatal(f"cannot listen on {host}:{port}: {error.strerror}; who has it? try 'just doctor'") from None
    return bound


async def serve(
    app: Frame,
    process: Process,
    tasks: Sequence[Task] = (),
    open_: Callable[[], Awaitable[None]] | None = None,
    close: Callable[[], Awaitable[None]] | None = None,
    protocol: "Callable[..., Connection] | None" = None,
    listen_when: Readiness = nothing_missing,
    limiter: Limiter | None = None,
) -> None:
    """Serve `app` on both ports, with `tasks` beside it, until SIGTERM or SIGINT; then drain. Each connection is a
    `Connection`, or what `protocol` makes. The public port listens once `listen_when` names nothing any more. A
    `protocol` that answers by itself shares its `limiter`.

    Order of the end: stop accepting, let requests in flight finish (at most `DRAIN_S`), stop the tasks, `close`.
    Raises `Fatal` when a port is taken, when too few files may be open, or when the keys of credentials cannot be read.
    """
    tasks = [PasswordWatch(process.brokers), *tasks]
    room = make_room()
    public, admin = _bind(process.host, process.port), _bind(process.host, process.admin_port)
    app.admin_port = process.admin_port
    if app.auth is CLOSED:
        app.auth = authenticator(process.auth)
    app.hosts = Hosts(process.host, process.allowed_hosts, process.cors_origins)
    app.limiter = limiter or Limiter(process.limits)
    files, certificate = process.tls, None
    if files.certificate is not None and files.key is not None:
        certificate = ServerCertificate(files.certificate, files.key)
    show_expiry(process.brokers, files.authority)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=protocol or Connection,  # type: ignore[arg-type]  # any callable will do
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        # A client must not choose the address it is known by, and the middleware costs every request.
        proxy_headers=False,
        date_header=True,
        backlog=room.backlog,
        timeout_keep_alive=process.keep_alive_s,
        timeout_graceful_shutdown=DRAIN_S,
    )
    gates = Gate(room.connections), Gate(ADMIN_CONNECTIONS_MAX)
    servers = [_Server(config, gate, certificate) for gate in gates]
    metrics.watch_pool("connections", room.connections, lambda: len(servers[0].server_state.connections))
    app.closed = "the public port does not listen yet"
    stopping = asyncio.Event()

    def stop() -> None:
        app.stopping = True
        app.closed = "this process is shutting down"
        stopping.set()
        for server in servers:
            server.stop()

    async def serve_public() -> None:
        while listen_when() and not stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), READY_CHECK_EVERY_S)
        if stopping.is_set():
            public.close()
            return
        public.listen(room.backlog)
        app.closed = ""
        logger.info(
            "listening",
            host=process.host,
            port=process.port,
            admin_port=process.admin_port,
            connections_max=room.connections,
        )
        await servers[0].serve([public])

    following_keys = asyncio.create_task(app.auth.keep_current())
    if open_ is not None:
        await open_()
    # The objects built so far live as long as the process: the collector need not visit them again. The objects of
    # requests and batches are freed by their reference counts; looking for cycles every 700 objects cost an order a
    # tenth. Tasks start after that: they free what a failed run has built (`common.worker`).
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_OBJECTS)
    for task in tasks:
        task.start()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        await asyncio.gather(serve_public(), servers[1].serve([admin]))
    finally:
        await asyncio.gather(*(asyncio.to_thread(task.stop) for task in tasks))
        following_keys.cancel()
        if close is not None:
            await close()
        logger.info("stopped")


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a process to its end on uvloop. A `Fatal` ends it with exit code 1 and one line that says why."""
    try:
        uvloop.run(main)
    except Fatal as error:
        logger.critical(str(error))
        raise SystemExit(1) from None
