"""Payment's settings."""

from common import config
from common.config import Env, Process


def load(env: Env | None = None) -> Process:
    """Read the settings. Raises `Fatal`."""
    return config.process(env or Env("payment"), database="PAYMENT_DATABASE_URL", port=8082)
