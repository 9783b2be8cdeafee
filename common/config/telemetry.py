"""What a process tells of itself: its log and its traces."""

import sys
from dataclasses import dataclass
from typing import Final

from common.config.env import Env
from common.tracing.export import check_installed

LOG_LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LOG_FORMATS: Final = ("json", "text")


@dataclass(frozen=True, slots=True)
class Logs:
    """The least level that a process logs, and the format."""

    level: str
    format: str


def logs(env: Env) -> Logs:
    """Text for a terminal, JSON for all else, unless told otherwise. Raises `Fatal`."""
    level = env.text("LOG_LEVEL", "INFO")
    if level.upper() not in LOG_LEVELS:
        raise env.error(f"LOG_LEVEL={level!r} must be one of {', '.join(LOG_LEVELS)}")
    for_people = sys.stdout is not None and sys.stdout.isatty()  # a closed one is None
    return Logs(level.upper(), env.choice("LOG_FORMAT", "text" if for_people else "json", LOG_FORMATS))


@dataclass(frozen=True, slots=True)
class Tracing:
    """The share of orders whose spans are sent, above 0 up to 1, and the base URL of the collector."""

    share: float
    endpoint: str


def tracing(env: Env) -> Tracing | None:
    """None when tracing is off. The endpoint then does not matter: other programs use its variable too."""
    share = env.share("TRACE_SAMPLE", "0")
    env.names.add("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not share:
        return None
    endpoint = env.http_url("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    check_installed(f"{env.service}: TRACE_SAMPLE={share:g}" if env.service else f"TRACE_SAMPLE={share:g}")
    return Tracing(share, endpoint)
