"""A schema registry over HTTP that Confluent's own client and serializers write to, and feeds read from."""

from __future__ import annotations

import base64
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web

USER, PASSWORD = "key", "secret"
LOGIN = f"Basic {base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"


class SchemaRegistry:
    """Keeps schemas as they were registered. Of Protobuf the client registers descriptors, which is the form that feeds ask for."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: Counter[str] = Counter()
        """Requests, by path."""
        self._schemas: list[dict[str, Any]] = []
        self._subjects: dict[str, list[int]] = {}

    async def answer(self, request: web.Request) -> web.Response:
        """Answers any request."""
        self.asked[request.path_qs] += 1
        if request.headers.get("Authorization") != LOGIN:
            return web.json_response({"error_code": 401, "message": "Unauthorized"}, status=401)
        parts = request.path.strip("/").split("/")
        match request.method, parts:
            case "GET", ["schemas", "ids", number] if int(number) <= len(self._schemas):
                return web.json_response(self._schemas[int(number) - 1])
            case "GET", ["subjects", subject, "versions", version] if subject in self._subjects:
                held = self._subjects[subject][int(version) - 1]
                return web.json_response({**self._schemas[held - 1], "subject": subject, "version": int(version), "id": held})
            case "POST", ["subjects", subject, *_]:
                schema = await request.json()
                if schema not in self._schemas:
                    if len(parts) == 2:
                        return web.json_response({"error_code": 40403, "message": "Schema not found"}, status=404)
                    self._schemas.append(schema)
                id_ = self._schemas.index(schema) + 1
                known = self._subjects.setdefault(subject, [])
                if id_ not in known:
                    known.append(id_)
                return web.json_response({**schema, "id": id_, "version": known.index(id_) + 1, "subject": subject})
        return web.json_response({"error_code": 40403, "message": "Schema not found"}, status=404)


@contextlib.asynccontextmanager
async def schema_registry() -> AsyncIterator[SchemaRegistry]:
    """Runs a registry."""
    registry = SchemaRegistry()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", registry.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        registry.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield registry
    finally:
        await runner.cleanup()
