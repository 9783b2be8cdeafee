"""Passwords of Kafka's users, each in a file of its own (0600), which clients read again while they run."""

from pathlib import Path

from common.files import write
from common.secrets.passwords import new_password


def password_file(folder: Path, user: str) -> Path:
    return folder / f"kafka-{user}.password"


def ensure_password(folder: Path, user: str) -> str:
    """The user's password, made and written to its file (0600) unless there is one. Raises `OSError`."""
    path = password_file(folder, user)
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write(path, new_line(), 0o600)
    return path.read_text(encoding="utf-8").strip()


def new_line() -> str:
    """The text of a file with a new password."""
    return f"{new_password()}\n"
