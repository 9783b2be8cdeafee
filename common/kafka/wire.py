"""Requests that Kafka's protocol has and the client library has not, written byte by byte.

References: Kafka's protocol guide, "The Protocol".
"""

import socket
import struct

from common.errors import Transient
from common.kafka.broker import REQUEST_TIMEOUT_S
from common.kafka.clients import RECEIVE_BYTES_MAX


def request(host: str, port: int, api_key: int, version: int, body: bytes) -> bytes:
    """A broker's answer to one request, without the correlation id. Raises `Transient` when there is none."""
    message = struct.pack(">hhih", api_key, version, 0, -1) + body  # correlation id 0, no client id
    try:
        with (
            socket.create_connection((host, port), timeout=REQUEST_TIMEOUT_S) as connection,
            connection.makefile("rb") as file,
        ):
            connection.sendall(struct.pack(">i", len(message)) + message)
            [size] = struct.unpack(">i", file.read(4))
            if not 4 <= size <= RECEIVE_BYTES_MAX:
                raise OSError(f"its answer would have {size} bytes; is it a broker?")
            answer = file.read(size)
    except (OSError, struct.error) as error:
        raise Transient(f"broker {host}:{port} does not answer: {error}") from error
    if len(answer) < size:
        raise Transient(f"broker {host}:{port} has closed the connection in the middle of its answer")
    return answer[4:]
