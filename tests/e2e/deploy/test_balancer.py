"""HAProxy with the files of deploy/haproxy, before a backend that repeats what it gets: whom it says the client is."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from tests.support.compose import ROOT

HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
FILES = ROOT / "deploy/haproxy"
SAID = ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded")

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(HAPROXY is None and "CI" not in os.environ, reason="needs haproxy (Debian: apt-get install haproxy)"),
]


async def repeat(request: web.Request) -> web.Response:
    return web.json_response({name: request.headers.getall(name, []) for name in SAID})


@asynccontextmanager
async def balancer(folder: Path, proxies: str | None) -> AsyncIterator[str]:
    """Starts it; yields its address.

    Args:
        proxies: EDGE_PROXIES; None: not set.
    """
    app = web.Application()
    app.router.add_get("/{path:.*}", repeat)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(folder / "backend")).start()
    edge = (FILES / "edge.cfg").read_text()
    edge, count = re.subn(
        r"^  server ingest-1 .*\n  server ingest-2 .*$", f"  server it unix@{folder}/backend", edge, flags=re.MULTILINE
    )
    assert count == 1
    # names of hosts are looked up by the rest of this line
    edge, count = re.subn(r"^  default-server .*$", "", edge, flags=re.MULTILINE)
    assert count == 1
    (folder / "edge.cfg").write_text(edge)
    (folder / "plain.cfg").write_text((FILES / "plain.cfg").read_text().replace("bind :8080", 'bind "fd@${LISTEN}"'))
    assert HAPROXY is not None, "no haproxy; .ci/test-servers installs it"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        environment = {"LISTEN": str(listening.fileno())} | ({} if proxies is None else {"EDGE_PROXIES": proxies})
        process = subprocess.Popen(
            [HAPROXY, "-db", "-n", "200", "-f", folder / "edge.cfg", "-f", folder / "plain.cfg"],
            env=environment,
            pass_fds=[listening.fileno()],
        )
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            process.terminate()
            process.wait()
            await runner.cleanup()


async def told(address: str, headers: dict[str, str]) -> dict[str, list[str]]:
    async with ClientSession() as session, session.get(address, headers={"Host": "edge.example"} | headers) as answer:
        assert answer.status == 200
        found: dict[str, list[str]] = await answer.json()
        return found


FORGED = {
    "X-Forwarded-For": "203.0.113.7, 198.51.100.2, 10.1.1.1",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "shop.example",
    "Forwarded": "for=1.2.3.4",
}


async def test_a_strangers_word_on_its_address_does_not_count(tmp_path: Path) -> None:
    async with balancer(tmp_path, "192.0.2.1") as address:
        assert await told(address, FORGED) == {
            "X-Forwarded-For": ["127.0.0.1"], "X-Forwarded-Proto": ["http"], "X-Forwarded-Host": ["edge.example"], "Forwarded": [],
        }  # fmt: skip


@pytest.mark.parametrize(
    ("proxies", "client"),
    [
        (None, "10.1.1.1"),
        ("127.0.0.0/8", "10.1.1.1"),
        ("127.0.0.1 10.0.0.0/8", "198.51.100.2"),
        ("127.0.0.1 10.0.0.0/8 198.51.100.0/24", "203.0.113.7"),
        # of more than three it believes the first three
        ("127.0.0.1 10.0.0.0/8 198.51.100.0/24 203.0.113.0/24", "203.0.113.7"),
    ],
)
async def test_the_word_of_proxies_before_it_counts(tmp_path: Path, proxies: str | None, client: str) -> None:
    async with balancer(tmp_path, proxies) as address:
        assert await told(address, FORGED) == {
            "X-Forwarded-For": [client], "X-Forwarded-Proto": ["https"], "X-Forwarded-Host": ["shop.example"], "Forwarded": [],
        }  # fmt: skip
        assert await told(address, {}) == {
            "X-Forwarded-For": ["127.0.0.1"], "X-Forwarded-Proto": ["http"], "X-Forwarded-Host": ["edge.example"], "Forwarded": [],
        }  # fmt: skip
