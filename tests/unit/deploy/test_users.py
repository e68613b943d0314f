"""`deploy/nats/users.conf` knows every stream and bucket: a new one that no user may write would stay empty in a cluster, and only there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from nats.js.api import StreamConfig

from penstock.stack.home import SERVICES
from penstock.stack.nodes import COMMAND, SYSTEM
from shared.jetstream import topology
from shared.jetstream.topology import TopologySettings

TEXT = (Path(__file__).parents[3] / "deploy" / "nats" / "users.conf").read_text()
STREAMS = [*topology.streams(TopologySettings()), *topology.buckets(TopologySettings())]


def allowed() -> dict[str, list[str]]:
    """Returns the subjects to which each user may publish."""
    found = re.findall(r"user: (\w+)\n.*?publish: \[(.*?)\n          \]", TEXT, re.DOTALL)
    return {user: re.findall(r'"([^"]+)"', re.sub(r"#.*", "", subjects)) for user, subjects in found}


def overlap(one: str, other: str) -> bool:
    """Whether a subject may match both patterns."""
    for mine, theirs in zip(one.split("."), other.split("."), strict=False):
        if ">" in (mine, theirs):
            return True
        if mine != theirs and "*" not in (mine, theirs):
            return False
    return len(one.split(".")) == len(other.split("."))


def test_every_service_has_a_user_with_an_inbox_of_its_own() -> None:
    assert set(allowed()) == {*SERVICES, COMMAND}
    assert re.findall(r'subscribe: "([^"]+)"', TEXT) == [f"_INBOX.{user}.>" for user in allowed()]
    assert f"user: {SYSTEM}" in TEXT


@pytest.mark.parametrize("stream", STREAMS, ids=lambda stream: str(stream.name))
def test_every_stream_has_a_user_who_writes_it_and_one_who_reads_it(stream: StreamConfig) -> None:
    users = allowed()
    for subject in stream.subjects or []:
        assert [user for user, subjects in users.items() if any(overlap(subject, each) for each in subjects)], subject
    reads = re.compile(rf"\$JS\.API\.(CONSUMER\.CREATE|STREAM\.MSG\.GET|DIRECT\.GET)\.{stream.name}(\.|$)")
    assert [user for user, subjects in users.items() if any(reads.match(each) for each in subjects)]
