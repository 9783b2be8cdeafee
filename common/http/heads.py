"""Checks the head of every request, before its route is looked up.

- `Host` must name this process. Otherwise a web page whose owner points the page's name at this machine (DNS rebinding)
  could read and change everything.
- `Origin` must be the host's own, or one of `CORS_ORIGINS`. A browser sends it when a page of another origin wants to
  change something, or to read the answer.
- Without it, `Sec-Fetch-Site` must not say that a page of another origin has made the request, as it does with images,
  scripts and frames. Such a page may only lead here: a link opens the page that it names.
- A body must come as it is: no content coding is decoded, and no part of a resource can be changed.
- The only expectation that can be met is `100-continue`.

References: RFC 9110 §7.2 (Host), §8.4 (Content-Encoding), §10.1.1 (Expect), §14.5 (Content-Range), §15.5.20 (421);
RFC 6454 §7 (Origin); https://www.w3.org/TR/fetch-metadata/; RFC 6761 §6.3 (localhost).
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

import msgspec

from common.http import problem
from common.http.problem import Problem

NAMES_CACHED: Final = 256
_AUTHORITY: Final = re.compile(
    rb"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[0-9A-Za-z._~!$&'()*+,;=%-]+))(?::(?P<port>[0-9]{1,5})?)?"
)
_ORIGIN: Final = re.compile(rb"(?i:https?)://(?P<authority>[^/]+)")
_DEFAULT_PORT: Final = re.compile(rb":(?:80|443)?\Z")

_NO_HOST: Final = problem.malformed("an HTTP/1.1 request must have exactly one host header (RFC 9112 §3.2)")
_FROM_A_PAGE: Final = Problem(
    problem.FOREIGN_ORIGIN, "sec-fetch-site says that a page of another origin embeds this; it may only link to it"
)
_CODED: Final = Problem(problem.UNSUPPORTED_MEDIA_TYPE, headers=(("accept-encoding", "identity"),))
_CHECKED: Final = frozenset(
    {
        *(b"host", b"origin", b"content-type", b"content-encoding", b"content-range", b"expect"),
        *(b"sec-fetch-site", b"sec-fetch-mode", b"sec-fetch-dest"),
    }
)
_OTHER_ORIGINS: Final = frozenset({b"same-site", b"cross-site"})
"""Values of `Sec-Fetch-Site`. A port is part of an origin, and not of a site."""
_READS: Final = frozenset({"GET", "HEAD"})
_LISTS: Final = frozenset({b"content-encoding", b"expect"})


class Hosts(NamedTuple):
    """The hosts that a process answers for: the loopback, and those named here."""

    bound: str = "127.0.0.1"
    """The address on which it listens. An unspecified one, such as 0.0.0.0, stands for every IP address: an address,
    unlike a name, cannot be pointed at another machine."""
    allowed: frozenset[str] = frozenset()
    """Names and addresses in lower case, from `ALLOWED_HOSTS`. Pages of these may send requests too."""
    origins: frozenset[bytes] = frozenset()
    """Origins whose pages may send requests and read the answers, from `CORS_ORIGINS`."""


def refusal(method: str, http_version: str, headers: Iterable[tuple[bytes, bytes]], hosts: Hosts) -> Problem | None:
    """The reason to refuse a request with this head, if there is one. Names of headers are in lower case."""
    checked: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _CHECKED:
            if name in checked:
                if name not in _LISTS:
                    return _NO_HOST if name == b"host" else problem.malformed(f"there are two {name.decode()} headers")
                value = checked[name] + b"," + value
            checked[name] = value
    host = checked.get(b"host")
    if host is None:
        if http_version != "1.0":
            return _NO_HOST
    elif (refused := host_refusal(host, hosts)) is not None:
        return refused
    return None if len(checked) == (host is not None) else _refusal_of_rest(method, http_version, checked, host, hosts)


def _refusal_of_rest(
    method: str, http_version: str, checked: dict[bytes, bytes], host: bytes | None, hosts: Hosts
) -> Problem | None:
    if (origin := checked.get(b"origin")) is not None:
        if not _is_own(origin, host, hosts):
            detail = f"origin {_shown(origin)} is not the host of this request; set CORS_ORIGINS to accept its requests"
            return Problem(problem.FOREIGN_ORIGIN, detail)
    elif checked.get(b"sec-fetch-site") in _OTHER_ORIGINS and not _leads_here(method, checked):
        return _FROM_A_PAGE
    codings = {coding.strip().lower() for coding in checked.get(b"content-encoding", b"").split(b",")}
    if codings - {b"", b"identity"}:
        detail = f"content-encoding is {_shown(checked[b'content-encoding'])}; send the body without a content coding"
        return msgspec.structs.replace(_CODED, detail=detail)
    if b"content-range" in checked:
        return problem.malformed("content-range is not supported: send the whole, not a part (RFC 9110 §14.5)")
    expectations = {expected.strip().lower() for expected in checked.get(b"expect", b"").split(b",")}
    if http_version != "1.0" and expectations - {b"", b"100-continue"}:
        detail = f"expect is {_shown(checked[b'expect'])}; only 100-continue can be expected"
        return Problem(problem.EXPECTATION_FAILED, detail)
    return None


@lru_cache(NAMES_CACHED)
def host_refusal(host: bytes, hosts: Hosts) -> Problem | None:
    """The reason to refuse a request for this host, if there is one: 400 for an invalid host, 421 for a foreign one."""
    name = _name(host)
    if name is None:
        return problem.malformed(f"host {_shown(host)} is not a name or an address, with or without a port")
    if _is_loopback(name) or name == hosts.bound.lower() or name in hosts.allowed:
        return None
    if _address(name) is not None and _is_unspecified(hosts.bound):
        return None
    detail = f"this process does not answer for the host {name[:64]!r}; set ALLOWED_HOSTS if it should"
    return Problem(problem.MISDIRECTED, detail)


def _leads_here(method: str, checked: dict[bytes, bytes]) -> bool:
    """Whether a person follows a link: the answer becomes a page of its own, and no page of another origin sees it."""
    opens = checked.get(b"sec-fetch-mode") == b"navigate" and checked.get(b"sec-fetch-dest") == b"document"
    return opens and method in _READS


def _is_own(origin: bytes, host: bytes | None, hosts: Hosts) -> bool:
    if origin in hosts.origins:
        return True
    matched = _ORIGIN.fullmatch(origin)
    if matched is None:  # `null`, or an extension of a browser
        return False
    authority = matched["authority"]
    if host is not None and _DEFAULT_PORT.sub(b"", authority).lower() == _DEFAULT_PORT.sub(b"", host).lower():
        return True
    return _name(authority) in hosts.allowed


def _name(authority: bytes) -> str | None:
    """The name or address in `name:port`, in lower case; None if it is malformed."""
    matched = _AUTHORITY.fullmatch(authority)
    if matched is None or int(matched["port"] or 0) > 65_535:
        return None
    if matched["v6"] is not None:
        v6 = matched["v6"].decode()
        return str(_address(v6)) if ":" in v6 and _address(v6) else None
    return matched["name"].decode().lower().removesuffix(".") or None


def _address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(name)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _is_loopback(name: str) -> bool:
    address = _address(name)
    return address.is_loopback if address else name == "localhost" or name.endswith(".localhost")


def _is_unspecified(name: str) -> bool:
    address = _address(name)
    return address is not None and address.is_unspecified


def _shown(value: bytes) -> str:
    return repr(value[:64].decode("latin-1"))
