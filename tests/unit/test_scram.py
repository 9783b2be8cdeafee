"""A password is shown without being sent, and the server has to know it too."""

import base64
import hashlib
import hmac
from collections.abc import Callable

import pytest

from common.kafka import scram
from common.kafka.scram import Refused, authentication

SALT = b"salt of the user"


def mac(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, "sha512").digest()


def authenticate(username: str, password: str, exchange: Callable[[bytes], bytes]) -> None:
    messages = authentication(username, password)
    message: bytes | None = next(messages)
    while message is not None:
        try:
            message = messages.send(exchange(message))
        except StopIteration:
            message = None


class Server:
    """Knows one password, by the words of RFC 5802."""

    def __init__(self, password: str, *, nonce: str = "", iterations: int = 4096) -> None:
        self.salted = hashlib.pbkdf2_hmac("sha512", password.encode(), SALT, 4096)
        self.nonce, self.iterations = nonce, iterations
        self.sent: list[bytes] = []

    def exchange(self, message: bytes) -> bytes:
        self.sent.append(message)
        if len(self.sent) == 1:
            self.first = message.decode().removeprefix("n,,")
            nonce = self.nonce or self.first.partition(",r=")[2] + "server"
            self.answer = f"r={nonce},s={base64.b64encode(SALT).decode()},i={self.iterations}"
            return self.answer.encode()
        last, _, proof = message.decode().rpartition(",p=")
        signed = f"{self.first},{self.answer},{last}".encode()
        stored = hashlib.sha512(mac(self.salted, b"Client Key")).digest()
        client_key = bytes(a ^ b for a, b in zip(base64.b64decode(proof), mac(stored, signed), strict=True))
        if hashlib.sha512(client_key).digest() != stored:
            return b"e=invalid-proof"
        return b"v=" + base64.b64encode(mac(mac(self.salted, b"Server Key"), signed))


def test_who_knows_the_password_is_taken_and_does_not_send_it() -> None:
    server = Server("the-password")
    authenticate("a=b,c", "the-password", server.exchange)
    assert server.sent[0].startswith(b"n,,n=a=3Db=2Cc,r=")
    assert b"the-password" not in b"".join(server.sent)


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (Server("another"), "it does not know the password: invalid-proof"),
        (Server("mine", nonce="of another exchange"), "does not belong to this exchange"),
        (Server("mine", iterations=scram.ITERATIONS_MAX + 1), "does not belong to this exchange"),
    ],
)
def test_a_server_that_does_not_agree_is_refused(server: Server, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        authenticate("me", "mine", server.exchange)


@pytest.mark.parametrize("answer", [b"", b"r=,s=,i=", b"e=unknown-user", b"nonsense"])
def test_an_answer_that_is_not_scram_is_refused(answer: bytes) -> None:
    with pytest.raises(Refused):
        authenticate("me", "mine", lambda _: answer)


def test_a_server_that_only_says_yes_is_refused() -> None:
    server = Server("mine")
    with pytest.raises(Refused, match="its signature is wrong"):
        authenticate("me", "mine", lambda message: server.exchange(message) if not server.sent else b"v=yes")
