"""The schemas of what the charts make. What a schema does not name is refused, as a strict API server does.

Those of Kubernetes itself come with `kubernetes-validate`, whose own validator takes a second for each document. Those
of custom resources are the operators' own, of which only what the charts use is kept (`vendor/`).

`python -m tests.charts.schemas FOLDER` makes `vendor/*.json` anew from a folder of CustomResourceDefinitions, and
prints the digests for `vendor/README.md`.
"""

import hashlib
import json
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import yaml
from jsonschema_rs import Registry, Validator, validator_for

from tests.charts.render import Document, all_rendered, rendered

KUBERNETES: Final = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / "v1.37.0-local-strict"
VENDOR: Final = Path(__file__).with_name("vendor")
PROJECTS: Final = {
    "kafka.strimzi.io": "strimzi",
    "postgresql.cnpg.io": "cloudnative-pg",
    "keda.sh": "keda",
    "monitoring.coreos.com": "prometheus-operator",
}
"""The file of each group of resources."""
COMMON: Final = ("apiVersion", "kind", "metadata")
"""What a definition leaves to the server."""
Schema = dict[str, Any]
_KEPT: Final = (
    "type", "required", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems",
    "oneOf", "anyOf", "allOf", "not", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields",
)  # fmt: skip


def is_custom(document: Document) -> bool:
    return group(document) in PROJECTS


def group(document: Document) -> str:
    api: str = document["apiVersion"]
    return api.partition("/")[0]


def problems(document: Document) -> list[str]:
    """What the schema of its kind refuses in a document."""
    if is_custom(document):
        validator = _custom().get(f"{document['apiVersion']} {document['kind']}")
        document = {name: value for name, value in document.items() if name not in COMMON}
    else:
        validator = _of_kubernetes(document["apiVersion"], document["kind"])
    if validator is None:
        return [f"no schema in {VENDOR}"]
    return [f"{'.'.join(map(str, e.instance_path))}: {e.message}" for e in validator.iter_errors(document)]


@cache
def _custom() -> dict[str, Validator]:
    schemas = {}
    for name in PROJECTS.values():
        schemas.update(json.loads((VENDOR / f"{name}.json").read_text()))
    return {kind: validator_for(_strict(schema)) for kind, schema in schemas.items()}


@cache
def _of_kubernetes(api: str, kind: str) -> Validator:
    api_group, _, version = api.rpartition("/")
    name = "-".join(filter(None, (kind.lower(), api_group.partition(".")[0], version)))
    schema = json.loads((KUBERNETES / f"{name}.json").read_text()) | {"$id": f"file:///api/{name}.json"}
    return validator_for(schema, registry=_definitions())


@cache
def _definitions() -> Registry:
    return Registry([("file:///api/_definitions.json", json.loads((KUBERNETES / "_definitions.json").read_text()))])


def _strict(schema: Schema) -> Schema:
    """The same schema, which refuses what it does not name, as the server does with `--validate=strict`."""
    strict = dict(schema)
    if strict.pop("x-kubernetes-int-or-string", False):
        strict.pop("type", None)
        strict["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if "properties" in strict:
        strict["properties"] = {name: _strict(of) for name, of in strict["properties"].items()}
        if not strict.pop("x-kubernetes-preserve-unknown-fields", False):
            strict["additionalProperties"] = False
    for inner in ("items", "additionalProperties"):
        if isinstance(strict.get(inner), dict):
            strict[inner] = _strict(strict[inner])
    return strict


def trimmed(schema: Schema, used: Iterable[Any]) -> Schema:
    """A schema with the properties alone that one of the values uses."""
    values = list(used)
    kept: Schema = {name: schema[name] for name in _KEPT if name in schema}
    if "properties" in schema:
        mappings = [value for value in values if isinstance(value, dict)]
        kept["properties"] = {
            name: trimmed(of, [value[name] for value in mappings if name in value])
            for name, of in schema["properties"].items()
            if any(name in value for value in mappings) or name in schema.get("required", ())
        }
    if isinstance(schema.get("additionalProperties"), dict):
        inner = [item for value in values if isinstance(value, dict) for item in value.values()]
        kept["additionalProperties"] = trimmed(schema["additionalProperties"], inner)
    elif "additionalProperties" in schema:
        kept["additionalProperties"] = schema["additionalProperties"]
    if "items" in schema:
        kept["items"] = trimmed(
            schema["items"], [item for value in values if isinstance(value, list) for item in value]
        )
    return kept


def vendor(folder: Path) -> None:
    """Write the trimmed schemas of the definitions in a folder."""
    documents = [d for chart, name in all_rendered() for d in rendered(chart, name) if is_custom(d)]
    schemas: dict[str, dict[str, Schema]] = {name: {} for name in PROJECTS.values()}
    for path in sorted(folder.glob("*.yaml")):
        definition = yaml.safe_load(path.read_text())["spec"]
        for version in definition["versions"]:
            kind = f"{definition['group']}/{version['name']} {definition['names']['kind']}"
            used = [d for d in documents if f"{d['apiVersion']} {d['kind']}" == kind]
            if used:
                schema = trimmed(version["schema"]["openAPIV3Schema"], used)
                for name in COMMON:
                    schema["properties"].pop(name, None)
                schema["required"] = [name for name in schema.get("required", ()) if name not in COMMON]
                schemas[PROJECTS[definition["group"]]][kind] = schema
                print(f"| `{path.name}` | `{hashlib.sha256(path.read_bytes()).hexdigest()}` |")
    for name, of_project in schemas.items():
        path = VENDOR / f"{name}.json"
        path.write_text(json.dumps(of_project, indent=1, sort_keys=True) + "\n")
        print(path.name, hashlib.sha256(path.read_bytes()).hexdigest())


if __name__ == "__main__":
    vendor(Path(sys.argv[1]))
