"""Where the issuer's keys and the API keys are, from the environment."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.config.env import Env
from common.errors import Fatal
from ops.people.issuer import Key, Store, signed


class AnotherIssuer(Fatal):
    """Tokens come from an issuer that is not the stack's own."""


@dataclass(frozen=True)
class Settings:
    """The issuer's name, for whom its tokens are, the files of its keys, and the file of API keys."""

    issuer: str
    audience: str
    jwks: str
    private: Path
    api_keys: Path

    def own_issuer(self) -> Store:
        """The stack's own issuer. Raises `AnotherIssuer` if tokens come from that, and `Fatal` if nobody can tell."""
        store = Store(self.private, Path(self.jwks))
        if self.jwks.startswith(("http://", "https://")) or not store.is_own():
            raise AnotherIssuer(f"AUTH_JWKS={self.jwks!r} has the keys of another issuer ({self.issuer}): ask that one")
        return store

    def token(self, key: Key, subject: str, scopes: Sequence[str], ttl_s: int, jti: str = "") -> str:
        """A token that expires in `ttl_s`; `jti` is its id, by default a new one."""
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": self.audience,
            "sub": subject,
            "scope": " ".join(scopes),
            "iat": now,
            "exp": now + ttl_s,
            "jti": jti or str(uuid.uuid4()),
        }
        return signed(key, claims)


def read_settings(env: Env) -> Settings:
    """Raises `Fatal`."""
    return Settings(
        issuer=env.text("AUTH_ISSUER"),
        audience=env.text("AUTH_AUDIENCE", "tandem"),
        jwks=env.text("AUTH_JWKS"),
        private=Path(env.text("AUTH_ISSUER_FILE")),
        api_keys=Path(env.text("AUTH_KEYS_FILE")),
    )
