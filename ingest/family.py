"""The admin page of several edge processes: one address for all of them, served by their parent.

`/metrics` has every child's samples with an additional label `process`, so that a restarted child resets only its own counters.
`/ready` is 200 while any child is ready; `problems` also names the problems of the others. The children serve their own pages on
sockets that the parent bound on the local address and handed down.
"""

from __future__ import annotations

import http.client
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

import msgspec

from shared.errors import UNREADABLE, ConfigError, Problem
from shared.telemetry.health import Report
from shared.telemetry.names import CounterName

ASK_SECONDS = 1.0
CLIENT_SECONDS = 10.0
"""How long a client may be silent: each one occupies a thread."""
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

DEATHS: CounterName = "ingest_process_deaths_total"


class ChildPage(NamedTuple):
    """The address of one child's page, and why the child is down; an empty text: it runs."""

    number: int
    url: str
    down: Callable[[], str]
    dying: Callable[[], str] = str
    """How often it died, if the last death is recent; else empty."""
    deaths: Callable[[], int] = int


def merge_metrics(texts: Mapping[int, str]) -> str:
    """Returns the samples of all processes in one exposition, each with its process's number. Pure."""
    heads: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for number, text in texts.items():
        family = ""
        for line in text.splitlines():
            if line.startswith("#"):
                _, kind, family, *_ = line.split(" ", 3)
                head = heads.setdefault(family, [])
                if len(head) < 2 and not any(known.startswith(f"# {kind} ") for known in head):
                    head.append(line)
            elif line:
                samples.setdefault(family, []).append(_labelled(line, number))
    return "".join(f"{line}\n" for family, head in heads.items() for line in (*head, *samples.get(family, ())))


def merge_ready(pages: Mapping[int, Report]) -> Report:
    """Returns whether any process is ready, and what each of them says. Pure."""
    return Report(
        any(page.ready for page in pages.values()),
        {f"process {number}: {part}": why for number, page in pages.items() for part, why in page.problems.items()},
        {f"process {number}: {part}": why for number, page in pages.items() for part, why in page.warnings.items()},
    )


class FamilyPage:
    """Serves the page from a thread, so that it answers while the parent is busy."""

    def __init__(self, host: str, port: int, children: Sequence[ChildPage]) -> None:
        """
        Raises:
            ConfigError: the address cannot be bound.
        """
        routes = {"/live": self._live, "/ready": self._ready, "/metrics": self._metrics}

        class Handler(BaseHTTPRequestHandler):
            timeout = CLIENT_SECONDS

            def do_GET(self) -> None:  # http.server calls this name
                route = routes.get(self.path.partition("?")[0])
                status, content_type, body = route() if route else (404, "text/plain", b"not found\n")
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as in http.server
                """Logs nothing: an access log of scrapes is of no use."""

        self._children = children
        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as exc:
            raise ConfigError([Problem("PENSTOCK_ADMIN_PORT", f"cannot listen on {host}:{port}: {exc.strerror}")]) from exc
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="admin", daemon=True).start()

    def _live(self) -> tuple[int, str, bytes]:
        return 200, "text/plain", b"live\n"

    def _ready(self) -> tuple[int, str, bytes]:
        report = merge_ready({child.number: _ask_ready(child) for child in self._children})
        return (200 if report.ready else 503), "application/json", msgspec.json.encode(report)

    def _metrics(self) -> tuple[int, str, bytes]:
        texts: dict[int, str] = {}
        deaths = "".join(f'{DEATHS}{{process="{child.number}"}} {child.deaths()}\n' for child in self._children)
        for child in self._children:
            try:
                texts[child.number] = _fetch(f"{child.url}/metrics")[1].decode()
            except OSError:
                continue  # /ready says so
        head = f"# HELP {DEATHS} deaths of a process of the edge\n# TYPE {DEATHS} counter\n"
        return 200, METRICS_TYPE, f"{merge_metrics(texts)}{head}{deaths}".encode()


def _ask_ready(child: ChildPage) -> Report:
    report, dying = _ask(child), child.dying()
    return msgspec.structs.replace(report, warnings={**report.warnings, "deaths": dying}) if dying else report


def _ask(child: ChildPage) -> Report:
    down = child.down()
    if down:
        return Report(False, {"service": down})
    try:
        return msgspec.json.decode(_fetch(f"{child.url}/ready")[1], type=Report)
    except (OSError, *UNREADABLE):
        return Report(False, {"service": "does not answer yet"})


def _fetch(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=ASK_SECONDS) as answer:  # noqa: S310  # our own child's address
            return answer.status, answer.read()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read()
    except http.client.HTTPException as exc:  # the child died while it answered
        raise ConnectionError(f"the answer broke off: {exc!r}") from exc


def _labelled(line: str, number: int) -> str:
    name, brace, rest = line.partition("{")
    if brace:
        comma = "" if rest.startswith("}") else ","
        return f'{name}{{process="{number}"{comma}{rest}'
    name, space, value = line.partition(" ")
    return f'{name}{{process="{number}"}}{space}{value}'
