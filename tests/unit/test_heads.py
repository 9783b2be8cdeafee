"""The checks of a request's head, whatever its route."""

import pytest

from common.http.heads import Hosts, refusal
from common.http.requests import is_of_type

LOOPBACK = Hosts()
ANYWHERE = Hosts("::", frozenset({"gateway", "shop.example", "2001:db8::1"}))


def status(
    *headers: tuple[bytes, bytes], method: str = "POST", version: str = "1.1", hosts: Hosts = LOOPBACK
) -> int | None:
    refused = refusal(method, version, headers, hosts)
    return None if refused is None else refused.status


@pytest.mark.parametrize(
    "host",
    [b"localhost", b"LOCALHOST:8081", b"localhost.", b"a.localhost:1", b"127.0.0.1:8081", b"127.9.9.9", b"[::1]:8081",
     b"[0:0:0:0:0:0:0:1]", b"[::ffff:127.0.0.1]", b"localhost:"],
)  # fmt: skip
def test_the_loopback_is_always_an_allowed_host(host: bytes) -> None:
    assert status((b"host", host)) is None
    assert status((b"host", host), hosts=ANYWHERE) is None


@pytest.mark.parametrize(
    "host", [b"evil.example", b"localhost.evil.example", b"gateway", b"10.0.0.1", b"[2001:db8::1]"]
)
def test_a_foreign_host_is_misdirected(host: bytes) -> None:
    assert status((b"host", host)) == 421
    assert status((b"host", host), version="1.0") == 421


@pytest.mark.parametrize("host", [b"gateway:8081", b"Shop.Example", b"10.0.0.1", b"[2001:db8::1]:80", b"[2001:db8::2]"])
def test_configured_hosts_and_every_address_of_a_process_that_listens_on_all_are_allowed(host: bytes) -> None:
    assert status((b"host", host), hosts=ANYWHERE) is None
    assert status((b"host", b"evil.example"), hosts=ANYWHERE) == 421


def test_the_address_that_a_process_listens_on_is_an_allowed_host() -> None:
    assert status((b"host", b"10.0.0.7:8081"), hosts=Hosts("10.0.0.7")) is None
    assert status((b"host", b"10.0.0.8:8081"), hosts=Hosts("10.0.0.7")) == 421


@pytest.mark.parametrize(
    "host",
    [b"", b" ", b":80", b"a b", b"a, b", b"a:b:c", b"localhost:65536", b"localhost:-1", b"localhost:1e3", b"[", b"[::1",
     b"[localhost]", b"[127.0.0.1]", b"[::1]x", b"user@localhost", b"localhost/", b"localhost?", b"localhost#", b"\xff",
     b"http://localhost", b"."],
)  # fmt: skip
def test_an_invalid_host_is_malformed(host: bytes) -> None:
    assert status((b"host", host)) == 400


def test_exactly_one_host_is_required_except_in_http_1_0() -> None:
    assert status() == 400
    assert status((b"host", b"localhost"), (b"host", b"localhost")) == 400
    assert status(version="1.0") is None


@pytest.mark.parametrize(
    ("origin", "due"),
    [
        (b"http://localhost:8081", None),
        (b"HTTPS://LOCALHOST:8081", None),
        (b"http://localhost:3000", 403),
        (b"http://127.0.0.1:8081", 403),
        (b"https://evil.example", 403),
        (b"http://localhost:8081.evil.example", 403),
        (b"http://localhost:8081@evil.example", 403),
        (b"chrome-extension://localhost:8081", 403),
        (b"null", 403),
        (b"", 403),
    ],
)
def test_only_pages_of_the_host_itself_may_send_requests(origin: bytes, due: int | None) -> None:
    assert status((b"host", b"localhost:8081"), (b"origin", origin)) == due
    assert status((b"origin", origin), version="1.0") == 403


