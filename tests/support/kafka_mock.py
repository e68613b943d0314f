"""librdkafka's own mock cluster, from the wheel `confluent-kafka`: several brokers that speak the real protocol, whose answers a test chooses.

It shows what a broker of one process cannot: leaders that move, brokers that go down, and every error code. Records are kept in
memory. Its functions are exported by the library and called by `ctypes` (`rdkafka_mock.h`).
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import confluent_kafka

PRODUCE, METADATA, PRODUCER_ID = 0, 3, 22
_Handle = ctypes.c_void_p


def _library() -> Any:
    (path,) = (Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs").glob("librdkafka-*.so*")
    library: Any = ctypes.CDLL(str(path))
    for name, result, given in (
        ("conf_new", _Handle, []),
        ("conf_set", ctypes.c_int, [_Handle, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]),
        ("new", _Handle, [ctypes.c_int, _Handle, ctypes.c_char_p, ctypes.c_size_t]),
        ("destroy", None, [_Handle]),
        ("mock_cluster_new", _Handle, [_Handle, ctypes.c_int]),
        ("mock_cluster_destroy", None, [_Handle]),
        ("mock_cluster_bootstraps", ctypes.c_char_p, [_Handle]),
        ("mock_topic_create", ctypes.c_int, [_Handle, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]),
        ("mock_topic_set_error", None, [_Handle, ctypes.c_char_p, ctypes.c_int]),
        ("mock_partition_set_leader", ctypes.c_int, [_Handle, ctypes.c_char_p, ctypes.c_int32, ctypes.c_int32]),
        ("mock_broker_set_down", ctypes.c_int, [_Handle, ctypes.c_int32]),
        ("mock_broker_set_up", ctypes.c_int, [_Handle, ctypes.c_int32]),
        ("mock_group_initial_rebalance_delay_ms", None, [_Handle, ctypes.c_int32]),
        ("mock_clear_request_errors", None, [_Handle, ctypes.c_int16]),
        (
            "mock_push_request_errors_array",
            None,
            [_Handle, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int)],
        ),
    ):
        function = getattr(library, f"rd_kafka_{name}")
        function.restype, function.argtypes = result, given
    return library


class MockCluster:
    """A cluster of a few brokers, numbered from 1."""

    def __init__(self, library: Any, cluster: Any) -> None:
        self._library = library
        self._cluster = cluster
        self.servers: str = library.rd_kafka_mock_cluster_bootstraps(cluster).decode()

    def create(self, topic: str, partitions: int) -> None:
        """Creates a topic, on all brokers."""
        assert self._library.rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, 3) == 0

    def topic_error(self, topic: str, code: int) -> None:
        """Lets metadata say this of a topic from now on; 0: nothing."""
        self._library.rd_kafka_mock_topic_set_error(self._cluster, topic.encode(), code)

    def lead(self, topic: str, partition: int, broker: int) -> None:
        """Makes a broker the leader of a partition; -1: none is."""
        assert self._library.rd_kafka_mock_partition_set_leader(self._cluster, topic.encode(), partition, broker) == 0

    def join_at_once(self) -> None:
        """Lets a group begin with its first member, instead of three seconds later."""
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)

    def down(self, broker: int) -> None:
        """Closes a broker's connections and port."""
        assert self._library.rd_kafka_mock_broker_set_down(self._cluster, broker) == 0

    def up(self, broker: int) -> None:
        """Opens them again."""
        assert self._library.rd_kafka_mock_broker_set_up(self._cluster, broker) == 0

    def answer(self, kind: int, *codes: int) -> None:
        """Lets the next requests of a kind be answered with these codes, one each."""
        self._library.rd_kafka_mock_push_request_errors_array(
            self._cluster, kind, len(codes), (ctypes.c_int * len(codes))(*codes)
        )

    def calm(self, kind: int) -> None:
        """Takes back what `answer` said of requests that have not come yet."""
        self._library.rd_kafka_mock_clear_request_errors(self._cluster, kind)


@contextlib.contextmanager
def mock_cluster(brokers: int = 3) -> Iterator[MockCluster]:
    """Runs a cluster."""
    library = _library()
    words = ctypes.create_string_buffer(512)
    options = library.rd_kafka_conf_new()
    assert library.rd_kafka_conf_set(options, b"log_level", b"3", words, len(words)) == 0, words.value
    handle = library.rd_kafka_new(0, options, words, len(words))
    assert handle, words.value
    cluster = library.rd_kafka_mock_cluster_new(handle, brokers)
    try:
        yield MockCluster(library, cluster)
    finally:
        library.rd_kafka_mock_cluster_destroy(cluster)
        library.rd_kafka_destroy(handle)
