"""HTTP/1.1 from below: sends bytes as they are, and takes answers only if they are what RFC 9112 allows."""

import asyncio
import contextlib
import re
import socket
import struct
from typing import Final, NamedTuple

HEAD_BYTES_MAX: Final = 64 * 1024
BODY_BYTES_MAX: Final = 32 * 1024 * 1024
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [\x20-\x7e]*")
_HEADER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\x21-\x7e\x80-\xff](?:[\x20-\x7e\x80-\xff]*)|)")
_RESET: Final = struct.pack("ii", 1, 0)


class NotHttp(Exception):
    """What came is not an HTTP response."""


class Gone(Exception):
    """The server has closed the connection before the first byte of a response."""


class Target(NamedTuple):
    """Where a service listens."""

    host: str
    port: int


class Answer(NamedTuple):
    """A final response. Names of headers are in lower case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def closes(self) -> bool:
        return self.headers.get(b"connection", b"").lower() == b"close"


class Connection:
    """One TCP connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.answers = 0
        self.interim = 0
        """Interim responses, such as `100 Continue`."""

    @classmethod
    async def open(cls, target: Target) -> "Connection":
        return cls(*await asyncio.open_connection(target.host, target.port, limit=HEAD_BYTES_MAX))

    def send(self, part: bytes) -> None:
        """Hand bytes to the kernel. Bytes that the server no longer reads are lost silently."""
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.write(part)

    async def drained(self) -> bool:
        """Wait until the kernel has all bytes. Returns whether it has."""
        try:
            await self._writer.drain()
        except OSError:
            return False
        return not self._writer.is_closing()

    async def answer(self, *, head_only: bool = False) -> Answer:
        """The next final response, past interim ones. Raises `Gone`, `NotHttp`.

        `head_only` for the response to a HEAD, which has no body whatever its header says.
        """
        while True:
            status, headers = await self._head()
            if status >= 200:
                break
            if headers:
                raise NotHttp(f"{status} with headers {headers}")
            self.interim += 1
        body = b"" if head_only or status in (204, 304) else await self._body(headers)
        self.answers += 1
        return Answer(status, headers, body)

    async def _head(self) -> tuple[int, dict[bytes, bytes]]:
        try:
            head = await self._reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise NotHttp(f"ends within a head: {error.partial[:200]!r}") from None
            raise Gone from None
        except asyncio.LimitOverrunError:
            raise NotHttp(f"a head of over {HEAD_BYTES_MAX} bytes") from None
        except OSError:
            raise Gone from None
        first, *lines = head[:-4].split(b"\r\n")
        matched = _STATUS_LINE.fullmatch(first)
        if matched is None:
            raise NotHttp(f"not a status line: {first[:200]!r}")
        headers: dict[bytes, bytes] = {}
        for line in lines:
            header = _HEADER.fullmatch(line)
            if header is None:
                raise NotHttp(f"not a header: {line[:200]!r}")
            name = header[1].lower()
            if name in headers:
                raise NotHttp(f"header {name!r} twice")
            headers[name] = header[2]
        return int(matched[1]), headers

    async def _body(self, headers: dict[bytes, bytes]) -> bytes:
        length, coding = headers.get(b"content-length"), headers.get(b"transfer-encoding")
        if (length is None) is (coding is None):
            raise NotHttp(f"a body framed by content-length {length!r} and transfer-encoding {coding!r}")
        try:
            if length is None:
                return await self._chunks()
            if not length.isdigit() or int(length) > BODY_BYTES_MAX:
                raise NotHttp(f"content-length {length!r}")
            return await self._reader.readexactly(int(length))
        except asyncio.IncompleteReadError as error:
            raise NotHttp(f"ends within a body, after {len(error.partial)} bytes of its last part") from None
        except OSError as error:
            raise NotHttp(f"reset within a body: {error}") from None

    async def _chunks(self) -> bytes:
        body = bytearray()
        while True:
            line = await self._reader.readuntil(b"\r\n")
            try:
                size = int(line[:-2], 16)
            except ValueError:
                raise NotHttp(f"not a chunk size: {line[:100]!r}") from None
            chunk = await self._reader.readexactly(size + 2)
            if chunk[-2:] != b"\r\n":
                raise NotHttp("a chunk longer than its size")
            if size == 0:
                return bytes(body)
            body += chunk[:-2]
            if len(body) > BODY_BYTES_MAX:
                raise NotHttp(f"a body of over {BODY_BYTES_MAX} bytes")

    async def rest(self) -> bytes:
        """What else comes until the server closes the connection."""
        with contextlib.suppress(OSError):
            return await self._reader.read()
        return b""

    def half_close(self) -> None:
        """Close the sending side, and go on reading."""
        with contextlib.suppress(OSError, RuntimeError):
            self._writer.write_eof()

    def close(self) -> None:
        self._writer.close()

    def reset(self) -> None:
        """Break the connection off, as a crashed client's kernel does."""
        end: socket.socket | None = self._writer.get_extra_info("socket")
        if end is not None and not self._writer.is_closing():
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._writer.transport.abort()
