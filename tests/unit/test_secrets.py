"""Passwords in files, and the secrets of the containers."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.config import Env
from common.errors import Fatal
from common.secrets.passwords import database_url, password_of, write_password
from dev.settings import ROOT
from ops.secrets import holders
from ops.secrets.rotate import urls_by_server


def test_a_url_names_the_file_and_not_the_password(tmp_path: Path) -> None:
    folder = tmp_path / "a folder?&"
    write_password(folder, "order", "s3cret")
    url = database_url("order", "order", host="127.0.0.1", port=5, folder=folder, authority=folder / "ca.pem")
    assert "s3cret" not in url
    assert password_of(url) == "s3cret"
    assert Env("", {"X": url}).database_url("X") == url


@pytest.mark.parametrize(
    ("line", "password"),
    [
        ("*:*:*:order:a", "a"),
        ("h:5:d:order:a:b", "a"),
        (r"h:5:d:order:a\:\\b", r"a:\b"),
        ("h:6:d:order:a\n*:*:d:*:b", "b"),
        ("other:*:*:order:a", None),
        ("*:*:*:payment:a", None),
        ("", None),
    ],
)
def test_a_password_file_is_read_as_libpq_reads_it(line: str, password: str | None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(f"{line}\n")
    url = f"postgresql://order@h:5/d?passfile={tmp_path}/file"
    if password is None:
        with pytest.raises(Fatal, match="file has no password of 'order' for 'd'"):
            password_of(url)
    else:
        assert password_of(url) == password


def test_each_container_gets_its_own_secrets_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owners: dict[Path, int] = {}
    monkeypatch.setattr(os, "chown", lambda path, user, group: owners.__setitem__(Path(path), user))
    holders.make(tmp_path)
    files = {name: {path.name for path in (tmp_path / name).iterdir()} for name in holders.HOLDERS}
    assert files["payment"] == {"ca.pem", "payment.pgpass", "payment.key", "payment.pem", "payment.both.pem"}
    assert {name for name, held in files.items() if "postgres.pgpass" in held} == {"setup", "postgres"}
    assert {name for name, held in files.items() if "ca.key" in held} == set()
    given = {path.name.removesuffix(".new"): user for path, user in owners.items()}
    assert (given["payment.key"], given["postgres.key"], given["gateway.key"]) == (holders.USER, 999, 0)
    assert all(owners[tmp_path / name] == holder.user for name, holder in holders.HOLDERS.items())
    texts = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.stat().st_mode & 0o077 for path in texts if path.parent.name != holders.MADE} == {0}
    holders.make(tmp_path)
    assert texts == {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}, "once"
    holders.renew_certificates(tmp_path)
    changed = {path.name for path, text in texts.items() if path.read_text() != text}
    assert {"payment.key", "payment.pem", "postgres.key"} <= changed
    assert not {name for name in changed if name.endswith(".pgpass")} | (changed & {"ca.pem", "ca.key"})


def test_the_servers_of_a_rotation_are_those_of_the_superusers(tmp_path: Path) -> None:
    def url(role: str, port: int) -> str:
        return database_url(role, role, host="h", port=port, folder=tmp_path)

    environ = {
        f"{name}_{kind}_URL": url(role, port)
        for name, port in (("ORDER", 1), ("NOTIFY", 1), ("PAYMENT", 2))
        for kind, role in (("ADMIN", "postgres"), ("DATABASE", name.lower()), ("AUDITOR", "auditor"))
    }
    urls = urls_by_server(Env("", environ), environ)
    assert {server: [known.split("@")[0].split("//")[1] for known in all_] for server, all_ in urls.items()} == {
        ("h", "1"): ["postgres", "notify", "auditor", "order", "auditor"],
        ("h", "2"): ["postgres", "payment", "auditor"],
    }


def services(file: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / file).read_text())["services"]
    return found


def test_secure_compose_is_the_same_stack_with_nothing_in_the_clear() -> None:
    plain, secure = services("docker-compose.yml"), services("dev/compose-secure.yml")
    assert secure.keys() <= plain.keys()
    verified = "sslmode=verify-full&channel_binding=require&sslrootcert=/secrets/ca.pem"
    for name, service in plain.items():
        settings = service.get("environment", {})
        changed = secure.get(name, {}).get("environment", {})
        urls = {variable: url for variable, url in settings.items() if variable.endswith("_URL")}
        expected = {variable: url.replace("sslmode=disable", verified) for variable, url in urls.items()}
        assert {variable: changed.get(variable) for variable in urls} == expected, name
        if "HTTP_PORT" in settings:
            files = [f"/secrets/{name}.pem", f"/secrets/{name}.key", "/secrets/ca.pem"]
            assert [changed[v] for v in ("TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CA_FILE")] == files
        if service["image"].startswith("postgres:"):
            command = secure[name]["command"]
            assert command[: len(service["command"])] == service["command"]
            assert {"--ssl=on", "--hba_file=/secrets/hba.conf"} <= set(command)


def test_each_container_mounts_its_own_secrets_and_no_others() -> None:
    for name, service in services("docker-compose.yml").items():
        mounted = [volume.split(":")[0] for volume in service.get("volumes", ()) if volume.startswith("secrets-")]
        if name == "secrets":
            assert {volume.removeprefix("secrets-") for volume in mounted} == {*holders.HOLDERS, holders.MADE}
            continue
        assert len(mounted) <= 1
        passfiles = {
            url.partition("/secrets/")[2] for url in service.get("environment", {}).values() if "passfile" in url
        }
        if passfiles:
            [volume] = mounted
            roles = holders.HOLDERS[volume.removeprefix("secrets-")].roles
            assert passfiles == {f"{role}.pgpass" for role in roles}
