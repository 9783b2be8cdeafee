"""The contract of the HTTP interface that every answer must keep, whatever the request, judged by the answer alone."""

import json
import re
from typing import Any, Final

import msgspec
from msgspec import Struct

from common.events import UUID_PATTERN
from ops.contract.documents import CONTRACTS
from tests.fuzz.wire import Answer

_PROBLEM: Final = b"application/problem+json"
_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")
_UUID: Final = re.compile(UUID_PATTERN)
_POINTER: Final = re.compile(r"#(/[^\x00-\x20\"<>\\^`{|}\x7f-\uffff]*)*|\?.*", re.DOTALL)
STATUSES: Final = frozenset(
    {405}
    | {
        int(status)
        for contract in CONTRACTS.values()
        for methods in contract.document()["paths"].values()
        for operation in methods.values()
        for status in operation["responses"]
    }
) - {500}
"""All that the documents have, and that of a method that a path does not take. Nothing may be a 500."""


class Fault(Struct, forbid_unknown_fields=True):
    pointer: str
    detail: str


class Document(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A problem document, RFC 9457, with the members that ours may have and no others."""

    type: str
    title: str
    status: int
    request_id: str
    detail: str | None = None
    errors: list[Fault] | None = None
    order_id: str | None = None


class Wrong(Exception):
    """An answer that breaks the contract."""


def judge(answer: Answer, *, request_id: bytes | None = None, path: str = "") -> None:
    """Raises `Wrong`. `request_id` is the one that the answer must repeat; without it, any will do."""
    if answer.status not in STATUSES:
        raise Wrong(f"status {answer.status}")
    returned = answer.headers.get(b"x-request-id")
    if returned is None or not _REQUEST_ID.fullmatch(returned):
        raise Wrong(f"x-request-id is {returned!r}")
    if request_id is not None and returned != request_id:
        raise Wrong(f"x-request-id is {returned!r}, not {request_id!r}: the answer to another request")
    if answer.status >= 400:
        if answer.headers.get(b"content-type") == b"application/x-ndjson":
            _judge_refused_lines(answer)
        elif not (answer.status == 503 and path == "/readyz"):
            _judge_problem(answer, returned.decode())
    elif answer.body:
        _judge_content(answer)


def problem_type(answer: Answer) -> str:
    """The type of an answer's problem document, empty for other answers."""
    if answer.headers.get(b"content-type") != _PROBLEM or not answer.body:
        return ""
    return str(json.loads(answer.body)["type"])


def accepted(answer: Answer) -> list[str]:
    """The orders that an answer says are placed."""
    kind = answer.headers.get(b"content-type", b"")
    if answer.status in (200, 202) and b"location" in answer.headers and answer.body:
        return [json.loads(answer.body)["order_id"]]
    if answer.status == 200 and kind == b"application/x-ndjson":
        lines = [json.loads(line) for line in answer.body.splitlines()]
        return [line["order_id"] for line in lines if line["status"] == 202]
    return []


def _judge_problem(answer: Answer, request_id: str) -> None:
    kind = answer.headers.get(b"content-type")
    if kind != _PROBLEM:
        raise Wrong(f"a {answer.status} of {kind!r}: {answer.body[:200]!r}")
    if answer.body:  # the answer to HEAD has none
        _judge_document(answer.body, answer.status, request_id)
    retry = answer.headers.get(b"retry-after")
    if (answer.status == 405) is not (b"allow" in answer.headers):
        raise Wrong(f"a {answer.status} with allow {answer.headers.get(b'allow')!r}")
    if (answer.status in (429, 503)) is not (retry is not None and retry.isdigit()):
        raise Wrong(f"a {answer.status} with retry-after {retry!r}")
    if answer.status == 401 and not answer.headers.get(b"www-authenticate", b"").startswith(b"Bearer "):
        raise Wrong(f"a 401 with www-authenticate {answer.headers.get(b'www-authenticate')!r}")


def _judge_refused_lines(answer: Answer) -> None:
    """Many orders, none of them accepted."""
    _judge_content(answer)
    statuses = {_json(line)["status"] for line in answer.body.splitlines()}
    if not statuses or min(statuses) < 400 or answer.status != (503 if 503 in statuses else 422):
        raise Wrong(f"a {answer.status} of lines with {statuses}")
    if (answer.status == 503) is not (b"retry-after" in answer.headers):
        raise Wrong(f"a {answer.status} with retry-after {answer.headers.get(b'retry-after')!r}")


def _judge_document(body: bytes, status: int, request_id: str) -> None:
    try:
        document = msgspec.json.decode(body, type=Document)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Wrong(f"not a problem document: {error}: {body[:300]!r}") from None
    if not document.type.startswith("/problems/") or not document.title:
        raise Wrong(f"type {document.type!r}, title {document.title!r}")
    if document.status != status:
        raise Wrong(f"status {status} in the head, {document.status} in the document")
    if document.request_id != request_id:
        raise Wrong(f"request id {request_id!r} in the head, {document.request_id!r} in the document")
    if status == 422 and document.type == "/problems/validation":
        if not document.errors:
            raise Wrong("422 without errors")
        for fault in document.errors:
            if not _POINTER.fullmatch(fault.pointer) or not fault.detail:
                raise Wrong(f"not a fault: {fault}")


def _judge_content(answer: Answer) -> None:
    kind = answer.headers.get(b"content-type", b"").partition(b";")[0]
    match kind:
        case b"application/json":
            document = _json(answer.body)
            if b"location" in answer.headers:
                _judge_order(answer, document)
        case b"application/x-ndjson":
            for line in answer.body.splitlines():
                _judge_line(_json(line), answer.headers[b"x-request-id"].decode())
        case b"text/plain" | b"text/event-stream" | b"text/html":
            answer.body.decode()
        case _:
            raise Wrong(f"a {answer.status} of {kind!r}")


def _judge_order(answer: Answer, document: Any) -> None:
    order_id = document["order_id"]
    if not _UUID.match(order_id) or answer.headers[b"location"] != f"/api/v1/orders/{order_id}".encode():
        raise Wrong(f"order {order_id!r} at location {answer.headers[b'location']!r}")


def _judge_line(line: Any, request_id: str) -> None:
    status = line["status"]
    if status == 202:
        if not _UUID.match(line["order_id"]):
            raise Wrong(f"a line with order {line['order_id']!r}")
    elif status not in STATUSES or status < 400:
        raise Wrong(f"a line with status {status}")
    else:
        _judge_document(json.dumps(line["problem"]).encode(), status, request_id)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise Wrong(f"not JSON: {error}: {body[:200]!r}") from None
