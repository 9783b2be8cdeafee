"""How the operator's tools end, and what they print to a terminal."""

from collections.abc import Sequence

import pytest
from confluent_kafka import KafkaError, KafkaException

from common.errors import Fatal
from ops.tool import print_table, printable, run


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Fatal("dlq: nothing was ever parked from orders/0@1"), "dlq: nothing was ever parked from orders/0@1\n"),
        (KafkaException(KafkaError(KafkaError._TRANSPORT, "broker down")), "Kafka: "),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ZeroDivisionError(), "Traceback"),
    ],
)
def test_each_way_a_tool_ends_has_its_own_exit_code(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(_: Sequence[str]) -> int:
        raise error

    with pytest.raises(SystemExit) as ended:
        run(main, failed=2)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("cust-1", "cust-1"),
        ("Zoë 客", "Zoë 客"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("\u202egnp", "\\u202egnp"),
    ],
)
def test_a_key_does_not_control_the_terminal(key: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert printable(key) == shown
    print_table(("customer",), [(key,)])
    assert capsys.readouterr().out == f"customer\n{shown}\n"
