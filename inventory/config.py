"""Inventory's settings."""

from common import config
from common.config import Env, Process


def load() -> Process:
    """Read them from the environment. Raises `Fatal`."""
    return config.process(Env("inventory"), database="INVENTORY_DATABASE_URL", port=8083)
