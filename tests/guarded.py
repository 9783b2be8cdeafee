"""Instances that ask who asks (AUTH=on), beside those of a stack that do not, on ports of their own."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx

from common.auth.api_keys import StoredKey, new_key, write_key_file
from common.auth.principal import Scope
from dev.settings import HOST, free_ports
from tests.stack import Instance, Stack
from tests.tokens import ISSUER, Issuer

SERVICES: Final = ("order-api", "payment", "inventory")
NUMBER: Final = 7
"""Of the instances."""


class Guarded:
    """The instances, and those whom they know."""

    def __init__(self, stack: Stack, directory: Path) -> None:
        self.stack = stack
        self.issuer = Issuer()
        self.jwks = directory / "jwks.json"
        self.jwks.write_bytes(self.issuer.jwks())
        self.keys = directory / "keys.json"
        self._keys: dict[str, StoredKey] = {}
        self._write_keys()
        self.ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
        self.http = httpx.Client(timeout=20)

    def settings(self, service: str) -> dict[str, str]:
        return {
            "HTTP_PORT": str(self.ports[service]),
            "AUTH": "on",
            "AUTH_JWKS": str(self.jwks),
            "AUTH_ISSUER": ISSUER,
            "AUTH_KEYS_FILE": str(self.keys),
            "LIMIT_FAILURES": "0",  # all guests have one address
        }

    def instance(self, service: str) -> Instance:
        return self.stack[f"{service}-{NUMBER}"]

    def key(self, subject: str, *scopes: Scope) -> str:
        """A new API key."""
        text, stored = new_key(subject, scopes, datetime.now(UTC))
        self._keys[text] = stored
        self._write_keys()
        return text

    def revoke(self, text: str) -> None:
        del self._keys[text]
        self._write_keys()

    def _write_keys(self) -> None:
        """A file of keys is replaced as a whole."""
        new = self.keys.with_suffix(".new")
        new.write_bytes(write_key_file(self._keys.values()))
        new.rename(self.keys)

    def url(self, service: str, path: str = "") -> str:
        return f"http://{HOST}:{self.ports[service]}{path}"

    def ask(
        self,
        service: str,
        method: str,
        path: str,
        token: str | None = None,
        *,
        body: Any = None,
        headers: Mapping[str, str] = {},
    ) -> httpx.Response:
        """The answer to a request with these credentials. A body that is no text becomes JSON."""
        sent = {"authorization": f"Bearer {token}"} if token is not None else {}
        content = body if isinstance(body, str | None) else json.dumps(body)
        typed = {"content-type": "application/json"} if content is not None else {}
        return self.http.request(method, self.url(service, path), content=content, headers={**typed, **sent, **headers})


@contextmanager
def beside(stack: Stack, settings: Mapping[str, Mapping[str, str]]) -> Iterator[None]:
    """An instance of each of these services, with settings of its own, beside those of a stack, which is left as it
    was."""
    instances = [stack.launch(service, NUMBER, chosen) for service, chosen in settings.items()]
    try:
        for instance in instances:
            instance.await_ready()
        yield
    finally:
        for instance in instances:
            instance.stop()
            del stack.instances[instance.name]


@contextmanager
def guarded(stack: Stack, directory: Path) -> Iterator[Guarded]:
    """Start them, and leave the stack as it was."""
    guarded = Guarded(stack, directory)
    with guarded.http, beside(stack, {service: guarded.settings(service) for service in SERVICES}):
        yield guarded
