"""Requests that Kafka's protocol has and the client library has not, written byte by byte.

References: Kafka's protocol guide, "The Protocol" and "SASL Authentication Sequence".
"""

import socket
import ssl
import struct
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BufferedRWPair
from typing import Final

from common.config.kafka import Brokers
from common.errors import Fatal, Transient
from common.kafka import scram
from common.kafka.broker import REQUEST_TIMEOUT_S
from common.kafka.clients import RECEIVE_BYTES_MAX, SASL_MECHANISM
from common.secrets.change import files_to_try

API_VERSIONS: Final = 18
"""A request that every broker answers to everybody who is let in."""
_SASL_HANDSHAKE: Final = 17
_SASL_AUTHENTICATE: Final = 36


class Fields:
    """The fields of an answer in a flexible version of Kafka's protocol, one after the other. Its methods raise
    `IndexError` and `struct.error` when there are no more."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._at = 0

    def take(self, layout: str) -> int:
        """A number in a layout of `struct`."""
        [value] = struct.unpack_from(f">{layout}", self._answer, self._at)
        self._at += struct.calcsize(f">{layout}")
        return int(value)

    def varint(self) -> int:
        value = shift = 0
        while (byte := self.take("B")) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
        return value | byte << shift

    def each(self) -> range:
        """For each entry of an array; none for one that is null."""
        return range(self.varint() - 1)

    def text(self) -> str:
        """A text; an empty one for null."""
        return self.skip(max(0, self.varint() - 1)).decode()

    def skip(self, length: int) -> bytes:
        self._at += length
        return self._answer[self._at - length : self._at]

    def skips(self, expected: bytes) -> bool:
        """Whether these bytes are next; then they are skipped."""
        found = self._answer.startswith(expected, self._at)
        self._at += len(expected) * found
        return found

    def skip_tags(self) -> None:
        for _ in range(self.varint()):
            self.varint()
            self.skip(self.varint())


def varint(value: int) -> bytes:
    """An unsigned number in groups of seven bits, the lowest first."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def text(value: str) -> bytes:
    """A text of a request."""
    encoded = value.encode()
    return varint(len(encoded) + 1) + encoded


def request(brokers: Brokers, host: str, port: int, api_key: int, version: int, body: bytes) -> bytes:
    """A broker's answer to one request, without the correlation id. Raises `Transient` when there is none, also when
    the broker refuses the user."""
    refusals = []
    for password in passwords(brokers):
        try:
            with _connected(brokers, host, port, password) as stream:
                return _exchange(stream, api_key, version, body)
        except scram.Refused as refusal:
            refusals.append(refusal)
        except (OSError, struct.error) as error:
            raise Transient(f"broker {host}:{port} does not answer: {error}") from error
    raise Transient(f"broker {host}:{port} does not take user {brokers.username!r}: {refusals[0]}") from refusals[0]


def passwords(brokers: Brokers) -> Iterator[str]:
    """The passwords to show, one after the other; one, which is empty, where none is asked for. Raises `Fatal`."""
    if brokers.password_file is None:
        yield ""
        return
    for file in files_to_try(brokers.password_file):
        try:
            password = replace(brokers, password_file=file).password()
        except Fatal:
            if file == brokers.password_file:
                raise
            continue  # the change has ended meanwhile
        yield password


@contextmanager
def _connected(brokers: Brokers, host: str, port: int, password: str) -> Iterator[BufferedRWPair]:
    """A connection that a broker takes requests on."""
    with _encrypted(brokers, host, port) as stream:
        if brokers.protocol == "SASL_SSL":
            _authenticate(stream, brokers.username, password)
        yield stream


@contextmanager
def _encrypted(brokers: Brokers, host: str, port: int) -> Iterator[BufferedRWPair]:
    connection = socket.create_connection((host, port), timeout=REQUEST_TIMEOUT_S)
    if brokers.protocol != "PLAINTEXT":
        with connection:  # which the wrapping takes over
            connection = tls(brokers).wrap_socket(connection, server_hostname=host)
    with connection, connection.makefile("rwb") as stream:
        yield stream


def tls(brokers: Brokers) -> ssl.SSLContext:
    """How a client of these brokers encrypts, and verifies them. Raises `OSError` when a file cannot be used."""
    context = ssl.create_default_context(cafile=brokers.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if brokers.cert_file is not None:
        context.load_cert_chain(brokers.cert_file, brokers.key_file)
    return context


def login(username: str, password: str) -> Generator[tuple[int, int, bytes], bytes, None]:
    """How a connection logs in. Yields each request (its key, version and body), and takes the answer to it. Raises
    `scram.Refused`, and `struct.error` for an answer that is too short."""
    mechanism = SASL_MECHANISM.encode()
    answer = yield _SASL_HANDSHAKE, 1, struct.pack(">h", len(mechanism)) + mechanism
    if error := struct.unpack_from(">h", answer)[0]:
        raise scram.Refused(f"it does not speak {SASL_MECHANISM} (error {error} of Kafka's protocol)")
    messages = scram.authentication(username, password)
    message: bytes | None = next(messages)
    while message is not None:
        answer = yield _SASL_AUTHENTICATE, 0, struct.pack(">i", len(message)) + message
        error, length = struct.unpack_from(">hh", answer)
        at = 4 + max(0, length)
        if error:
            raise scram.Refused(answer[4:at].decode(errors="replace") or f"error {error} of Kafka's protocol")
        [size] = struct.unpack_from(">i", answer, at)
        try:
            message = messages.send(answer[at + 4 : at + 4 + size])
        except StopIteration:
            message = None


def _authenticate(stream: BufferedRWPair, username: str, password: str) -> None:
    requests = login(username, password)
    asked: tuple[int, int, bytes] | None = next(requests)
    while asked is not None:
        try:
            asked = requests.send(_exchange(stream, *asked))
        except StopIteration:
            asked = None


def _exchange(stream: BufferedRWPair, api_key: int, version: int, body: bytes) -> bytes:
    """The answer to a request, without the correlation id. Raises `OSError` and `struct.error`."""
    message = struct.pack(">hhih", api_key, version, 0, -1) + body  # correlation id 0, no client id
    stream.write(struct.pack(">i", len(message)) + message)
    stream.flush()
    [size] = struct.unpack(">i", stream.read(4))
    if not 4 <= size <= RECEIVE_BYTES_MAX:
        raise OSError(f"its answer would have {size} bytes; is it a broker?")
    answer = stream.read(size)
    if len(answer) < size:
        raise OSError("it has closed the connection in the middle of its answer")
    return answer[4:]
