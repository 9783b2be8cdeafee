"""A listener whose connections begin with a TLS handshake.

The servers of asyncio and uvloop show a connection only after its handshake. A client that connects and never goes on
would then count against no limit, for a minute. So this listener accepts by itself: a connection counts from the
moment it is accepted, gives way like one without a request, and ends if the handshake takes longer than `HANDSHAKE_S`.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

from loguru import logger

from common.http.connections import ListenerState
from common.http.limits.sources import source_of
from common.tls.certificate import ServerCertificate

HANDSHAKE_S: Final = 10.0
CLOSE_S: Final = 5.0
"""A connection that the server closes waits this long for the client to close its side."""
ACCEPTED_AT_ONCE: Final = 64
PAUSE_S: Final = 1.0
"""Until the listener accepts again after it could not, such as for want of a descriptor."""


class Served(Protocol):
    """The protocol behind a handshake, as uvicorn has it: without a transport before the handshake is done."""

    transport: Any

    def shutdown(self) -> None: ...


class Handshake:
    """A connection on its way to TLS. `common.http.connections.Guest` says what the gate wants of it."""

    def __init__(self, connected: socket.socket, state: ListenerState, make: Callable[[], Served]) -> None:
        self._socket = connected
        self._state = state
        self._served = make()
        self._began = asyncio.get_running_loop().time()
        self._given_up = self._ending = False
        self.source = source_of(connected.getpeername()[0])

    @property
    def waits_since(self) -> tuple[bool, float] | None:
        return None if self._given_up or self._served.transport is not None else (False, self._began)

    async def shake(self, certificate: ServerCertificate) -> None:
        """Returns when the handshake is done or has failed; the protocol goes on by itself."""
        loop = asyncio.get_running_loop()
        self._state.connections.add(self)  # type: ignore[arg-type]  # to be told when the server ends
        self._state.gate.admit(self, self._began)
        try:
            if self._given_up:
                self._socket.close()
                return
            await loop.connect_accepted_socket(
                lambda: self._served,  # type: ignore[type-var]  # it has what uvloop calls
                self._socket,
                ssl=certificate.context,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=CLOSE_S,
            )
        except OSError as error:  # ssl.SSLError and TimeoutError are such
            logger.debug("no TLS handshake with {}: {!r}", self.source, error)
        else:
            if self._ending:
                self._served.shutdown()
        finally:
            self._state.gate.leave(self)
            self._state.connections.discard(self)

    def shutdown(self) -> None:
        """The server ends: the first answer is this connection's last."""
        self._ending = True

    def give_way(self) -> None:
        self._given_up = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def turn_away(self) -> None:
        """No client could read a refusal before the handshake is done."""
        self.give_way()


class TlsListener:
    """Accepts the connections of one socket, in the place of an `asyncio.Server`."""

    def __init__(
        self,
        listener: socket.socket,
        certificate: ServerCertificate,
        state: ListenerState,
        make: Callable[[], Served],
    ) -> None:
        """It accepts at once. `make` makes the protocol of each connection."""
        self._listener = listener
        self._certificate = certificate
        self._state = state
        self._make = make
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._serving = True
        self._loop.add_reader(listener, self._accept)

    def secure(self, connected: socket.socket) -> None:
        """Begin the handshake of a connection that was accepted."""
        connected.setblocking(False)
        try:
            handshake = Handshake(connected, self._state, self._make)
        except OSError:  # it has gone already
            connected.close()
            return
        task = self._loop.create_task(handshake.shake(self._certificate))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def is_serving(self) -> bool:
        return self._serving

    def close(self) -> None:
        if self._serving:
            self._serving = False
            self._loop.remove_reader(self._listener)

    async def wait_closed(self) -> None:
        """Nothing is left to close but connections, which their protocols know."""

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connected, _address = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionError:
                continue
            except OSError as error:
                logger.warning("cannot accept connections for {:.0f} s: {}", PAUSE_S, error)
                self._loop.remove_reader(self._listener)
                self._loop.call_later(PAUSE_S, self._resume)
                return
            self.secure(connected)

    def _resume(self) -> None:
        if self._serving:
            self._loop.add_reader(self._listener, self._accept)
