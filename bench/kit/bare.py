"""The ceiling of the edge: an aiohttp application that decodes the body and answers, and does nothing else.

`python -m bench.kit.bare PORT`. Uvloop, no access log, one route a path: what anybody would write first.
"""

from __future__ import annotations

import sys

import msgspec
import uvloop
from aiohttp import web

from bench.kit import snowplow

PATHS = ("track", "page", "identify", "batch")


async def pixel(request: web.Request) -> web.Response:
    """Reads the query and answers."""
    dict(request.query)
    return web.Response(body=b"GIF89a", content_type="image/gif")


async def handle(request: web.Request) -> web.Response:
    """Decodes and answers."""
    msgspec.json.decode(await request.read())
    return web.Response(body=b'{"success":true}', content_type="application/json")


def main() -> None:
    """Serves until it is killed."""
    app = web.Application(client_max_size=64 * 2**20)
    for path in PATHS:
        app.router.add_post(f"/v1/{path}", handle)
    app.router.add_post(snowplow.PATH, handle)
    app.router.add_get("/i", pixel)
    uvloop.install()
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None, backlog=1024)


if __name__ == "__main__":
    main()
