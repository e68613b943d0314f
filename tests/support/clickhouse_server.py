"""A ClickHouse server for tests: the real engine, from the wheel `chdb`, behind the part of its HTTP interface that is used here.

    python -m tests.support.clickhouse_server --path DIRECTORY --port PORT --user NAME --password WORD

The engine is ClickHouse's own, with its tables, types, parts, tokens and background merges on disk; it runs in this process, and a
killed process is a killed server. The front is ours: it reads a request as `HTTPHandler` does (query in the URL or body, settings and
`param_…` in the URL, user and key in headers), runs it on a connection of its own with these settings, and answers errors with
status, words and `X-ClickHouse-Exception-Code`. A body that breaks off is not inserted: the real server sees the missing end of a
chunked body too.

What it cannot show, and the real server's image can: its own HTTP code, users with grants, clusters and replicated engines, and the queue
of asynchronous inserts. The front hands data over as a file, so `input(…)` becomes `file(…)`; both read the same stream in one piece.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from aiohttp import web

MEGABYTE = 1024 * 1024
_CODE = re.compile(r"Code: (\d+)\.")
_FORMAT = re.compile(rb" FORMAT ArrowStream\n")
_READS = re.compile(r"\s*(?:SELECT|WITH|SHOW|DESCRIBE|EXISTS|EXPLAIN)\b", re.IGNORECASE)
_OF_THE_PROTOCOL = frozenset({"query", "database", "default_format", "query_id", "wait_end_of_query", "user", "password"})
_STATUS = {516: 403, 497: 403, 60: 404, 81: 404, 62: 400, 159: 408}


class Front:
    """Requests to queries."""

    def __init__(self, path: Path, user: str, password: str) -> None:
        self._path = str(path)
        self._login = (user, password)
        self._bodies = path.parent / "bodies"
        self._bodies.mkdir(exist_ok=True)
        self._threads = ThreadPoolExecutor(16)

    async def answer(self, request: web.Request) -> web.Response:
        """Answers one request."""
        given = (request.headers.get("X-ClickHouse-User", "default"), request.headers.get("X-ClickHouse-Key", ""))
        if given != self._login:
            return _failed(
                f"Code: 516. DB::Exception: {given[0]}: Authentication failed: password is incorrect. (AUTHENTICATION_FAILED)"
            )
        try:
            body = request.query.get("query", "").encode() + await request.read()
        except OSError:  # it broke off: nobody is there to be answered, and nothing is done
            return web.Response(status=400)
        insert = _FORMAT.search(body, 0, 4 * MEGABYTE)
        with contextlib.ExitStack() as stack:
            query, file = body.decode() if insert is None else body[: insert.start()].decode(), None
            if insert:
                file = Path(stack.enter_context(tempfile.NamedTemporaryFile(dir=self._bodies)).name)
                file.write_bytes(memoryview(body)[insert.end() :])
                if "FROM input(" in query:
                    query = query.replace("FROM input(", f"FROM file('{file}', 'ArrowStream', ", 1)
                else:
                    query += f" FROM INFILE '{file}' FORMAT ArrowStream"
            del body
            # what a client began is not ended by its going away, as in the real server
            done = asyncio.get_running_loop().run_in_executor(self._threads, self._run, query, dict(request.query), file)
            try:
                return web.Response(body=await asyncio.shield(done))
            except asyncio.CancelledError:
                await asyncio.wait([done])
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, the client is told
                return _failed(str(error))

    def _run(self, query: str, asked: dict[str, str], file: Path | None) -> bytes:
        link = _engine().connect(self._path)
        try:
            settings = [f"{name} = {_quoted(value)}" for name, value in asked.items() if not _is_protocol(name)]
            if database := asked.get("database"):
                link.query(f"USE `{database}`")
            if settings:
                link.query("SET " + ", ".join(settings))
            parameters = {name.removeprefix("param_"): value for name, value in asked.items() if name.startswith("param_")}
            format_ = asked.get("default_format", "TabSeparated")
            found: bytes = link._conn.query(query, format_, params=parameters).bytes()
            return found if _READS.match(query) else b""
        finally:
            link.close()


def _engine() -> Any:
    return importlib.import_module("chdb")


def _is_protocol(name: str) -> bool:
    return name in _OF_THE_PROTOCOL or name.startswith("param_")


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _failed(words: str) -> web.Response:
    match = _CODE.search(words)
    code = int(match[1]) if match else 1000
    return web.Response(status=_STATUS.get(code, 500), text=words, headers={"X-ClickHouse-Exception-Code": str(code)})


def main() -> None:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--user", required=True)
    parser.add_argument("--password", required=True)
    arguments = parser.parse_args()
    # held open: the engine lives for as long as one connection does
    engine = _engine().connect(str(arguments.path))
    engine.query("SELECT 1")
    application = web.Application(client_max_size=1024 * MEGABYTE)
    front = Front(arguments.path, arguments.user, arguments.password)
    application.router.add_post("/", front.answer)
    application.router.add_get("/ping", lambda _: _pong())
    try:
        web.run_app(application, host=arguments.host, port=arguments.port, print=None, access_log=None, keepalive_timeout=10)
    finally:
        engine.close()
    sys.exit(0)


async def _pong() -> web.Response:
    return web.Response(text="Ok.\n")


if __name__ == "__main__":
    main()
