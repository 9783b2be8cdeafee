"""A producer that writes what our clients never would: headers of any bytes, and any time. By librdkafka itself, since
the Python client encodes names of headers."""

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import confluent_kafka

from common.config.kafka import Brokers
from common.kafka.clients import secured

_PRODUCER: Final = 0
_END, _TOPIC, _PARTITION, _VALUE, _KEY, _FLAGS, _TIMESTAMP, _HEADER = 0, 1, 3, 4, 5, 7, 8, 9
"""`rd_kafka_vtype_t`."""
_COPY: Final = 2
_ERROR_BYTES: Final = 512


class Stranger:
    """Writes records of any kind, one by one."""

    def __init__(self, brokers: Brokers) -> None:
        [library] = (Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs").glob("librdkafka-*")
        self._lib = ctypes.CDLL(str(library))
        self._lib.rd_kafka_conf_new.restype = self._lib.rd_kafka_new.restype = ctypes.c_void_p
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        conf = ctypes.c_void_p(self._lib.rd_kafka_conf_new())
        for name, value in {**secured(brokers), "log_level": "0"}.items():
            unset = self._lib.rd_kafka_conf_set(conf, name.encode(), value.encode(), error, _ERROR_BYTES)
            assert not unset, error.value
        self._client = ctypes.c_void_p(self._lib.rd_kafka_new(_PRODUCER, conf, error, _ERROR_BYTES))
        assert self._client.value, error.value

    def write(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[bytes, bytes]] = (),
        at_ms: int | None = None,
    ) -> None:
        """Append a record. Returns when it was sent; whether it was taken is for the test to see."""
        arguments: list[Any] = [_TOPIC, topic.encode(), _PARTITION, ctypes.c_int32(partition), _FLAGS, _COPY]
        arguments += [_VALUE, value, ctypes.c_size_t(len(value or b""))]
        arguments += [_KEY, key, ctypes.c_size_t(len(key or b""))]
        if at_ms is not None:
            arguments += [_TIMESTAMP, ctypes.c_int64(at_ms)]
        for name, content in headers:
            arguments += [_HEADER, name, content, ctypes.c_ssize_t(len(content))]
        code = self._lib.rd_kafka_producev(self._client, *arguments, _END)
        assert code == 0, f"librdkafka's error {code}"
        assert self._lib.rd_kafka_flush(self._client, 10_000) == 0

    def close(self) -> None:
        self._lib.rd_kafka_destroy(self._client)
