"""How a process learns who asks."""

import re
from dataclasses import dataclass
from pathlib import Path

from common.config.env import LOOPBACK, Env


@dataclass(frozen=True, slots=True)
class Auth:
    """How requests say who asks: by tokens of `issuer` for `audience`, by API keys, or both."""

    issuer: str
    """The `iss` of its tokens; empty without keys of an issuer."""
    audience: str
    jwks_file: Path | None
    jwks_url: str | None
    keys_file: Path | None
    leeway_s: int
    """By how much clocks may differ."""
    remembered_max: int = 50_000
    """How many principals a process remembers, each with some `common.auth.remembered.ENTRY_BYTES`."""


def auth(env: Env, host: str) -> Auth | None:
    """None with AUTH=off, which only a process on the loopback may have."""
    jwks = env.optional("AUTH_JWKS")
    is_url = jwks is not None and jwks.startswith(("https://", "http://"))
    if is_url and not re.match(r"https://|http://(127\.0\.0\.1|localhost|\[::1\])[:/]", str(jwks)):
        raise env.error(f"AUTH_JWKS={jwks!r} must be a path or an https URL: whoever can change keys can be anybody")
    keys_file = env.optional("AUTH_KEYS_FILE")
    settings = Auth(
        issuer=env.optional("AUTH_ISSUER") or "",
        audience=env.text("AUTH_AUDIENCE", "tandem"),
        jwks_file=env.file("AUTH_JWKS") if jwks is not None and not is_url else None,
        jwks_url=env.http_url("AUTH_JWKS", "") if is_url else None,
        keys_file=None if keys_file is None else env.file("AUTH_KEYS_FILE"),
        leeway_s=env.integer("AUTH_LEEWAY_S", 30, least=0, most=300, unit="s"),
        remembered_max=env.integer("AUTH_REMEMBERED_MAX", 50_000, least=1_000, most=1_000_000, unit="principals"),
    )
    if env.choice("AUTH", "on", ("on", "off")) == "off":
        if host not in LOOPBACK:
            raise env.error(
                f"AUTH=off on {host}: deposits and restocks create value, so a process that others can reach must know "
                "who asks; set AUTH=on, or keep HTTP_HOST=127.0.0.1"
            )
        return None
    lacking = ""
    if jwks is None and keys_file is None:
        lacking = "AUTH_JWKS (with AUTH_ISSUER) for tokens, or AUTH_KEYS_FILE for API keys; 'just up' makes both"
    elif jwks is not None and not settings.issuer:
        lacking = "AUTH_ISSUER, the iss of the tokens that the keys of AUTH_JWKS sign"
    if lacking:
        raise env.error(f"AUTH=on needs {lacking}")
    return settings
