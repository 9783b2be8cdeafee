"""The broker's jars, checked against the hashes pinned in jars.sha256.

jgo fetches them from Maven Central. It writes in place, and accepts a truncated jar from then on. So a jar enters the
cache only with the right hash, and all hashes are checked again before each start, which takes 0.1 s.

`python -m dev.servers.jars` renews the pins from the versions named here.
"""

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from common.files import locked

PINS = Path(__file__).with_name("jars.sha256")
# Without a binding of slf4j, the broker logs nothing, not even its failures.
WANTED = "org.apache.kafka:kafka_2.13:4.4.0+org.slf4j:slf4j-simple:1.7.36"
ATTEMPTS_MAX = 3
FETCH_TIMEOUT_S = 60


class JarError(Exception):
    """A jar could not be fetched, or its hash is not the pinned one."""


def provide(cache: Path, link: Path) -> None:
    """Let `link` lead to the folder of the pinned jars. Fetches those that are missing or have another hash."""
    jars = cache / "jars"
    if missing(cache):  # else it may be a folder that nobody can write to
        jars.mkdir(parents=True, exist_ok=True)
        with locked(jars):
            if pins := missing(cache):
                fetch_all(pins, jars, cache / "downloads")
    if not (link.is_symlink() and link.readlink() == jars):
        link.unlink(missing_ok=True)
        link.symlink_to(jars)


def classpath(folder: str) -> str:
    """The class path of the pinned jars in a folder. A colon in its name would divide the path in two."""
    return ":".join(f"{folder}/{file_name(coordinate)}" for coordinate in pinned())


def pinned() -> dict[str, str]:
    """The sha256 of each jar, by coordinate."""
    return {coordinate: digest for digest, coordinate in (line.split() for line in PINS.read_text().splitlines())}


def missing(cache: Path) -> dict[str, str]:
    """The pinned jars that are not in the cache, or have another hash there."""
    return {c: digest for c, digest in pinned().items() if sha256(cache / "jars" / file_name(c)) != digest}


def file_name(coordinate: str) -> str:
    _, artifact, version = coordinate.split(":")
    return f"{artifact}-{version}.jar"


def sha256(path: Path) -> str:
    if not path.exists():
        return "none"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch_all(pins: dict[str, str], jars: Path, downloads: Path) -> None:
    print(f"kafka: fetching {len(pins)} jars from Maven Central", flush=True)
    with ThreadPoolExecutor(8) as pool:
        fetches = [pool.submit(fetch, coordinate, digest, jars, downloads) for coordinate, digest in pins.items()]
        for number, done in enumerate(as_completed(fetches), start=1):
            done.result()
            if number % 10 == 0 or number == len(pins):
                print(f"kafka: {number} of {len(pins)} jars fetched and checked", flush=True)
    shutil.rmtree(downloads, ignore_errors=True)


def fetch(coordinate: str, digest: str, jars: Path, downloads: Path) -> None:
    from jgo.maven import MavenContext  # takes 0.3 s to import, and only the first start needs it

    context = MavenContext(repo_cache=downloads, timeout=FETCH_TIMEOUT_S)
    artifact = context.create_dependency(coordinate).artifact
    problem = ""
    for _ in range(ATTEMPTS_MAX):
        try:
            downloaded = artifact.resolve()
        except Exception as error:  # many kinds of requests, and a RuntimeError of jgo
            problem = str(error)
        else:
            if sha256(downloaded) == digest:
                downloaded.replace(jars / file_name(coordinate))
                return
            problem = f"its sha256 is {sha256(downloaded)}, but {PINS.name} has {digest}"
        if artifact.cached_path is not None:
            artifact.cached_path.unlink(missing_ok=True)
    raise JarError(f"cannot fetch {coordinate} after {ATTEMPTS_MAX} attempts: {problem}")


def pin() -> None:
    import jgo

    pins = {f"{a.groupId}:{a.artifactId}:{a.version}": sha256(a.resolve()) for a in jgo.resolve(WANTED)}
    PINS.write_text("".join(f"{digest}  {coordinate}\n" for coordinate, digest in sorted(pins.items())))


if __name__ == "__main__":
    pin()
