"""The function of docs/protocols/webhook.md that asks for what a delivery only names, against a real server."""

from __future__ import annotations

import re
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from functions_runtime.host.fetch import Fetcher
from functions_runtime.host.host import ConnectionHost
from functions_runtime.sandbox import wire
from functions_runtime.sandbox.chain import Chain
from shared.driving.egress import Guard, networks
from tests.support.functions import SHARED, outputs, run_one, spec_of

PAGE = Path(__file__).parents[3] / "docs/protocols/webhook.md"


async def order(request: web.Request) -> web.Response:
    if request.headers.get("authorization") != "Bearer s3cret":
        return web.Response(status=401)
    found = request.match_info["id"]
    if found.startswith("gone"):
        return web.Response(status=404)
    return web.Response(status=503) if found == "later" else web.json_response({"id": found, "total": 9.5})


@pytest.mark.parametrize(
    ("wanted", "kind", "made"),
    [
        ("a/1", wire.OUTPUTS, [{"id": "a/1", "order": {"id": "a/1", "total": 9.5}}]),
        ("gone", wire.OUTPUTS, [{"id": "gone"}]),
        ("later", wire.DROPPED, []),
    ],
)
async def test_the_rest_of_a_delivery_is_asked_for(wanted: str, kind: int, made: list[dict[str, object]]) -> None:
    (code,) = re.findall(r"```js\n(.*?)```", PAGE.read_text(), re.DOTALL)
    application = web.Application()
    application.router.add_get("/orders/{id}", order)
    async with TestServer(application) as server:
        fetcher = Fetcher(Guard(networks("127.0.0.1", "X")))
        host = ConnectionHost(
            store=MagicMock(), fetcher=fetcher, lines=MagicMock(), secrets=[], counted=lambda _kind, _failed: None
        )
        spec = spec_of(code.replace("https://api.example.com", str(server.make_url("")).rstrip("/")))
        chain = Chain(spec._replace(shared={**SHARED, "props": {"TOKEN": "s3cret"}}), host)
        try:
            fate = await run_one(chain, properties={"id": wanted})
        finally:
            await chain.close()
            await fetcher.close()
    assert not fate.errors
    assert fate.kind == kind
    assert [each["properties"] for each in outputs(fate)] == made
    assert (fate.retry is not None) == (wanted == "later")
