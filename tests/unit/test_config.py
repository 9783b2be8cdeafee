import pytest

from common import config
from common.config import Env
from common.errors import Fatal

REQUIRED = {"DB": "postgresql://x"}


def test_defaults_need_only_the_database() -> None:
    process = config.process(Env("payment", REQUIRED), database="DB", port=8082)
    assert (process.host, process.port, process.partitions) == ("127.0.0.1", 8082, 6)


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(Fatal, match="payment: DB is not set"):
        config.process(Env("payment", {}), database="DB", port=8082)


@pytest.mark.parametrize("value", ["0", "70000", "http", "8081.0"])
def test_a_wrong_setting_is_named_with_its_value(value: str) -> None:
    with pytest.raises(Fatal, match=f"HTTP_PORT={value}|HTTP_PORT='{value}'"):
        config.process(Env("payment", {**REQUIRED, "HTTP_PORT": value}), database="DB", port=8082)


def test_other_addresses_than_loopback_are_refused_unless_wanted() -> None:
    public = {**REQUIRED, "HTTP_HOST": "192.0.2.1"}
    with pytest.raises(Fatal, match="no authentication"):
        config.process(Env("payment", public), database="DB", port=8082)
    wanted = {**public, "ALLOW_UNAUTHENTICATED": "1"}
    assert config.process(Env("payment", wanted), database="DB", port=8082).host == "192.0.2.1"
