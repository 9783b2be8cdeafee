"""Renders the charts, with Helm itself (its library comes in a wheel).

`python -m tests.charts.render CHART VALUES` prints the documents of a value set, for `kubectl apply`. With `--pods`, it
prints a pod of each template instead: an API server refuses a pod, and no Deployment, for the Pod Security Standard.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, Final

import helm_python
import yaml

from dev.settings import ROOT

NAMESPACE: Final = "shop"
CHARTS: Final = ROOT / "deploy"
SETS: Final = {"platform": ("small", "production"), "tandem": ("small", "production", "secured-external")}
"""The value sets of each chart, in its folder `ci`. The third brings its own Kafka and databases."""

Document = dict[str, Any]


def values(chart: str, name: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((CHARTS / chart / "ci" / f"{name}.yaml").read_text())
    return read


def render(chart: str, given: Mapping[str, Any]) -> list[Document]:
    """All documents. Raises `HelmError` for values that the schema refuses, or that a template does."""
    with helm_python.Chart.load(CHARTS / chart) as loaded:
        loaded.validate_schema(dict(given))
        texts = loaded.render(dict(given), name="tandem", namespace=NAMESPACE)
    return [document for text in texts.values() for document in yaml.safe_load_all(text) if document]


@cache
def rendered(chart: str, name: str) -> tuple[Document, ...]:
    """The documents of a value set. Nobody may change them."""
    return tuple(render(chart, values(chart, name)))


def all_rendered() -> Iterator[tuple[str, str]]:
    """Every chart with each of its value sets."""
    return ((chart, name) for chart, names in SETS.items() for name in names)


def pod_of(document: Document) -> Document | None:
    """The pod's spec that a document has a template for."""
    pod: Document | None = document.get("spec", {}).get("template", {}).get("spec")
    return pod if document["kind"] in ("Deployment", "Job", "StatefulSet", "DaemonSet") else None


def pods(documents: Iterable[Document]) -> Iterator[Document]:
    """A pod of each template, as a controller would make it."""
    for document in documents:
        if (spec := pod_of(document)) is not None:
            metadata = {"name": document["metadata"]["name"], **document["spec"]["template"]["metadata"]}
            yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


if __name__ == "__main__":
    chart_name, values_name, *options = sys.argv[1:]
    made = rendered(chart_name, values_name)
    print(yaml.safe_dump_all(pods(made) if options == ["--pods"] else made))
