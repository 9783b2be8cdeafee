"""Attacks that are well framed: the fault is in the head, in its target or its headers."""

import json
import random
from typing import Final
from urllib.parse import quote

from tests.fuzz.attack import Attack, framed, post, raw
from tests.fuzz.bodies import KEYS, odd_page
from tests.fuzz.mutate import IDENTIFIERS, mutated, odd_json, spoiled
from tests.fuzz.requests import (
    API,
    CUSTOMERS,
    JSON,
    ORDER_ID,
    VALID,
    Request,
    order,
    placed,
    posted,
)


def key(drawn: random.Random, number: int) -> Attack:
    document = order(drawn, drawn.choice(CUSTOMERS[:5]))
    keys = [("idempotency-key", drawn.choice((*KEYS, f"k{drawn.randrange(2_000)}")))]
    if drawn.random() < 0.15:
        keys *= drawn.choice((2, 3, 50))
    body = odd_json(drawn, document) if drawn.random() < 0.2 else json.dumps(document).encode()
    return framed(posted("order-api", "/orders", body, *keys), number, comparable=False)


def prefer(drawn: random.Random, number: int) -> Attack:
    wait = drawn.choice(
        (
            "wait=0",
            "wait=1",
            "wait",
            "wait=",
            "wait=-1",
            "wait=1e3",
            "wait=99999999999999999999",
            "wait=1;x=y",
            "wait=\xb9",
        )
    )
    other = drawn.choice(("", "respond-async, ", 'return=minimal;foo="a,b", ', ",,,, ", "\xff, ", "x" * 3_000 + ", "))
    body = order(drawn) if drawn.random() < 0.7 else spoiled(drawn, order(drawn))
    request = posted("order-api", "/orders", body, ("prefer", other + wait))
    return framed(request, number, comparable=False)


def traceparent(drawn: random.Random, number: int) -> Attack:
    valid = f"00-{drawn.getrandbits(128):032x}-{drawn.getrandbits(64):016x}-01"
    value = drawn.choice(
        (
            valid,
            valid.upper(),
            valid + "-more",
            "ff" + valid[2:],
            "cc" + valid[2:] + "-" + "x" * 200,
            "00-" + "0" * 32 + valid[35:],
            valid[:-1],
            "",
            "\xff" * 55,
            "-" * 55,
            "x" * 9_000,
            mutated(drawn, valid.encode()).decode("latin-1").translate(dict.fromkeys((*range(32), 127))),
        )
    )
    extra = (("traceparent", value),) * drawn.choice((1, 1, 2)) + (("tracestate", "a=" + "b" * 600),)
    return post(order(drawn), number, *extra)


_CONTENT_TYPES: Final = (
    "application/json",
    "APPLICATION/JSON",
    "application/json; charset=utf-8",
    "application/json;charset=utf-16",
    "application/json;",
    " application/json",
    "application/json, text/plain",
    "text/json",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "application/jsonx",
    "*/*",
    "/",
    "",
    "\xff",
    "application/json" + ";x=y" * 500,
)


def odd_headers(drawn: random.Random, number: int) -> Attack:
    body = json.dumps(order(drawn)).encode()
    kind = drawn.choice(_CONTENT_TYPES)
    headers: list[tuple[str, str]] = drawn.choice(
        (
            [("content-type", kind)],
            [("content-type", kind), ("content-type", "application/json")],
            [JSON, *((f"x-{i}", "y") for i in range(drawn.choice((10, 99))))],
            [JSON, ("x-large", "y" * drawn.choice((1_000, 8_000)))],
            [JSON, ("content-encoding", drawn.choice(("gzip", "identity", "br", "\xff")))],
            [JSON, ("accept", drawn.choice(("text/html", "*/*;q=0", "\xff", "application/xml")))],
            [JSON, ("x-http-method-override", "DELETE"), ("x-original-url", "/metrics")],
            [JSON, ("x-forwarded-for", "1.2.3.4"), ("forwarded", "for=evil"), ("x-forwarded-host", "evil")],
            [JSON, ("cookie", "a=" + "b" * 4_000)],
            [JSON, ("range", "bytes=0-1"), ("if-match", "*"), ("if-none-match", "*")],
            [JSON, ("connection", drawn.choice(("keep-alive", "keep-alive, x", "x-request-id", "\xff")))],
            [JSON, ("upgrade", "h2c"), ("http2-settings", "AAMAAABkAAQAAP__")],
            [JSON, ("host", "evil.example")],
            [JSON, ("te", "trailers"), ("trailer", "x")],
            [JSON, ("x", "\xe9" * 30)],
        )
    )
    return framed(Request("order-api", "POST", f"{API}/orders", body, tuple(headers)), number)


def request_id(drawn: random.Random, number: int) -> Attack:
    """An id that is not fit to be repeated gives way to a new one."""
    value = drawn.choice(
        ("", " ", "x" * 128, "x" * 129, "x" * 7_000, "a b", "\xff", '"', "\\", "</script>", "%0d%0a", "\t", "a\tb")
    )
    request = placed(drawn) if drawn.random() < 0.5 else drawn.choice(VALID)(drawn)
    if request.target.endswith("/events"):
        request = placed(drawn)
    fit = value and len(value) <= 128 and value.isascii() and value.isprintable() and " " not in value
    attack = framed(request, number, comparable=False)
    return attack._replace(
        parts=(request.rendered(("x-request-id", value)),), request_ids=(value.encode(),) if fit else ()
    )


