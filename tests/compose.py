"""The services of Compose's files, as Compose puts them together."""

from typing import Any

import yaml

from dev.settings import ROOT

Service = dict[str, Any]


def services(*files: str) -> dict[str, Service]:
    """The services of these files, each put over those before it."""
    together: dict[str, Service] = {}
    for file in files:
        for name, service in _read(file).items():
            together[name] = _put_over(together.get(name, {}), _extended(service))
    return together


def _read(file: str) -> dict[str, Service]:
    read: dict[str, Service] = yaml.safe_load((ROOT / file).read_text())["services"]
    return read


def _extended(service: Service) -> Service:
    """With what it extends, as in docker-compose.yml: by a path from the root, in every file."""
    if (base := service.get("extends")) is None:
        return service
    own = {key: value for key, value in service.items() if key != "extends"}
    return _put_over(_extended(_read(base["file"])[base["service"]]), own)


def _put_over(before: Service, service: Service) -> Service:
    """What the later one says counts. Of their variables, both have theirs."""
    variables = before.get("environment", {}) | (service.get("environment") or {})
    return before | service | ({"environment": variables} if variables else {})
