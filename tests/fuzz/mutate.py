"""Mutations, each drawn from the generator it is given: of bytes, of JSON documents, and of how JSON is written."""

import json
import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any, Final

IDENTIFIERS: Final[tuple[Any, ...]] = (
    "",
    " ",
    "x" * 65,
    "x" * 64,
    "x" * 5_000,
    "a b",
    "a/b",
    "../../etc/passwd",
    "a\n",
    "a\0",
    "\0",
    "é",
    "\u202e",
    "\ufeff",
    "\ufffe",
    "💣",
    "a\u0301",
    "'; DROP TABLE orders; --",
    "%s%n%x",
    "{{7*7}}",
    "${jndi:ldap://x}",
    "null",
    "NaN",
    "-",
    ".",
    "..",
    ":",
    "_",
    "CUST-000001",
    None,
    True,
    False,
    0,
    -1,
    1.5,
    [],
    {},
    ["x"],
    {"x": "y"},
)
"""Where a string stands: some of them are valid identifiers, most are not."""
NUMBERS: Final[tuple[Any, ...]] = (
    0,
    -1,
    1,
    2,
    9_999,
    10_000,
    10_001,
    10**9,
    10**9 + 1,
    10**15,
    10**15 + 1,
    2**31,
    2**53,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63),
    -(2**63) - 1,
    10**30,
    0.0,
    0.5,
    1.0,
    1e3,
    1e308,
    -0.0,
    "1",
    "",
    None,
    True,
    False,
    [],
    [1],
    {},
)
SPELLINGS: Final = (
    b"1e0",
    b"1E2",
    b"1.0",
    b"1.",
    b".5",
    b"+1",
    b"01",
    b"-0",
    b"--1",
    b"0x10",
    b"0b1",
    b"1_000",
    b"1,000",
    b"1e400",
    b"-1e400",
    b"1e-400",
    b"1e99999999999",
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"nan",
    b"9" * 25,
    b"9" * 400,
    b"9" * 5_000,
    b"0." + b"0" * 5_000 + b"1",
    b"1" + b"0" * 60_000,
    "\u0661".encode(),
    b"1\x00",
    b'"1"',
    b"tru",
    b"nulll",
    b"undefined",
    b"'1'",
)
"""Ways to write a number, few of which RFC 8259 knows."""
TEXTS: Final = (
    rb'"\ud800"',
    rb'"\udc00\ud800"',
    rb'"\ud83d"',
    rb'"\ud83d\u0041"',
    rb'"\u0000"',
    rb'"a\u0000b"',
    rb'"\uFEFF"',
    rb'"\u12"',
    rb'"\uZZZZ"',
    rb'"\x41"',
    rb'"\'"',
    rb'"\/"',
    rb'"\u0063ust-1"',
    b'"\xff"',
    b'"\xc0\x80"',
    b'"\xc0\xaf"',
    b'"\xed\xa0\x80"',
    b'"\xf4\x90\x80\x80"',
    b'"\xf8\x88\x80\x80\x80"',
    b'"\xe2\x82"',
    b'"\xef\xbb\xbf"',
    b'"a\x00b"',
    b'"a\nb"',
    b'"a\x1fb"',
    b'"\x7f"',
    b'"',
    b'"\\',
    b"''",
    "“x”".encode(),
)
"""Ways to write a string: lone surrogates, NUL, overlong and cut UTF-8, controls."""
TOKENS: Final = (
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b"null",
    b"-1",
    b"9" * 30,
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"%00",
    b"%2e%2e%2f",
    b"\\u0000",
    b"content-length: 5\r\n",
    b"transfer-encoding: chunked\r\n",
    b"0\r\n\r\n",
    b"HTTP/1.1",
    b"GET ",
    b"POST ",
    b"expect: 100-continue\r\n",
    b"connection: close\r\n",
)


def mutated(drawn: random.Random, raw: bytes, others: Sequence[bytes] = (), times: int | None = None) -> bytes:
    """The bytes after a few mutations: flips, cuts, repeats, insertions, and splices with one of `others`."""
    mutant = bytearray(raw)
    for _ in range(times or drawn.choice((1, 1, 1, 2, 3, 8))):
        at = drawn.randrange(len(mutant) + 1)
        end = min(len(mutant), at + drawn.choice((1, 1, 2, 4, 16, 64)))
        match drawn.randrange(9):
            case 0 if mutant:
                mutant[at % len(mutant)] ^= 1 << drawn.randrange(8)
            case 1 if mutant:
                mutant[at % len(mutant)] = drawn.randrange(256)
            case 2:
                del mutant[at:end]
            case 3:
                mutant[at:at] = mutant[at:end] * drawn.choice((1, 2, 50))
            case 4:
                mutant[at:at] = drawn.choice(TOKENS)
            case 5:
                mutant[at:end] = drawn.choice(TOKENS)
            case 6:
                mutant[at:at] = drawn.randbytes(drawn.choice((1, 3, 40)))
            case 7 if others:
                other = drawn.choice(others)
                mutant[at:] = other[drawn.randrange(len(other) + 1) :]
            case _:
                del mutant[at:]
    return bytes(mutant)


