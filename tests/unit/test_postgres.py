import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.pipeline import _numbered
from common.postgres import _ArrayDumper, _element, text_of

TEXTS = st.text(st.sampled_from('ab",\\{} \n') | st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
dump = _ArrayDumper(list).dump


@given(st.lists(TEXTS))
def test_texts_are_escaped_whether_or_not_any_needs_it(texts: list[str]) -> None:
    assert dump(texts) == f"{{{','.join(map(_element, texts))}}}".encode()


def test_none_is_not_the_text_null() -> None:
    assert dump([None, "NULL", ""]) == b'{NULL,"NULL",""}'
    assert dump([]) == b"{}"


def test_numbers_and_bytes() -> None:
    assert dump([1, -2, None]) == b"{1,-2,NULL}"
    assert dump([b"\x00a"]) == b'{"\\\\x0061"}'


def test_characters_that_text_cannot_hold_are_refused() -> None:
    with pytest.raises(psycopg.DataError):
        dump(["a\0"])
    with pytest.raises(psycopg.DataError):
        text_of("a\0")


def test_a_parameter_is_text_or_nothing() -> None:
    assert [text_of(value) for value in (None, "a", 12, ["b", None])] == [None, b"a", b"12", b'{"b",NULL}']
    with pytest.raises(psycopg.DataError, match="cannot send a float"):
        text_of(1.5)  # type: ignore[arg-type]


def test_parameters_are_numbered() -> None:
    assert _numbered("SELECT %s, 5 %% %s FROM t WHERE a LIKE '%%'") == b"SELECT $1, 5 % $2 FROM t WHERE a LIKE '%'"
    assert _numbered("COMMIT") == b"COMMIT"
