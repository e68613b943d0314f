"""Requests to forget, taken up."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from shared.forget import worker
from shared.forget.requests import PartReceipt, Request


async def test_a_defect_ends_no_service(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    request = Request(id="r1", names=["ada-lovelace-1815"], digests=[], at=0.0)
    troubles: list[str] = []
    attempts = 0

    async def work(*_: Any) -> bool:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise KeyError("ada-lovelace-1815")
        return True

    async def read_part(*_: Any) -> PartReceipt | None:
        return None

    async def write_part(_: Any, __: str, ___: str, receipt: PartReceipt) -> None:
        troubles.append(receipt.trouble)

    async def end_part(_: Any, __: Request, ___: str, receipt: PartReceipt) -> None:
        receipt.state = "done"

    async def erase_if_done(*_: Any) -> bool:
        return True

    for function in (read_part, write_part, end_part, erase_if_done):
        monkeypatch.setattr(worker, function.__name__, function)
    monkeypatch.setattr(worker, "AGAIN_SECONDS", 0.0)
    none: Any = None
    with caplog.at_level(logging.ERROR):
        async with asyncio.timeout(5):
            await worker._run(broker=none, part="loader", work=work, lease=none, request=request)
    assert attempts == 2
    assert troubles[0].startswith("KeyError: ")
    assert "lovelace" not in troubles[0]
    assert "lovelace" not in caplog.text
    assert "lovelace" not in str([vars(record) for record in caplog.records])