def test_pages_of_configured_hosts_may_send_requests_behind_a_proxy_too() -> None:
    own_host = (b"host", b"10.0.0.1:8081")
    assert status(own_host, (b"origin", b"https://shop.example"), hosts=ANYWHERE) is None
    assert status(own_host, (b"origin", b"https://evil.example"), hosts=ANYWHERE) == 403
    assert status((b"host", b"shop.example"), (b"origin", b"https://shop.example:443"), hosts=ANYWHERE) is None


FETCHED = {
    "a script of its own page": ("same-origin", "cors", "empty", None),
    "an address that a person types": ("none", "navigate", "document", None),
    "a link on a page of another site": ("cross-site", "navigate", "document", None),
    "a link on a page of another port": ("same-site", "navigate", "document", None),
    "an image": ("cross-site", "no-cors", "image", 403),
    "a script": ("same-site", "no-cors", "script", 403),
    "a frame": ("cross-site", "navigate", "iframe", 403),
    "an answer that nobody can read": ("cross-site", "no-cors", "empty", 403),
}


@pytest.mark.parametrize("name", FETCHED)
def test_a_page_of_another_origin_may_link_here_and_nothing_else(name: str) -> None:
    *fetch, due = FETCHED[name]
    fetched = [
        (b"host", b"localhost:8081"),
        *(
            (f"sec-fetch-{part}".encode(), value.encode())
            for part, value in zip(("site", "mode", "dest"), fetch, strict=True)
        ),
    ]
    assert status(*fetched, method="GET") == due
    assert status(*fetched, method="HEAD") == due
    assert status(*fetched, method="POST") == (403 if fetch[0] in ("cross-site", "same-site") else None)
    own = (b"origin", b"http://localhost:8081")
    assert status(*fetched, own, method="POST") is None  # an origin of its own is enough


def test_a_configured_origin_is_accepted_from_another_site() -> None:
    hosts = Hosts(origins=frozenset({b"https://shop.example"}))
    sent = [(b"host", b"localhost"), (b"origin", b"https://shop.example"), (b"sec-fetch-site", b"cross-site")]
    assert status(*sent, hosts=hosts) is None
    assert status(*sent) == 403


@pytest.mark.parametrize(
    ("name", "value", "due"),
    [
        (b"content-encoding", b"gzip", 415),
        (b"content-encoding", b"identity, GZIP", 415),
        (b"content-encoding", b"Identity", None),
        (b"content-encoding", b"", None),
        (b"content-range", b"bytes 0-1/2", 400),
        (b"expect", b"100-Continue", None),
        (b"expect", b"200-ok", 417),
        (b"expect", b"100-continue, x", 417),
    ],
)
def test_an_unsupported_header_is_refused_with_its_status(name: bytes, value: bytes, due: int | None) -> None:
    host = (b"host", b"localhost")
    assert status(host, (name, value)) == due
    if name != b"content-range":
        assert status(host, (name, b""), (name, value)) == due


def test_an_expectation_of_http_1_0_is_ignored() -> None:
    assert status((b"expect", b"200-ok"), version="1.0") is None


@pytest.mark.parametrize("name", [b"content-type", b"origin", b"content-range", b"sec-fetch-site"])
def test_a_repeated_single_header_is_refused(name: bytes) -> None:
    assert status((b"host", b"localhost"), (name, b"a"), (name, b"a")) == 400


@pytest.mark.parametrize(
    ("content_type", "fits"),
    [
        (b"application/json", True),
        (b"Application/JSON ; charset=UTF-8", True),
        (b'application/json; x=y;charset="utf-8"', True),
        (b"application/json;", True),
        (b"application/json; charset=us-ascii", True),
        (b"application/json; charset=utf-16", False),
        (b"application/json; charset=iso-8859-1", False),
        (b"application/json, text/plain", False),
        (b"text/plain", False),
        (b"", False),
        (None, False),
    ],
)
def test_a_body_must_have_an_accepted_content_type(content_type: bytes | None, fits: bool) -> None:
    assert is_of_type(content_type, (b"application/json",)) is fits
