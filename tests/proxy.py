"""A TCP proxy before a real server. A test can cut its connections, slow them down, or leave them open and silent."""

import contextlib
import socket
import threading
import time

from dev.settings import HOST

CHUNK_BYTES = 65_536


class Proxy:
    """Passes connections on to `target_port`."""

    def __init__(self, port: int, target_port: int, *, host: str = HOST) -> None:
        """It listens on `host`, which may be another address of the loopback."""
        self.host, self.port = host, port
        self._target = (HOST, target_port)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._delay_s = 0.0
        self._bytes_per_s = 0
        self._silent = False
        self.restore()

    def restore(self) -> None:
        """Accept connections (again)."""
        if self._listener is None:
            listener = socket.create_server((self.host, self.port), reuse_port=False)
            self._listener = listener
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """Refuse new connections and break the open ones."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.reset()

    def reset(self) -> None:
        """Break the open connections; new ones are accepted."""
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def slow(self, *, delay_s: float = 0.0, bytes_per_s: int = 0) -> None:
        """Delay each piece by `delay_s`, and pass at most `bytes_per_s` (0: no limit)."""
        self._delay_s, self._bytes_per_s = delay_s, bytes_per_s

    def silence(self) -> None:
        """Keep connections open and accept new ones, but drop every byte."""
        self._silent = True

    def speak(self) -> None:
        """End the silence, and break the connections that have lost bytes in it."""
        self._silent = False
        self.reset()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            threading.Thread(target=self._connect, args=(client, server), daemon=True).start()

    def _connect(self, client: socket.socket, server: socket.socket) -> None:
        """Pass on both ways until either end is closed.

        A socket is closed when neither thread uses it any more: its number may be given to a new one at once, from
        which a thread just before its `recv` would then take the bytes.
        """
        with client, server:
            with self._lock:
                self._open |= {client, server}
            back = threading.Thread(target=self._pass_on, args=(server, client), daemon=True)
            back.start()
            self._pass_on(client, server)
            back.join()
            with self._lock:
                self._open -= {client, server}

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while received := source.recv(CHUNK_BYTES):
                if self._silent:
                    continue
                if self._delay_s or self._bytes_per_s:
                    time.sleep(self._delay_s + (len(received) / self._bytes_per_s if self._bytes_per_s else 0))
                sink.sendall(received)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
