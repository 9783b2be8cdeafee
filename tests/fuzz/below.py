"""Attacks below HTTP: bytes that are not what they say, come in pieces, all at once, slowly, or not at all."""

import json
import random

from tests.fuzz.attack import Attack, framed, raw
from tests.fuzz.mutate import mutated, odd_json
from tests.fuzz.requests import (
    API,
    ORDER_ID,
    VALID,
    Request,
    nobody_elses,
    order,
    placed,
    posted,
)


def _whole(drawn: random.Random, number: int) -> bytes:
    """A valid request of any sort whose answer ends. If it is an order, its customer has no other one."""
    request = drawn.choice(VALID)(drawn)
    if request.target.endswith(("/orders", "/events")):
        request = placed(drawn, nobody_elses(number))
    return request.rendered(("x-request-id", f"{number:x}"))


def mutated_whole(drawn: random.Random, number: int) -> Attack:
    others = [_whole(drawn, number) for _ in range(2)]
    request = mutated(drawn, _whole(drawn, number), others)
    return raw(drawn.choice(("order-api", "order-api", "payment", "inventory")), request)


def truncated(drawn: random.Random, number: int) -> Attack:
    whole = _whole(drawn, number)
    cut = drawn.choice(
        (whole, whole[: drawn.randrange(len(whole) + 1)], whole[:-1], whole[: whole.find(b"\r\n\r\n") + 4])
    )
    return raw("order-api", cut, ending=drawn.choice(("close", "half-close", "reset")))


def framing(drawn: random.Random, number: int) -> Attack:
    """Content-Length and Transfer-Encoding that lie, contradict each other, or come twice."""
    body = json.dumps(order(drawn, nobody_elses(number))).encode()
    size = len(body)
    smuggled = b"GET /metrics HTTP/1.1\r\nhost: smuggled\r\n\r\n"
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (size, body)
    framing, sent = drawn.choice(
        (
            (b"content-length: %d" % (size - 1), body),
            (b"content-length: %d" % (size + 1), body),
            (b"content-length: 0", body),
            (b"content-length: %d" % (size + len(smuggled)), body + smuggled),
            (b"content-length: %d" % size, body + smuggled),
            (b"content-length: %d\r\ncontent-length: %d" % (size, size), body),
            (b"content-length: %d\r\ncontent-length: 5" % size, body),
            (b"content-length: %d, %d" % (size, size), body),
            (b"content-length: +%d" % size, body),
            (b"content-length: -%d" % size, body),
            (b"content-length: 0x%x" % size, body),
            (b"content-length: %d.0" % size, body),
            (b"content-length: 0%d" % size, body),
            (b"content-length: %d " % size, body),
            (b"content-length:", body),
            (b"content-length: 99999999999999999999", body),
            (b"content-length: 9223372036854775807", body),
            (b"content-length : %d" % size, body),
            (b"content-length\t: %d" % size, body),
            (b"content-length: %d\r\ntransfer-encoding: chunked" % size, chunked),
            (b"transfer-encoding: chunked\r\ncontent-length: 4", chunked),
            (b"transfer-encoding: chunked", chunked),
            (b"transfer-encoding: chunked", chunked + smuggled),
            (b"transfer-encoding: CHUNKED", chunked),
            (b"transfer-encoding: xchunked", chunked),
            (b"transfer-encoding: chunked, identity", chunked),
            (b"transfer-encoding: gzip, chunked", chunked),
            (b"transfer-encoding: identity", chunked),
            (b"transfer-encoding: chunked\r\ntransfer-encoding: chunked", chunked),
            (b"transfer-encoding:\x0bchunked", chunked),
            (b"transfer-encoding : chunked", chunked),
            (b"transfer-encoding\r\n : chunked", chunked),
            (b"transfer-encoding: chunked", b"%x;%s\r\n%s\r\n0\r\n\r\n" % (size, b"x" * 3_000, body)),
            (b"transfer-encoding: chunked", b"%x\n%s\n0\n\n" % (size, body)),
            (b"transfer-encoding: chunked", b"0x%x\r\n%s\r\n0\r\n\r\n" % (size, body)),
            (b"transfer-encoding: chunked", b"-1\r\n" + body),
            (b"transfer-encoding: chunked", b"fffffffffffffffff\r\n" + body),
            (b"transfer-encoding: chunked", b"7fffffffffffffff\r\n" + body),
            (b"transfer-encoding: chunked", b"%x\r\n%sXX\r\n0\r\n\r\n" % (size, body)),
            (b"transfer-encoding: chunked", b"%x\r\n%s\r\n0\r\nx: y\r\ncontent-length: 5\r\n\r\n" % (size, body)),
            (b"transfer-encoding: chunked", b"".join(b"1\r\n%c\r\n" % c for c in body) + b"0\r\n\r\n"),
            (b"transfer-encoding: chunked", b"1\r\n{\r\n" * 200 + b"zz\r\n"),
            (b"x: y", body),
        )
    )
    head = b"POST %s/orders HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n%s\r\n\r\n"
    return raw("order-api", head % (API.encode(), framing) + sent, ending=drawn.choice(("close", "half-close")))


