import pytest

from ops.topics import _report_freed

MIB = 2**20


@pytest.mark.parametrize(
    ("before", "sizes", "words"),
    [
        (100 * MIB, [100 * MIB, 20 * MIB, 20 * MIB], "80.0 MiB of 100.0 MiB are freed, 20.0 MiB are in use\n"),
        (100 * MIB, [60 * MIB, 20 * MIB, 21 * MIB], "80.0 MiB of 100.0 MiB are freed, 21.0 MiB are in use\n"),
        (100 * MIB, [101 * MIB, 41 * MIB, 42 * MIB], "60.0 MiB of 100.0 MiB are freed, 42.0 MiB are in use\n"),
    ],
    ids=["at once", "in two steps", "while records come"],
)
def test_what_a_trim_freed_is_what_the_size_dropped_by(
    before: int, sizes: list[int], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _report_freed(before, iter(sizes))
    assert capsys.readouterr().out == f"topics: {words}"


def test_a_trim_that_freed_little_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    _report_freed(20 * MIB, iter([20 * MIB] * 3))
    out = capsys.readouterr().out
    assert "0.0 MiB of 20.0 MiB are freed" in out
    assert "the newest segment of each partition when it is closed" in out


def test_a_trim_of_less_than_a_segment_waits_for_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = iter([10 * MIB])
    _report_freed(10 * MIB, sizes)
    assert list(sizes) == [10 * MIB], "no size is read"
    assert "10.0 MiB are in use; the broker frees a segment when it is closed" in capsys.readouterr().out


def test_a_broker_that_does_not_say_its_size_is_no_reason_to_fail(capsys: pytest.CaptureFixture[str]) -> None:
    _report_freed(None, iter([None]))
    assert capsys.readouterr().out == ""
