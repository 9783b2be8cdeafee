"""The documents that the code makes, and those that were published."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import inventory.operations
import ops.console.operations
import order.api.operations
import payment.operations
from common.asyncapi.document import document as asyncapi

FOLDER: Final = Path(__file__).resolve().parents[2] / "docs/contract"
VERSION: Final = "v3"
ASYNCAPI: Final = "asyncapi.json"
CONTRACTS: Final = {
    "order": order.api.operations.CONTRACT,
    "payment": payment.operations.CONTRACT,
    "inventory": inventory.operations.CONTRACT,
    "console": ops.console.operations.CONTRACT,
}
"""What the processes offer over HTTP."""
OF_OUR_PAGE: Final = frozenset({"console.openapi.json"})
"""Documents of what only a page of ours asks for: they change with it, and no change of them breaks anybody."""


def made() -> dict[str, Any]:
    """The documents of this code, by file name."""
    documents = {f"{service}.openapi.json": contract.document() for service, contract in CONTRACTS.items()}
    return {ASYNCAPI: as_json(asyncapi()), **documents}


def as_json(document: Mapping[str, Any]) -> Any:
    """The document as a client reads it: with lists for tuples, and texts for the numbers that are names."""
    return json.loads(json.dumps(document))


def published(folder: Path = FOLDER) -> dict[str, dict[str, Any]]:
    """The published documents, by version and file name, up to today's version."""
    versions = sorted((path for path in folder.glob("v*") if path.is_dir()), key=lambda path: int(path.name[1:]))
    return {
        path.name: {file.name: json.loads(file.read_text()) for file in sorted(path.glob("*.json"))}
        for path in versions
    }


def publish(made: Mapping[str, Any], folder: Path = FOLDER) -> None:
    """Write the documents of this version."""
    target = folder / VERSION
    target.mkdir(parents=True, exist_ok=True)
    for name, document in made.items():
        (target / name).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
