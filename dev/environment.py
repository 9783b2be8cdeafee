"""The environment of every process that a stack, a test or the bench starts. It does not depend on the caller's shell.

Many variables of other programs would steer ours: PGHOSTADDR and PGOPTIONS, JAVA_TOOL_OPTIONS, PYTHONPATH, http_proxy,
LC_ALL (a broker under bn_IN names its files in Bengali digits), PROMETHEUS_MULTIPROC_DIR. So a child gets what is named
here, the settings of Tandem, and nothing else.
"""

import os
import resource
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.request import OpenerDirector, ProxyHandler, build_opener

from dev.settings import OWN_SETTINGS

KEPT: Final = frozenset(
    {
        *("HOME", "LD_LIBRARY_PATH", "LOGNAME", "PATH", "TMPDIR", "USER"),
        # Of a person's terminal, for psql and the operator's tools.
        *("COLORTERM", "COLUMNS", "EDITOR", "LESS", "LINES", "NO_COLOR", "PAGER", "TERM", "TERMINFO", "VISUAL"),
        # The certificates that a company's proxy needs when the jars are fetched.
        *("CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR", "SSL_CERT_FILE"),
        *("PSQL_EDITOR", "PSQL_HISTORY", "PSQL_PAGER"),
    }
)
PROXIES: Final = ("all_proxy", "http_proxy", "https_proxy", "no_proxy")
STATED: Final = {"LC_ALL": "C.UTF-8", "TZ": "UTC"}

GIB: Final = 1024**3
OPEN_FILES_MIN: Final = 1_024
OPEN_FILES_MAX: Final = 65_536
"""What the servers get where a shell allows less. More helps nobody, and some systems allow a thousand million."""

direct: Final[OpenerDirector] = build_opener(ProxyHandler({}))
"""Opens URLs of this machine, whatever http_proxy says."""


def child(own: Mapping[str, str] | None = None, *, downloads: bool = False) -> dict[str, str]:
    """The environment of a child: what is kept, what is stated, and what is the child's own. One that may have to fetch
    jars (`downloads`) keeps the proxy too."""
    names = {name for name in os.environ if name in KEPT | OWN_SETTINGS or name.startswith("TANDEM_")}
    if downloads:
        names |= {name for name in os.environ if name.lower() in PROXIES}
    return {name: os.environ[name] for name in names} | STATED | dict(own or {})


def tight_limits() -> Iterator[str]:
    """A sentence about each limit of the caller's shell (`ulimit`) under which the servers cannot work."""
    for option, limit, least, of in (
        ("-n", resource.RLIMIT_NOFILE, OPEN_FILES_MIN, "open files"),
        ("-v", resource.RLIMIT_AS, 8 * GIB, "bytes of address space"),
        ("-f", resource.RLIMIT_FSIZE, 2 * GIB, "bytes in a file"),
    ):
        soft, _ = resource.getrlimit(limit)
        if 0 <= soft < least:
            yield f"ulimit {option} allows {soft} {of}, and at least {least} are needed"
