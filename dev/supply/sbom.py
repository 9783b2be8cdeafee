"""`python -m dev.supply.sbom [FILE]`: a bill of materials in CycloneDX 1.6, checked against its schema.

It lists everything that is pinned in this repository: the Python packages of the lock files with their hashes, the
broker's jars, the files of browser libraries, and the container images. `required` is what a service needs, `optional`
what one way of running it needs, and `excluded` what tests and tools need.

References: CycloneDX 1.6 (ECMA-424), package URLs.
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Final

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.contact import OrganizationalEntity
from cyclonedx.model.license import License
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from common.errors import Fatal
from common.terminal import complain
from dev.servers import jars as broker
from dev.servers import secure_postgres
from dev.settings import ROOT
from dev.stack import caller

VERSION: Final = SchemaVersion.V1_6
LOCK_FILES: Final = {
    "requirements.txt": ComponentScope.REQUIRED,
    "requirements-otel.txt": ComponentScope.OPTIONAL,
    "requirements-dev.txt": ComponentScope.EXCLUDED,
}
_PACKAGE: Final = re.compile(
    r"^([\w.-]+)==([^\s;]+)([^\n]*\\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)
_HASH: Final = re.compile(r"sha256:([0-9a-f]{64})")
_VENDORED: Final = re.compile(
    r"^\| `([^`]+)` \| (?:(npm|PyPI|GitHub|Go) `([^`]+)` ([\d.]+))?.* \| `([0-9a-f]{64})` \|$", re.MULTILINE
)
_IMAGE: Final = re.compile(r"^(?: *image:|FROM) ([\w./-]+):([\w.-]+)(?:@sha256:([0-9a-f]{64}))?", re.MULTILINE)
_TYPES: Final = {"npm": "npm", "PyPI": "pypi", "GitHub": "github", "Go": "golang"}
FAILED: Final = 2
LICENSE_CHARS_MAX: Final = 80
"""Some packages give the whole text of their licence as its name."""


def sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)


def component(purl: PackageURL, scope: ComponentScope, **more: object) -> Component:
    """A component that its package URL identifies."""
    values: dict[str, object] = {"type": ComponentType.LIBRARY, "group": purl.namespace, **more}
    return Component(
        name=purl.name, version=purl.version, purl=purl, bom_ref=purl.to_string(), scope=scope,
        **values,  # type: ignore[arg-type]
    )  # fmt: skip


def python_packages(lock_files: Mapping[str, ComponentScope] = LOCK_FILES, root: Path = ROOT) -> Iterator[Component]:
    """The packages of the lock files, each once, with the hashes of its files."""
    listed = set()
    for file, scope in lock_files.items():
        text = (root / file).read_text()
        packages = _PACKAGE.findall(text)
        if len(packages) != len(re.findall(r"^[\w.-]+==", text, re.MULTILINE)):
            raise Fatal(f"sbom: {file} has a package without hashes; 'just lock' makes it anew")
        for name, version, hashes in packages:
            if name in listed:
                continue
            listed.add(name)
            files = ExternalReference(
                type=ExternalReferenceType.DISTRIBUTION,
                url=XsUri(f"https://pypi.org/project/{name}/{version}/#files"),
                hashes=map(sha256, _HASH.findall(hashes)),
            )
            purl = PackageURL("pypi", name=name, version=version)
            yield component(purl, scope, external_references=[files], licenses=licences(name))


def licences(name: str) -> list[License]:
    """The licence that the installed package states, if it is installed and states one."""
    try:
        stated = metadata(name).json
    except PackageNotFoundError:
        return []
    text = str(stated.get("license_expression") or stated.get("license") or "")
    if not text or len(text) > LICENSE_CHARS_MAX or "\n" in text:
        return []
    return [LicenseFactory().make_from_string(text)]


def jars() -> Iterator[Component]:
    """The jars of the broker and of PostgreSQL with OpenSSL, which the native stack runs."""
    for coordinate, digest in (broker.pinned() | secure_postgres.pinned()).items():
        group, artifact, version = coordinate.split(":")
        purl = PackageURL("maven", namespace=group, name=artifact, version=version)
        yield component(purl, ComponentScope.OPTIONAL, hashes=[sha256(digest)])


def vendored(root: Path = ROOT) -> Iterator[Component]:
    """The packages from which files were copied, each with its files. Raises `Fatal` for a file of no package."""
    for readme in sorted(root.glob("*/**/vendor/README.md")):
        folder = readme.parent.relative_to(root)
        scope = ComponentScope.EXCLUDED if folder.parts[0] == "tests" else ComponentScope.REQUIRED
        files: dict[PackageURL, list[Component]] = {}
        purl: PackageURL | None = None
        for name, registry, package, version, digest in _VENDORED.findall(readme.read_text()):
            if registry:
                namespace, _, name_in_it = package.rpartition("/")
                purl = PackageURL(_TYPES[registry], namespace=namespace or None, name=name_in_it, version=version)
            if purl is None:
                raise Fatal(f"sbom: {readme.relative_to(root)} does not say from which package {name} is")
            path = f"{folder}/{name}"
            file = Component(type=ComponentType.FILE, name=path, bom_ref=path, hashes=[sha256(digest)])
            files.setdefault(purl, []).append(file)
        for purl, parts in files.items():
            yield component(purl, scope, components=parts)


def images(root: Path = ROOT) -> Iterator[Component]:
    """The container images that are named by the Dockerfile, by Compose and by the charts."""
    named: dict[tuple[str, str], str] = {}
    for file in ("Dockerfile", "docker-compose.yml", "dev/containers/broker.yml", "deploy/platform/values.yaml"):
        for image, tag, digest in _IMAGE.findall((root / file).read_text()):
            named[image, tag] = digest
    for (image, tag), digest in sorted(named.items()):
        *registry, path = re.split(r"(?<=\.\w\w)/|(?<=\.\w\w\w)/", image, maxsplit=1)
        namespace, _, name = path.rpartition("/")
        where = {"repository_url": registry[0]} if registry else None
        purl = PackageURL("docker", namespace=namespace or None, name=name, version=tag, qualifiers=where)
        hashes = [sha256(digest)] if digest else []
        yield component(purl, ComponentScope.OPTIONAL, type=ComponentType.CONTAINER, hashes=hashes)


def bill(components: Iterable[Component], version: str) -> Bom:
    """The bill of materials of this version."""
    bom = Bom(components=components)
    bom.metadata.component = Component(
        type=ComponentType.APPLICATION, name="tandem", version=version, bom_ref="tandem",
        supplier=OrganizationalEntity(name="Tandem"),
    )  # fmt: skip
    bom.register_dependency(bom.metadata.component, bom.components)
    return bom


def document() -> str:
    """The bill as JSON. Raises `Fatal` when it does not keep to the schema."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    bom = bill([*python_packages(), *jars(), *vendored(), *images()], version)
    text = make_outputter(bom, OutputFormat.JSON, VERSION).output_as_string(indent=2)
    if problem := JsonStrictValidator(VERSION).validate_str(text):
        raise Fatal(f"sbom: this is a bug of Tandem, the bill is not valid: {problem}")
    return text


def main() -> int:
    parser = argparse.ArgumentParser(prog="sbom", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="where to write it (default: standard output)")
    chosen = parser.parse_args()
    try:
        text = document() + "\n"
        if chosen.file is None:
            sys.stdout.write(text)
        else:
            Path(caller(), chosen.file).write_text(text)
    except (Fatal, OSError) as error:
        complain(str(error) if isinstance(error, Fatal) else f"sbom: {error}")
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
