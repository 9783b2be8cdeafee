"""The client's side of SCRAM-SHA-512, which shows that a user knows a password without sending it.

References: RFC 5802 and RFC 7677; Kafka takes no channel binding.
"""

import base64
import hashlib
import hmac
import secrets
from collections.abc import Generator
from typing import Final

ALGORITHM: Final = "sha512"
ITERATIONS_MAX: Final = 1_000_000
"""A server that asks for more would keep the client busy for seconds."""


class Refused(Exception):
    """The server does not take the password, or does not know it itself."""


def authentication(username: str, password: str) -> Generator[bytes, bytes, None]:
    """Show the password to a server, and check that the server knows it too. Yields each message to send, and takes the
    server's answer to it. Raises `Refused`."""
    nonce = secrets.token_urlsafe(24)
    first = f"n={username.replace('=', '=3D').replace(',', '=2C')},r={nonce}"
    answer = (yield f"n,,{first}".encode()).decode()
    fields = _fields(answer)
    try:
        server_nonce, salt, iterations = fields["r"], base64.b64decode(fields["s"], validate=True), int(fields["i"])
    except (KeyError, ValueError) as error:
        raise Refused(f"its answer is not SCRAM's: {error}") from error
    if not server_nonce.startswith(nonce) or not 0 < iterations <= ITERATIONS_MAX:
        raise Refused("its answer does not belong to this exchange")
    salted = hashlib.pbkdf2_hmac(ALGORITHM, password.encode(), salt, iterations)
    last = f"c=biws,r={server_nonce}"  # "n,," in base64
    signed = f"{first},{answer},{last}".encode()
    client_key = _hmac(salted, b"Client Key")
    signature = _hmac(hashlib.new(ALGORITHM, client_key).digest(), signed)
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    final = _fields((yield f"{last},p={base64.b64encode(proof).decode()}".encode()).decode())
    expected = base64.b64encode(_hmac(_hmac(salted, b"Server Key"), signed)).decode()
    if not hmac.compare_digest(final.get("v", ""), expected):
        raise Refused(f"it does not know the password: {final.get('e', 'its signature is wrong')}")


def _fields(message: str) -> dict[str, str]:
    return {name: value for name, _, value in (part.partition("=") for part in message.split(","))}


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, ALGORITHM).digest()