def header_syntax(drawn: random.Random, number: int) -> Attack:
    line = drawn.choice(
        (
            b"x: a\r\n b",
            b"x: a\r\n\tb",
            b" x: y",
            b"\tx: y",
            b"x",
            b":",
            b": y",
            b"x y: z",
            b"x\0: y",
            b"x: y\0z",
            b"x: y\rz",
            b"x: y\nz: w",
            b"x: \x01\x02\x7f",
            b"x\xff: y",
            b"(x): y",
            b"x:" + b" " * 9_000 + b"y",
            b"x" * 9_000 + b": y",
            b"x: " + b"y" * drawn.choice((30_000, 70_000, 300_000)),
            b"\r\n".join(b"x%d: y" % i for i in range(drawn.choice((101, 3_000)))),
            b"x: y\r\n" * 5_000 + b"x: y",
            b"x: y\r\r\n",
            b"host: a\r\nhost: b",
            b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: x\r\nsec-websocket-version: 13",
            b"connection: upgrade\r\nupgrade: h2c",
            b"connection: close\r\nconnection: keep-alive",
            b"expect: 100-continue",
            b"expect: 200-ok",
            b"expect: 100-continue\r\nexpect: 100-continue",
        )
    )
    body = json.dumps(order(drawn, nobody_elses(number))).encode()
    head = b"POST %s/orders HTTP/1.1\r\nhost: localhost\r\n%s\r\ncontent-length: %d\r\n"
    head += b"content-type: application/json\r\n\r\n"
    return raw("order-api", head % (API.encode(), line, len(body)) + body)