_TARGETS: Final = (
    f"{API}/orders/",
    f"{API}/orders//",
    f"{API}//orders",
    f"//{API}/orders",
    f"/{API}/orders/",
    f"{API}/orders/.",
    f"{API}/orders/..",
    f"{API}/./orders",
    f"{API}/x/../orders",
    f"{API}/orders/%2e%2e",
    f"{API}/orders/%2e%2e%2f%2e%2e",
    f"{API}/%6frders",
    f"{API}/orders%00",
    f"{API}/orders%0a",
    f"{API}/orders%0d%0ax: y",
    f"{API}/orders%20",
    f"{API}/orders%",
    f"{API}/orders%f",
    f"{API}/orders%zz",
    f"{API}/orders%ff",
    f"{API}/orders/%ed%a0%80",
    f"{API}/orders/%c0%af",
    f"{API}/orders/%f0%9f%92%a3/",
    f"{API}/orders;x=y",
    f"{API}/orders?",
    f"{API}/orders/?x=%ff",
    f"{API}/orders/?x=\xff",
    f"{API}/orders?\xff\xfe",
    f"{API}/orders/\xff/",
    f"{API}/orders#x",
    f"{API}/ORDERS",
    f"{API}/orders.json",
    f"{API}/orders/batch/",
    f"{API}/orders/batch",
    f"{API}/orders/{ORDER_ID}/",
    f"{API}/orders/{ORDER_ID}/cancel/",
    f"{API}/orders/{ORDER_ID}/events/x",
    "/",
    "//",
    "/.",
    "/*",
    "/%2f",
    "/metrics/",
    "/metrics%0a",
    "/readyz/../metrics",
    "/docs",
    "/.env",
    "/admin",
    "/" + "x" * 5_000,
    "/" + "/" * 3_000,
    "/" + "a/" * 1_500,
    "/?" + "a=b&" * 1_000,
    f"http://localhost{API}/orders",
    f"http://localhost:99999{API}/orders",
    f"http://[::1{API}/orders",
    f"http://user:secret@localhost{API}/orders/",
    f"https://localhost{API}/orders",
    f"ftp://localhost{API}/orders",
    "http://localhost",
    "http:///",
    "http://",
)
_METHODS: Final = (
    "GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "MKCOL", "LOCK", "SEARCH", "PURGE",
    "LINK", "REPORT", "M-SEARCH", "QUERY", "SUBSCRIBE", "BIND", "ACL",
)  # fmt: skip


def odd_target(drawn: random.Random, number: int) -> Attack:
    """An answer to a target that the parser refuses has an id of its own, and an absolute form need not be
    understood."""
    method = drawn.choice(("GET", "GET", "POST", "POST", "HEAD", "OPTIONS", "PUT"))
    target = drawn.choice(_TARGETS)
    host = drawn.choice(("localhost", "evil.example", "[", "[::1", "a b", "\xff", "a:b:c", "x" * 300, "@", "/", "?#"))
    body = json.dumps(order(drawn)).encode() if method in ("POST", "PUT") else None
    request = Request("order-api", method, target, body, (JSON,) if body else ())
    rendered = request.rendered(("x-request-id", f"{number:x}")).replace(
        b"host: localhost", b"host: " + host.encode("latin-1")
    )
    return raw("order-api", rendered, due=1, head_only=method == "HEAD", path=target, ending="keep")


def odd_method(drawn: random.Random, number: int) -> Attack:
    request = drawn.choice(VALID)(drawn)._replace(method=drawn.choice(_METHODS))
    if request.target.endswith("/events"):
        request = request._replace(target="/livez")
    attack = framed(request, number, comparable=False)
    return attack._replace(request_ids=())


def listing(drawn: random.Random, number: int) -> Attack:
    return framed(Request("order-api", "GET", API + odd_page(drawn, "/orders")), number)


def odd_order_id(drawn: random.Random, number: int) -> Attack:
    odd = drawn.choice(
        (
            ORDER_ID.upper(),
            ORDER_ID.replace("-", ""),
            "{" + ORDER_ID + "}",
            ORDER_ID + "%0a",
            ORDER_ID[:-1],
            ORDER_ID + "0",
            "urn:uuid:" + ORDER_ID,
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
            f"{drawn.getrandbits(128):032x}",
            "x" * 5_000,
            quote(str(drawn.choice(IDENTIFIERS)), safe=""),
        )
    )
    if drawn.random() < 0.1:
        text = f"{drawn.getrandbits(128):032x}"
        odd = f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
    method, tail = drawn.choice((("GET", ""), ("POST", "/cancel"), ("GET", "/events"), ("HEAD", "")))
    return framed(Request("order-api", method, f"{API}/orders/{odd}{tail}"), number, comparable=False)
