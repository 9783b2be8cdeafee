"""Where a request comes from: the client's address, also behind proxies.

A client can write what it likes into `X-Forwarded-For`. So the header counts only if the connection comes from a proxy
of `TRUSTED_PROXIES`, and only as far as such proxies have written it: from its end to the first address of another.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final

from starlette.types import Scope

Networks = tuple[IPv4Network | IPv6Network, ...]

HOPS_MAX: Final = 16
"""Addresses of `X-Forwarded-For` that are looked at, from its end."""
SOURCES_CACHED: Final = 4_096
_FORWARDED_FOR: Final = b"x-forwarded-for"


@lru_cache(SOURCES_CACHED)
def source_of(address: str) -> str:
    """The client that an address stands for: a client with an IPv6 network usually has all of its 64 bits."""
    if ":" not in address:
        return address
    packed = IPv6Address(address.partition("%")[0])
    if packed.ipv4_mapped is not None:
        return str(packed.ipv4_mapped)
    return f"{IPv6Address(int(packed) >> 64 << 64)}/64"


def source_of_request(scope: Scope, proxies: Networks) -> str:
    """The client of a request in ASGI, as `source_of` names it. It is kept in the scope."""
    state: dict[str, Any] = scope.setdefault("state", {})
    kept: str | None = state.get("source")
    if kept is None:
        client = scope.get("client")
        peer = client[0] if client else ""
        kept = source_of(peer) if not proxies else forwarded_source(peer, _forwarded_for(scope["headers"]), proxies)
        state["source"] = kept
    return kept


@lru_cache(SOURCES_CACHED)
def forwarded_source(peer: str, forwarded_for: bytes, proxies: Networks) -> str:
    """The client of a request that `peer` sends with this `X-Forwarded-For` (all its lines as one), as `source_of`
    names it. What is not an address ends the search: the proxy that has written it is then the client."""
    source = peer
    for hop in reversed(forwarded_for.split(b",")[-HOPS_MAX:]):
        if not _is_one_of(source, proxies):
            break
        try:
            source = str(ip_address(hop.strip().decode("ascii")))
        except ValueError:
            break
    return source_of(source)


def _forwarded_for(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b",".join(value for name, value in headers if name == _FORWARDED_FOR)


def _is_one_of(address: str, networks: Networks) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    return any((mapped or parsed) in network for network in networks)
