"""Password files that others may read are copied to where libpq takes them."""

import signal
import subprocess
import sys
from pathlib import Path

from common.secrets import copies
from common.secrets.change import pending_file
from dev.settings import ROOT
from tests.waiting import eventually


def mount(folder: Path, version: str, password: str) -> None:
    """A Secret as the kubelet mounts it, and changes it: by one link."""
    (folder / version).mkdir(parents=True)
    (folder / version / "order.pgpass").write_text(password)
    (folder / "next").symlink_to(version)
    (folder / "next").rename(folder / "..data")
    if not (folder / "order.pgpass").is_symlink():
        (folder / "order.pgpass").symlink_to("..data/order.pgpass")


def test_a_copy_is_private_and_follows_its_file(tmp_path: Path) -> None:
    source, target = tmp_path / "mounted", tmp_path / "private"
    target.mkdir()
    mount(source, "..1", "first")
    assert copies.copy_changed(source, target) == ["order.pgpass"]
    assert copies.copy_changed(source, target) == []
    mount(source, "..2", "second")
    assert copies.copy_changed(source, target) == ["order.pgpass"]
    copy = target / "order.pgpass"
    assert (copy.read_text(), copy.stat().st_mode & 0o777) == ("second", 0o600)
    old = pending_file(copy)
    assert (old.read_text(), old.stat().st_mode & 0o777) == ("first", 0o600), "which the server may know for a while"
    assert sorted(target.iterdir()) == [copy, old]


def test_it_says_when_all_is_copied_and_ends_when_told(tmp_path: Path) -> None:
    source, target = tmp_path / "mounted", tmp_path / "private"
    target.mkdir()
    mount(source, "..1", "first")
    command = [sys.executable, "-m", "common.secrets.copies", str(source), str(target)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        eventually((target / copies.COMPLETE).exists, "all is copied")
        process.send_signal(signal.SIGTERM)
        assert process.communicate()[0] == "copies: order.pgpass is new\n"
    assert process.returncode == 0