def spoiled(drawn: random.Random, document: Any) -> Any:
    """The document with one or two values, names or entries replaced, added, taken out or wrapped."""
    document = json.loads(json.dumps(document))
    for _ in range(drawn.choice((1, 1, 1, 2))):
        slots = list(_slots(document))
        if not slots:
            return drawn.choice(NUMBERS)
        holder, name = drawn.choice(slots)
        value = holder[name]
        match drawn.randrange(8):
            case 0:
                del holder[name]
            case 1 if isinstance(holder, dict):
                holder[drawn.choice(("x", "", "__proto__", "customer_id", "\u0000", "data", "y" * 300))] = value
            case 2 if isinstance(holder, list):
                holder.extend([value] * drawn.choice((1, 99, 100, 101)))
            case 3:
                holder[name] = [value]
            case 4:
                holder[name] = {name if isinstance(name, str) else "0": value}
            case 5:
                holder[name] = None
            case _:
                # A copy: the second change may go into it.
                holder[name] = deepcopy(drawn.choice(NUMBERS if isinstance(value, int) else IDENTIFIERS))
    return document


def _slots(value: Any) -> Sequence[tuple[Any, Any]]:
    """Every place in a document where something stands."""
    if isinstance(value, dict):
        inner: Any = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    else:
        return []
    return [(value, name) for name, _ in inner] + [slot for _, below in inner for slot in _slots(below)]


def odd_json(drawn: random.Random, document: dict[str, Any]) -> bytes:
    """The document in JSON that is odd in one way: not what it says, but how it is written."""
    written = json.dumps(document).encode()
    return drawn.choice(_ODDITIES)(drawn, document, written)


def _odd_value(spellings: Sequence[bytes]) -> Callable[[random.Random, dict[str, Any], bytes], bytes]:
    def write(drawn: random.Random, document: dict[str, Any], written: bytes) -> bytes:
        name = drawn.choice(list(document))
        return json.dumps(document | {name: "@@"}).encode().replace(b'"@@"', drawn.choice(spellings), 1)

    return write


def _twice(drawn: random.Random, document: dict[str, Any], written: bytes) -> bytes:
    """A key that stands twice, the second time perhaps with another value."""
    name = drawn.choice(list(document))
    value = drawn.choice((document[name], drawn.choice(NUMBERS), drawn.choice(IDENTIFIERS)))
    extra = json.dumps({name: value}).encode()[1:-1]
    return b"{" + b", ".join([extra] * drawn.choice((1, 2, 500))) + b", " + written[1:]


def _escaped_names(drawn: random.Random, document: dict[str, Any], written: bytes) -> bytes:
    name = drawn.choice(list(document))
    escaped = "".join(f"\\u{ord(c):04{drawn.choice('xX')}}" for c in name)
    return written.replace(f'"{name}"'.encode(), f'"{escaped}"'.encode(), 1)


def _nested(drawn: random.Random, document: dict[str, Any], written: bytes) -> bytes:
    """A value under brackets: few, many, or more than any recursion can take; closed or not."""
    depth = drawn.choice((10, 100, 900, 1_100, 10_000, 30_000))
    before, after = drawn.choice(((b"[", b"]"), (b'{"a":', b"}")))
    depth = min(depth, 60_000 // (len(before) + len(after)))
    value = before * depth + b"1" + after * drawn.choice((depth, depth, depth - 1, 0))
    name = drawn.choice(list(document))
    return json.dumps(document | {name: "@@"}).encode().replace(b'"@@"', value, 1)


def _many_names(drawn: random.Random, document: dict[str, Any], written: bytes) -> bytes:
    return json.dumps({f"{drawn.choice('abc/~')}{i}": i for i in range(drawn.choice((50, 2_000)))} | document).encode()


_ODDITIES: Final[tuple[Callable[[random.Random, dict[str, Any], bytes], bytes], ...]] = (
    _odd_value(SPELLINGS),
    _odd_value(SPELLINGS),
    _odd_value(TEXTS),
    _odd_value(TEXTS),
    _twice,
    _escaped_names,
    _nested,
    _many_names,
    lambda d, _, raw: b"\xef\xbb\xbf" + raw,
    lambda d, doc, _: json.dumps(doc).encode(d.choice(("utf-16", "utf-16-le", "utf-32", "utf-7", "cp037"))),
    lambda d, _, raw: raw + d.choice((b" ", b"\n\n", b"\0", b",", b"}", raw, b"//x", b"/*x*/", b"\xff")),
    lambda d, _, raw: b" " * d.choice((1, 1_000, 60_000)) + raw,
    lambda d, _, raw: raw[: d.randrange(len(raw))],
    lambda d, _, raw: raw.replace(b'"', b"'"),
    lambda d, _, raw: raw.replace(b",", b",,", 1),
    lambda d, _, raw: d.choice((b"", b"null", b"[]", b"0", b'""', b"true", b"[" + raw + b"]", b"\0", b"{", b"{}")),
)
