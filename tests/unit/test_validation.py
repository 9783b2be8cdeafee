import json
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Meta, Struct, UnsetType

from common.http.problem import FieldError, ProblemError
from common.http.validation import FAULTS_MAX, decode_body, decode_query


class Line(Struct, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern=r"^[a-z]{1,8}\Z", description="1 to 8 of a-z")]
    quantity: Annotated[int, Meta(ge=1, le=10)]


class Document(Struct, forbid_unknown_fields=True):
    lines: Annotated[tuple[Line, ...], Meta(min_length=1, max_length=2)]
    least: Annotated[int, Meta(ge=5)] | UnsetType = UNSET
    note: Annotated[str, Meta(max_length=3)] | None = None
    kind: Literal["a", "b"] = "a"
    flag: bool = False


class Query(Struct, forbid_unknown_fields=True):
    name: str
    limit: Annotated[int, Meta(ge=1, le=100)] = 20


DECODER = msgspec.json.Decoder(Document)
GOOD = {"lines": [{"name": "a", "quantity": 1}]}


def refusal(body: bytes) -> tuple[int, dict[str, str]]:
    with pytest.raises(ProblemError) as caught:
        decode_body(body, DECODER)
    problem = caught.value.problem
    return problem.status, {fault.pointer: fault.detail for fault in problem.errors}


def faults(document: object) -> dict[str, str]:
    status, details = refusal(json.dumps(document).encode())
    assert status == 422
    return details


def test_a_valid_document_is_decoded() -> None:
    assert decode_body(json.dumps(GOOD).encode(), DECODER) == Document(lines=(Line("a", 1),))


def test_every_field_at_fault_is_named_with_what_it_must_be() -> None:
    document = {
        "lines": [{"name": "A", "quantity": 0}, {"quantity": "1", "colour/~ü": 1}, {"name": "a", "quantity": True}],
        "least": 4,
        "note": "four",
        "kind": "c",
        "flag": 1,
        "extra": None,
    }
    assert faults(document) == {
        "#/lines": "must have from 1 to 2 entries",
        "#/lines/0/name": "must be 1 to 8 of a-z",
        "#/lines/0/quantity": "must be from 1 to 10",
        "#/lines/1/name": "is required",
        "#/lines/1/quantity": "must be a whole number from 1 to 10",
        "#/lines/1/colour~1~0%C3%BC": "is not a known field",
        "#/lines/2/quantity": "must be a whole number from 1 to 10",
        "#/least": "must be at least 5",
        "#/note": "must have at most 3 characters",
        "#/kind": "must be one of a, b",
        "#/flag": "must be true or false",
        "#/extra": "is not a known field",
    }


@pytest.mark.parametrize("document", [None, [], 1, "text", True])
def test_another_kind_of_document_is_a_fault_of_the_whole(document: object) -> None:
    assert faults(document) == {"#": "must be an object"}


def test_null_is_not_the_same_as_absent() -> None:
    assert faults({**GOOD, "least": None}) == {"#/least": "must be a whole number at least 5"}


def test_the_number_of_reported_faults_is_limited() -> None:
    assert len(faults({**GOOD, **{f"x{n}": 1 for n in range(2 * FAULTS_MAX)}})) == FAULTS_MAX


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{} x",
        b"\xef\xbb\xbf{}",
        b'{"note":NaN}',
        b'{"note":"\xff"}',
        b'{"note":"\\ud800"}',
        b'{"note":5, oops}',
        b'{"extra":' + b"[" * 60_000 + b"]" * 60_000 + b"}",
    ],
)
def test_invalid_json_is_400_even_after_a_fault(body: bytes) -> None:
    assert refusal(body) == (400, {})


def test_a_number_beyond_any_range_is_named() -> None:
    assert refusal(b'{"least":1e999}') == (422, {"#/least": "Number out of range"})


SCALARS = (
    st.none() | st.booleans() | st.integers(-2, 12) | st.floats(0, 3) | st.sampled_from(["", "a", "b", "abcd", "Z9"])
)
LINES = st.dictionaries(st.sampled_from(["name", "quantity", "more"]), SCALARS)
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "lines": SCALARS | st.lists(LINES | SCALARS, max_size=3),
        "least": SCALARS,
        "note": SCALARS,
        "kind": SCALARS,
        "flag": SCALARS,
        "more": SCALARS,
    },
)


@given(DOCUMENTS)
def test_the_walk_finds_faults_exactly_where_msgspec_refuses(document: dict[str, Any]) -> None:
    body = json.dumps(document).encode()
    try:
        DECODER.decode(body)
    except msgspec.ValidationError as error:
        status, details = refusal(body)
        assert status == 422
        pointer = str(error).rpartition(" - at `$")[2].rstrip("`") if " - at `$" in str(error) else ""
        assert any(at.startswith("#") for at in details)
        # msgspec names an unknown or missing field in words and points at the object around it.
        assert any(at.startswith("#" + pointer.replace(".", "/").replace("[", "/").replace("]", "")) for at in details)
        assert all("Expected" not in detail for detail in details.values())
    else:
        decode_body(body, DECODER)


def test_a_query_is_read_with_its_numbers() -> None:
    assert decode_query({"name": "5", "limit": "7"}, Query) == Query("5", 7)


def test_every_parameter_at_fault_is_named() -> None:
    with pytest.raises(ProblemError) as caught:
        decode_query({"limit": "0", "more": "1"}, Query)
    assert set(caught.value.problem.errors) == {
        FieldError("?name", "is required"),
        FieldError("?limit", "must be from 1 to 100"),
        FieldError("?more", "is not a known field"),
    }


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"])
def test_a_byte_order_mark_is_named(mark: bytes) -> None:
    with pytest.raises(ProblemError) as caught:
        decode_body(mark + b"{}", DECODER)
    assert (caught.value.problem.status, "byte order mark" in caught.value.problem.detail) == (400, True)


@pytest.mark.parametrize("limit", ["", "x", "1.5", "१", "9" * 5_000])
def test_a_parameter_that_is_not_a_number_is_named_alone(limit: str) -> None:
    with pytest.raises(ProblemError) as caught:
        decode_query({"name": "5", "limit": limit}, Query)
    [fault] = caught.value.problem.errors
    assert fault == FieldError("?limit", "must be a whole number from 1 to 100")


def test_an_empty_body_is_named_as_such() -> None:
    with pytest.raises(ProblemError) as refused:
        decode_body(b"", DECODER)
    assert (refused.value.problem.status, refused.value.problem.detail) == (400, "the body is empty")
