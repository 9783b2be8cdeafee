"""Where a request comes from: the client's address, also behind proxies."""

from ipaddress import ip_network

import pytest

from common.http.limits.sources import HOPS_MAX, Networks, forwarded_source, source_of, source_of_request

NONE: Networks = ()
PROXIES: Networks = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", ""),
    ],
)
def test_a_source_is_an_address_or_a_network_of_ipv6(address: str, source: str) -> None:
    assert source_of(address) == source


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "source"),
    [
        ("192.0.2.9", b"198.51.100.1", "192.0.2.9"),  # nobody whose word counts
        ("10.0.0.1", b"", "10.0.0.1"),
        ("10.0.0.1", b"198.51.100.1", "198.51.100.1"),
        ("::ffff:10.0.0.1", b"198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", b"203.0.113.7, 198.51.100.1", "198.51.100.1"),  # the first is the client's own invention
        ("10.0.0.1", b"203.0.113.7,198.51.100.1 , 10.9.9.9", "198.51.100.1"),
        ("fd00::1", b"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("10.0.0.1", b"198.51.100.1, unknown", "10.0.0.1"),
        ("10.0.0.1", b"198.51.100.1, \xff", "10.0.0.1"),
        ("10.0.0.1", b",", "10.0.0.1"),
        ("10.0.0.1", b"198.51.100.1" + b", 10.0.0.2" * HOPS_MAX, "10.0.0.2"),
        ("", b"198.51.100.1", ""),
    ],
)
def test_only_what_a_trusted_proxy_has_written_counts(peer: str, forwarded_for: bytes, source: str) -> None:
    assert forwarded_source(peer, forwarded_for, PROXIES) == source
    headers = [(b"host", b"localhost"), *((b"x-forwarded-for", part) for part in forwarded_for.split(b","))]
    scope = {"type": "http", "headers": headers, "client": (peer, 1)}
    assert source_of_request(scope, PROXIES) == source
    assert source_of_request({**scope, "state": {}}, NONE) == source_of(peer)
