"""Payment's settings."""

from typing import Final

from common import config
from common.config import Env, Process

DATABASE: Final = "PAYMENT_DATABASE_URL"
PORT: Final = 8082


def load(env: Env | None = None) -> Process:
    """Read the settings. Raises `Fatal`."""
    return config.process(env or Env("payment"), database=DATABASE, port=PORT)
