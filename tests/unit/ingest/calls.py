"""Segment's calls for tests: a request of a browser parsed, or refused."""

from __future__ import annotations

from typing import Any

from ingest.contract import Parsed, Refusal
from ingest.protocols import segment
from tests.unit.ingest.desks import CountingDesk, post

KEY = {"x-write-key": "web"}


def parsed(route: str, body: bytes | str, desk: CountingDesk | None = None, **request: Any) -> Parsed:
    result = segment.parse(post(route, body, headers=KEY, **request), desk or CountingDesk())
    assert isinstance(result, Parsed), result
    result.bodies = list(map(bytes, result.bodies))
    return result


def refused(route: str, body: bytes | str, desk: CountingDesk | None = None, headers: dict[str, str] | None = None) -> Refusal:
    result = segment.parse(post(route, body, headers=KEY if headers is None else headers), desk or CountingDesk())
    assert isinstance(result, Refusal), result
    return result


def batch(*events: str, **more: str) -> str:
    rest = "".join(f',"{name}":{value}' for name, value in more.items())
    return f'{{"batch":[{",".join(events)}]{rest}}}'
