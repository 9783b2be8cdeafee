"""`python -m ops.contract [--publish]` compares the documents that the code makes with the published ones.

It says what changed, sentence by sentence, and exits with 1 when that breaks a client, a reader of the events, or the
replay of an old log. Otherwise `--publish` writes the code's documents over the published ones.

A change that has to break somebody makes a new version: raise VERSION in `ops/contract/documents.py` and publish. The
older documents stay, and every log that they describe must be readable for ever.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ops import tool
from ops.contract import documents, events, http
from ops.contract.change import Change
from ops.contract.documents import ASYNCAPI

UNSAID = Change("", "descriptions or examples changed")


def compare(published: Mapping[str, Mapping[str, Any]], made: Mapping[str, Any]) -> list[tuple[str, Change]]:
    """What the code changes, document by document: against today's version in all ways, against older ones in what
    their logs have."""
    found: list[tuple[str, Change]] = []
    latest = published.get(documents.VERSION, {})
    for name, document in latest.items():
        if name not in made:
            found.append((name, Change("", "is gone", "everyone")))
        elif document != made[name]:
            changes = list((events if name == ASYNCAPI else http).changes(document, made[name]))
            if name in documents.OF_OUR_PAGE:
                changes = [change._replace(breaks="") for change in changes]
            found += [(name, change) for change in changes or [UNSAID]]
    found += [(name, Change("", "is new")) for name in made if name not in latest]
    for version, older in published.items():
        if version != documents.VERSION:
            replay = events.breaks_of_replay(older[ASYNCAPI], made[ASYNCAPI])
            found += [(f"{version}/{ASYNCAPI}", change) for change in replay]
    return found


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="contract", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--publish", action="store_true", help="write the documents, unless that breaks somebody")
    chosen = parser.parse_args(arguments)
    made = documents.made()
    return judge(made, documents.FOLDER, publish=chosen.publish)


def judge(made: Mapping[str, Any], folder: Path, *, publish: bool) -> int:
    """Print what changed. Returns 1 when it breaks somebody; otherwise writes the documents, if told so."""
    found = compare(documents.published(folder), made)
    for name, change in found:
        print(f"{name}: {change}")
    broken = [change for _, change in found if change.breaks]
    if broken:
        print(
            f"contract: {len(broken)} of {len(found)} changes break what {documents.VERSION} promises; take them back, "
            "or make a new version ('just contract --help')"
        )
        return 1
    if publish:
        documents.publish(made, folder)
        print(f"contract: {folder / documents.VERSION} is what the code says")
    elif found:
        print("contract: nothing breaks; 'just contract --publish' writes the documents")
    else:
        print(f"contract: {len(made)} documents are as published")
    return 0


if __name__ == "__main__":
    tool.run(main)
