"""What pages cost the edge: `python -m bench.edge.pages`. The script and the settings of a site, beside the same bytes from a bare handler.

The ceiling is an aiohttp application that holds the compressed bytes and answers with them. Both take turns within each round; the ratio
printed is the median over the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from typing import Any

import uvloop
from aiohttp import web

from bench import history
from bench.edge.edge import KEY, ROOT, _process, _wait_for, open_edge
from bench.kit.machine import Meter
from bench.kit.volley import fire
from ingest.browser import assets
from tests.support.ports import free_port

PATHS = {"script": "/p.js", "settings": f"/p/s/{KEY}", "script that the browser has": "/p.js"}
CONNECTIONS = 128


def request(path: str, etag: str = "") -> bytes:
    """Returns a request as Chromium sends it."""
    known = f"If-None-Match: {etag}\r\n" if etag else ""
    head = "Host: 127.0.0.1\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9\r\n"
    agent = (
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36\r\n"
    )
    fetched = "Referer: https://shop.example.com/\r\nSec-Fetch-Dest: script\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Site: cross-site\r\n"
    return f"GET {path} HTTP/1.1\r\n{head}{agent}{fetched}{known}\r\n".encode()


def bare(port: int) -> None:
    """Serves the same bytes until it is killed."""
    script = assets.script().brotli
    settings = b'{"devices":[]}'

    async def file(request: web.Request) -> web.Response:
        if request.headers.get("If-None-Match") == assets.script().etag:
            return web.Response(status=304, headers=script.headers)
        return web.Response(body=script.body, headers={**script.headers, "Content-Type": script.content_type})

    async def document(_: web.Request) -> web.Response:
        return web.Response(
            body=settings, headers={**script.headers, "Content-Encoding": "identity"}, content_type="application/json"
        )

    app = web.Application()
    app.router.add_get("/p.js", file)
    app.router.add_get("/p/s/{key}", document)
    uvloop.install()
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None, backlog=1024)


def volley(port: int, case: str, requests: int) -> dict[str, float]:
    """Sends requests from a process of its own."""
    command = [sys.executable, "-m", "bench.edge.pages", "--volley", str(port), case, str(requests)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT).stdout)
    return found


def measure(case: str, port: int, bare_port: int, pids: dict[str, int], rounds: int, seconds: float) -> dict[str, Any]:
    """Asks the edge and the ceiling by turns; returns the medians."""
    volley(port, case, 500)
    guess = volley(bare_port, case, 2000)
    requests = max(CONNECTIONS, int(seconds * guess["requests"] / guess["seconds"]))
    turns: list[dict[str, float]] = []
    for _ in range(rounds):
        with Meter({"bare": pids["bare"]}) as bare_meter:
            ceiling = volley(bare_port, case, requests)
        with Meter({"ingest": pids["ingest"]}) as meter:
            edge = volley(port, case, requests)
        turns.append(
            {
                "requests_per_second": requests / edge["seconds"],
                "bare_requests_per_second": requests / ceiling["seconds"],
                "ratio": ceiling["seconds"] / edge["seconds"],
                "cpu_ratio": bare_meter.costs["bare"].cpu_seconds / meter.costs["ingest"].cpu_seconds,
                "refused": edge["refused"] + ceiling["refused"] if "has" not in case else 0,
            }
        )
    return {"case": case} | {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}


def main() -> None:
    """Parses the arguments and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="about this long a round")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--bare", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--volley", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        return bare(arguments.bare)
    if arguments.volley:
        port, case, requests = arguments.volley
        etag = assets.script().etag if "has" in case else ""
        print(json.dumps(uvloop.run(fire(int(port), [request(PATHS[case], etag)], int(requests), CONNECTIONS))))
        return None
    bare_port = free_port()
    results = []
    with open_edge(ROOT, {}) as (_, port, ingest), _process("bench.edge.pages", "--bare", str(bare_port)) as ceiling:
        _wait_for(bare_port)
        for case in PATHS:
            found = measure(case, port, bare_port, {"ingest": ingest, "bare": ceiling.pid}, arguments.rounds, arguments.seconds)
            results.append(found)
            history.keep("pages", case, {"rate of the ceiling": found["ratio"], "CPU of the ceiling": found["cpu_ratio"]})
            if not arguments.json:
                words = "{case}: edge {requests_per_second:,.0f}/s, bare {bare_requests_per_second:,.0f}/s; ratio of rates {ratio:.2f}, of CPU {cpu_ratio:.2f}; {refused:.0f} refused"
                print(words.format(**found), flush=True)
    if arguments.json:
        print(json.dumps({"results": results}))
    return None


if __name__ == "__main__":
    main()
