"""`python -m ops.people`: makes the issuer's key and the file of API keys, unless they are there. `just up` runs it."""

from collections.abc import Sequence
from pathlib import Path

from common.auth.api_keys import write_key_file
from common.config.env import Env
from common.files import locked, write
from ops import tool
from ops.people.settings import AnotherIssuer, Settings, read_settings


def ensure_issuer(settings: Settings) -> None:
    """Nothing is made where the tokens are those of another issuer."""
    try:
        store = settings.own_issuer()
    except AnotherIssuer:
        print(f"people: tokens come from another issuer, {settings.issuer}")
        return
    made = store.ensure()
    print(f"people: the issuer has a key{', made now' if made else ''}")


def ensure_key_file(path: Path) -> None:
    with locked(path.parent):
        if not path.exists():
            write(path, write_key_file(()).decode(), 0o600)


def main(_: Sequence[str]) -> int:
    settings = read_settings(Env("people"))
    ensure_issuer(settings)
    ensure_key_file(settings.api_keys)
    return 0


if __name__ == "__main__":
    tool.run(main)
