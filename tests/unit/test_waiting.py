import pytest

from tests.waiting import eventually


def test_the_first_answer_counts() -> None:
    answers = iter(list[object]([None, False, [], 0]))
    assert eventually(lambda: next(answers), "an answer comes", every_s=0) == 0


def test_it_fails_at_once_when_the_process_has_ended() -> None:
    """With its last words, however much time is left."""
    ended = iter([None, "payment-1 ended with 1"])
    with pytest.raises(AssertionError, match=r"^payment-1 ended with 1: it listens\nno such port$"):
        eventually(lambda: None, "it listens", every_s=0, ended=lambda: next(ended), last_words=lambda: "no such port")


def test_it_fails_when_time_is_over() -> None:
    with pytest.raises(AssertionError, match=r"^not within 0 s: it listens$"):
        eventually(lambda: False, "it listens", within_s=0, every_s=0)
