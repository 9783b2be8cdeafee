"""All files that are made from this package, and their texts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ops.observe import rules, scrape
from ops.observe.dashboards import DASHBOARDS, as_json
from ops.observe.reference import with_tables
from ops.observe.rules import Pace

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = "ops/observe/files"
OPERATIONS: Final = "docs/OPERATIONS.md"
MADE: Final = "# Made by `python -m ops.observe`; change ops/observe/*.py instead.\n"


def texts() -> dict[str, str]:
    """Every made file, by its path from the root, and what it must hold."""
    yamls = {
        "prometheus.yml": scrape.prometheus_compose(),
        "prometheus-secure.yml": scrape.prometheus_compose(secure=True),
        "rules.yml": rules.rules(),
        "alertmanager.yml": rules.routes("http://host.docker.internal:9096/"),
        "grafana-source.yml": scrape.GRAFANA_SOURCE,
        "grafana-dashboards.yml": scrape.GRAFANA_DASHBOARDS,
    }
    made = {f"{FOLDER}/{name}": MADE + yaml(content) for name, content in yamls.items()}
    for dashboard in DASHBOARDS:
        text = json.dumps(as_json(dashboard), indent=2, ensure_ascii=False) + "\n"
        made[f"{FOLDER}/dashboards/{dashboard.uid}.json"] = text
    return made | {OPERATIONS: with_tables((ROOT / OPERATIONS).read_text())}


def native(
    targets: str, console: str, alertmanager: str, webhook: str, pace: Pace, authority: str | None = None
) -> dict[str, str]:
    """The files of Prometheus and Alertmanager beside the native stack, by name."""
    every_s = max(1, round(scrape.SCRAPE_EVERY_S / pace.factor))
    contents = {
        "prometheus.yml": scrape.prometheus_native(
            targets=targets, console=console, alertmanager=alertmanager, every_s=every_s, authority=authority
        ),
        "rules.yml": rules.rules(pace),
        "alertmanager.yml": rules.routes(webhook, pace),
    }
    return {name: yaml(content) for name, content in contents.items()}


def yaml(value: Any) -> str:
    """Dictionaries, lists, texts and numbers as YAML. Texts are quoted as in JSON, which YAML reads too."""
    return "".join(f"{line}\n" for line in _lines(value))


def _lines(value: Any) -> list[str]:
    lines: list[str] = []
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            lines += _nested(f"{key}:", _lines(item), item)
    elif isinstance(value, Sequence) and not isinstance(value, str) and value:
        for item in value:
            first, *rest = _lines(item)
            lines += [f"- {first}", *(f"  {line}" for line in rest)]
    else:
        lines = [json.dumps(value, ensure_ascii=False)]
    return lines


def _nested(head: str, lines: list[str], item: Any) -> list[str]:
    is_block = isinstance(item, Mapping | list | tuple) and len(item) > 0
    return [head, *(f"  {line}" for line in lines)] if is_block else [f"{head} {lines[0]}"]
