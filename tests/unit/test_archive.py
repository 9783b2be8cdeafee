import tarfile
from pathlib import Path

import pytest

from dev.archive import extract_all


@pytest.mark.parametrize("has_filters", [True, False])
def test_an_archive_is_extracted_by_a_python_without_filters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_filters: bool
) -> None:
    (tmp_path / "a").write_text("text")
    with tarfile.open(tmp_path / "archive.tar", "w") as archive:
        archive.add(tmp_path / "a", "inner/a")
    if not has_filters:
        real = tarfile.TarFile.extractall
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
        monkeypatch.setattr(tarfile.TarFile, "extractall", lambda self, path: real(self, path))
    with tarfile.open(tmp_path / "archive.tar") as archive:
        extract_all(archive, tmp_path / "out")
    assert (tmp_path / "out/inner/a").read_text() == "text"