def request_line(drawn: random.Random, number: int) -> Attack:
    line = drawn.choice(
        (
            b"",
            b"\r\n\r\n\r\nGET /livez HTTP/1.1",
            b"GET",
            b"GET ",
            b"GET /livez",
            b"GET  /livez HTTP/1.1",
            b" GET /livez HTTP/1.1",
            b"GET\t/livez\tHTTP/1.1",
            b"GET /livez HTTP/1.1 ",
            b"GET /live z HTTP/1.1",
            b"GET /livez HTTP/1.2",
            b"GET /livez HTTP/2.0",
            b"GET /livez HTTP/0.9",
            b"GET /livez HTTP/1.0",
            b"GET /livez HTTP/11.1",
            b"GET /livez HTTP/1",
            b"GET /livez http/1.1",
            b"GET /livez XTTP/1.1",
            b"GET /livez RTSP/1.0",
            b"GET /livez ICE/1.0",
            b"get /livez HTTP/1.1",
            b"G\0T /livez HTTP/1.1",
            b"FROB /livez HTTP/1.1",
            b"X" * 5_000 + b" /livez HTTP/1.1",
            b"GET /" + b"x" * drawn.choice((60_000, 300_000)) + b" HTTP/1.1",
            b"GET livez HTTP/1.1",
            b"GET * HTTP/1.1",
            b"OPTIONS * HTTP/1.1",
            b"CONNECT localhost:80 HTTP/1.1",
            b"CONNECT / HTTP/1.1",
            b"PRI * HTTP/2.0\r\n\r\nSM",
            b"SOURCE /x ICE/1.0",
            b"DESCRIBE rtsp://x/y RTSP/1.0",
            b"GET /livez\x00 HTTP/1.1",
            b"GET /livez\xff HTTP/1.1",
            b"GET /livez\x7f HTTP/1.1",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + drawn.randbytes(100),
            drawn.randbytes(drawn.choice((1, 10, 500))),
            b"\xef\xbb\xbfGET /livez HTTP/1.1",
            b"SSH-2.0-OpenSSH_9.6",
            b"*1\r\n$4\r\nPING",
        )
    )
    end = drawn.choice((b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"))
    return raw("order-api", line + end + b"host: localhost" + end + end)


def pipelined(drawn: random.Random, number: int) -> Attack:
    """Many requests in one go, each to be answered in its turn; what spoils the connection comes last."""
    parts, ids = [], []
    for position in range(drawn.choice((2, 3, 8, 30))):
        request = placed(drawn) if drawn.random() < 0.6 else Request("order-api", "GET", "/livez")
        if drawn.random() < 0.3:
            request = posted("order-api", "/orders", odd_json(drawn, order(drawn)))
        ids.append(f"{number:x}.{position}".encode())
        parts.append(request.rendered(("x-request-id", ids[-1].decode())))
    count = len(parts)
    if drawn.random() < 0.4:
        parts.append(
            drawn.choice((b"\0\0\0\0\r\n\r\n", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n"))
        )
        return raw("order-api", b"".join(parts), requests=count + 1, due=count + 1, request_ids=tuple(ids))
    return raw("order-api", b"".join(parts), requests=count, due=count, request_ids=tuple(ids))


def in_pieces(drawn: random.Random, number: int) -> Attack:
    attack = framed(placed(drawn), number)
    [whole] = attack.parts
    size = drawn.choice((1, 7, 100))
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    return attack._replace(parts=tuple(pieces))


def too_many(drawn: random.Random, number: int) -> Attack:
    count = drawn.choice((65, 200, 3_000))
    return raw("order-api", Request("order-api", "GET", "/livez").rendered() * count, requests=count)


def dropped(drawn: random.Random, number: int) -> Attack:
    """A client that waits for something, and goes away."""
    request = drawn.choice(
        (
            Request("order-api", "GET", f"{API}/orders/{ORDER_ID}/events"),
            Request("order-api", "GET", f"{API}/orders/{ORDER_ID}/events", None, (("last-event-id", "1"),)),
            posted("order-api", "/orders", order(drawn, nobody_elses(number)), ("prefer", "wait=30")),
        )
    )
    return raw("order-api", request.rendered(), ending=drawn.choice(("close", "half-close", "reset")))


def slow(drawn: random.Random, number: int) -> Attack:
    """Clients that send a byte a second, or nothing at all: the server has to give up on them."""
    head = b"POST %s/orders HTTP/1.1\r\nhost: localhost\r\ncontent-length: 500\r\n\r\n" % API.encode()
    parts = drawn.choice(
        (
            (),
            (b"\r\n",),
            (b"GET /livez HT",),
            (b"GET /livez HTTP/1.1\r\n", *(b"x-%d: y\r\n" % i for i in range(120))),
            (head, *([b"x"] * 120)),
            (head.replace(b"/orders", b"/orders/batch").replace(b"500", b"4000000"), *([b"x"] * 120)),
            (head.replace(b"500", b"900000") + b"x" * 70_000, *([b"x"] * 120)),
            (b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n", b"\r\n", *([b"\r\n"] * 120)),
            (b"POST /nowhere HTTP/1.1\r\ncontent-length: 500\r\n\r\n", *([b"x"] * 120)),
        )
    )
    return raw("order-api", *parts, ending="slow")
