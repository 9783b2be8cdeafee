"""`just client-types`: makes openapi.d.ts, the TypeScript types of the order api's requests and answers, with npm.

They are made from the published contract. The first line has the hash of the schemas in it, so that a test can say when
the types are out of date.
"""

import hashlib
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

GENERATOR: Final = "openapi-typescript@7.13.0"
TYPES: Final = Path(__file__).with_name("openapi.d.ts")
CONTRACT: Final = Path(__file__).parents[2] / "docs/contract/v3/order.openapi.json"


def schemas() -> dict[str, Any]:
    """The part of the contract that becomes types."""
    schemas: dict[str, Any] = json.loads(CONTRACT.read_bytes())["components"]["schemas"]
    return schemas


def first_line() -> str:
    """What openapi.d.ts begins with if it is up to date."""
    digest = hashlib.sha256(json.dumps(schemas(), sort_keys=True).encode()).hexdigest()
    return f"// Made by `just client-types` from the schemas with the sha256 {digest}.\n"


def main() -> None:
    info = {"title": "Tandem orders", "version": "1"}
    part = {"openapi": "3.1.0", "info": info, "paths": {}, "components": {"schemas": schemas()}}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as source:
        json.dump(part, source)
        source.flush()
        command = ["npx", "--yes", GENERATOR, source.name, "--root-types=false"]
        made = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    TYPES.write_text(first_line() + made)


if __name__ == "__main__":
    main()
