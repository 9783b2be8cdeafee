"""Inventory's settings."""

from common.config.env import Env
from common.config.process import Process, process_settings


def load(env: Env | None = None) -> Process:
    """Read the settings. Raises `Fatal`."""
    return process_settings(env or Env("inventory"), database="INVENTORY_DATABASE_URL", port=8083)
