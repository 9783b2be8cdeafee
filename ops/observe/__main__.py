"""`python -m ops.observe`: writes the files of Prometheus, Alertmanager and Grafana, and the tables of OPERATIONS.

`python -m ops.observe native FOLDER` writes the files of Prometheus and Alertmanager on this machine (`just observe`).
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from ops import tool
from ops.observe import files
from ops.observe.rules import REAL, WEBHOOK, Pace

DRILL_MIN_S = 20.0
"""In a drill, symptoms last this long before they are reported: so late a cause may be found."""
DRILL_CAUSE_MIN_S = 2.0


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(prog="observe", description=__doc__.splitlines()[0])
    commands = described.add_subparsers(dest="command")
    native = commands.add_parser("native", help="write the files for this machine")
    native.add_argument("folder", type=Path)
    native.add_argument("--targets", required=True, metavar="FILE", help="the admin ports of the instances")
    native.add_argument("--console", required=True, metavar="HOST:PORT", help="the admin port of the console")
    native.add_argument("--alertmanager", required=True, metavar="HOST:PORT")
    native.add_argument("--authority", metavar="FILE", help="by which instances are verified; without it, plain HTTP")
    native.add_argument("--webhook", default=WEBHOOK, metavar="URL", help="where alerts are sent (%(default)s)")
    native.add_argument("--factor", type=int, default=1, metavar="N", help="divide all times by it, for a drill")
    return described


def main(arguments: Sequence[str]) -> int:
    chosen = parser().parse_args(arguments)
    if chosen.command == "native":
        pace = REAL if chosen.factor == 1 else Pace(chosen.factor, DRILL_MIN_S, DRILL_CAUSE_MIN_S)
        texts = files.native(
            chosen.targets, chosen.console, chosen.alertmanager, chosen.webhook, pace, chosen.authority
        )
        write({chosen.folder / name: text for name, text in texts.items()})
    else:
        for path in write({files.ROOT / path: text for path, text in files.texts().items()}):
            print(path.relative_to(files.ROOT))
    return 0


def write(texts: Mapping[Path, str]) -> list[Path]:
    """Write what has changed. Returns its paths."""
    changed = [path for path, text in texts.items() if not path.exists() or path.read_text() != text]
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts[path])
    return changed


if __name__ == "__main__":
    tool.run(main)
