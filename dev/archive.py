"""Archives of files."""

import tarfile
from pathlib import Path


def extract_all(files: tarfile.TarFile, folder: Path) -> None:
    """Extract an archive whose hash was checked. Python has filters since 3.11.4, and Debian 12 has 3.11.2."""
    if hasattr(tarfile, "data_filter"):
        files.extractall(folder, filter="data")
    else:
        files.extractall(folder)  # noqa: S202
