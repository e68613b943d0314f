"""An OpenTelemetry collector for tests: takes OTLP over HTTP and gRPC, decodes the protobuf, keeps what came, and misbehaves on command.

It has threads of its own, so that a test may block its loop.
"""

from __future__ import annotations

import gzip
import ssl
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

Behaviour = Literal["ok", "refuse", "hang", "slow", "partial", "redirect", "page", "endless", "later"]
"""`refuse`: an error that is not tried again. `hang`: no answer until the collector ends. `slow`: an answer after half a second. `partial`: it
takes all but the first item. Over HTTP only: `redirect` and `page`: as a proxy answers that wants a login; `endless`: an answer without an
end; `later`: 429, and the next call is taken."""

SLOW_SECONDS = 0.5


def values(attributes: Iterable[KeyValue]) -> dict[str, Any]:
    """Returns attributes as a dict."""
    return {each.key: _value(each.value) for each in attributes}


def _value(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind else None


@dataclass(frozen=True, slots=True)
class Got:
    """A span, a line or a metric, and the process it came from."""

    what: Any
    resource: Mapping[str, Any]
    scope: str

    @property
    def attributes(self) -> dict[str, Any]:
        """Those of a span or of a line."""
        return values(self.what.attributes)


class Collector:
    """What came. Open it with `collector`."""

    def __init__(self) -> None:
        self._behaviour: Behaviour = "ok"
        self._released = threading.Event()
        self.url = ""
        """Its address over HTTP."""
        self.grpc_url = ""
        self.spans: list[Got] = []
        self.lines: list[Got] = []
        self.metrics: list[Got] = []
        self.headers: list[dict[str, str]] = []
        """Of each call, over either protocol; names in lower case."""
        self.calls = 0
        self._changed = threading.Condition()

    def behave(self, behaviour: Behaviour) -> None:
        """Sets what is done with calls from now on; calls that hang are let go."""
        self._behaviour = behaviour
        self._released.set()
        self._released = threading.Event()

    def named(self, name: str) -> list[Got]:
        """The spans of that name."""
        return [got for got in list(self.spans) if got.what.name == name]

    def until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        """Waits until something is true of what came; blocks.

        Raises:
            TimeoutError: it did not become true; with the names of what came.
        """
        with self._changed:
            if not self._changed.wait_for(condition, seconds):
                raise TimeoutError(f"the collector has {sorted({got.what.name for got in self.spans})} after {self.calls} calls")

    def begin(self, headers: Mapping[str, str]) -> bool:
        """Notes a call; returns whether it is taken."""
        with self._changed:
            self.calls += 1
            self.headers.append({name.lower(): value for name, value in headers.items()})
            behaviour, released = self._behaviour, self._released
            self._changed.notify_all()
        if behaviour in ("hang", "slow"):
            released.wait(3600 if behaviour == "hang" else SLOW_SECONDS)
        return behaviour in ("ok", "slow", "partial")

    @property
    def behaviour(self) -> Behaviour:
        """What is done with calls."""
        return self._behaviour

    def answer(self, response: Any) -> Any:
        """Returns the answer to a call that is taken."""
        made = response()
        if self._behaviour == "partial":
            (of,) = made.partial_success.DESCRIPTOR.fields[:1]
            setattr(made.partial_success, of.name, 1)
            made.partial_success.error_message = "one is too old"
        return made

    def take(self, request: Any) -> None:
        """Keeps what a request holds."""
        with self._changed:
            match request:
                case trace_service_pb2.ExportTraceServiceRequest():
                    for of in request.resource_spans:
                        self.spans += [_got(span, of.resource, each) for each in of.scope_spans for span in each.spans]
                case logs_service_pb2.ExportLogsServiceRequest():
                    for of in request.resource_logs:
                        self.lines += [_got(line, of.resource, each) for each in of.scope_logs for line in each.log_records]
                case metrics_service_pb2.ExportMetricsServiceRequest():
                    for of in request.resource_metrics:
                        self.metrics += [_got(metric, of.resource, each) for each in of.scope_metrics for metric in each.metrics]
                case _:
                    raise AssertionError(f"no request of OTLP: {request!r}")
            self._changed.notify_all()


def _got(what: Span | LogRecord | Metric, resource: Resource, scope: Any) -> Got:
    return Got(what, values(resource.attributes), scope.scope.name)


REQUESTS: Mapping[str, Any] = {
    "/v1/traces": (trace_service_pb2.ExportTraceServiceRequest, trace_service_pb2.ExportTraceServiceResponse),
    "/v1/logs": (logs_service_pb2.ExportLogsServiceRequest, logs_service_pb2.ExportLogsServiceResponse),
    "/v1/metrics": (metrics_service_pb2.ExportMetricsServiceRequest, metrics_service_pb2.ExportMetricsServiceResponse),
}
UNPACKED: Mapping[str | None, Callable[[bytes], bytes]] = {None: bytes, "gzip": gzip.decompress, "deflate": zlib.decompress}


def _http_handler(collector: Collector) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:  # the name that http.server calls
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request, response = REQUESTS[self.path]
            taken = collector.begin(dict(self.headers))
            if taken:
                assert self.headers["Content-Type"] == "application/x-protobuf"
                collector.take(request.FromString(UNPACKED[self.headers["Content-Encoding"]](body)))
            answer = collector.answer(response).SerializeToString() if taken else b""
            behaviour = collector.behaviour
            status = {"redirect": 302, "page": 200, "endless": 200, "later": 429}.get(behaviour, 200 if taken else 400)
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if behaviour == "page" else "application/x-protobuf")
            if behaviour == "redirect":
                self.send_header("Location", "https://login.example.com/")
            if behaviour == "later":
                self.send_header("Retry-After", "0")
                collector.behave("ok")
            if behaviour == "endless":
                self.end_headers()
                while True:  # until the client goes away
                    self.wfile.write(b"x" * 65536)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # as http.server names it
            pass

    return Handler


class _Servicer:
    """Serves one signal over gRPC."""

    def __init__(self, collector: Collector, response: Any) -> None:
        self._collector = collector
        self._response = response

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802  # the name in the protocol
        if not self._collector.begin({str(name): str(value) for name, value in context.invocation_metadata()}):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "refused")
        self._collector.take(request)
        return self._collector.answer(self._response)


def _grpc_server(collector: Collector, certificate: Path | None) -> tuple[grpc.Server, int]:
    server = grpc.server(futures.ThreadPoolExecutor(4))
    adding: tuple[tuple[Any, Any], ...] = (
        (trace_service_pb2_grpc.add_TraceServiceServicer_to_server, trace_service_pb2.ExportTraceServiceResponse),
        (logs_service_pb2_grpc.add_LogsServiceServicer_to_server, logs_service_pb2.ExportLogsServiceResponse),
        (metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server, metrics_service_pb2.ExportMetricsServiceResponse),
    )
    for add, response in adding:
        add(_Servicer(collector, response), server)
    if certificate is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        pair = ((certificate.parent / "key.pem").read_bytes(), certificate.read_bytes())
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    return server, port


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: clients go away on purpose."""


@contextmanager
def collector(certificate: Path | None = None) -> Iterator[Collector]:
    """Starts one, over HTTP and gRPC.

    Args:
        certificate: of `tests/support/certificate.py`; both then speak TLS.
    """
    opened = Collector()
    http = _Server(("127.0.0.1", 0), _http_handler(opened))
    scheme = "http" if certificate is None else "https"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.parent / "key.pem")
        http.socket = context.wrap_socket(http.socket, server_side=True)
    serving = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    serving.start()
    remote, port = _grpc_server(opened, certificate)
    opened.url = f"{scheme}://127.0.0.1:{http.server_address[1]}"
    opened.grpc_url = f"{scheme}://127.0.0.1:{port}"
    try:
        yield opened
    finally:
        opened.behave("refuse")
        http.shutdown()
        http.server_close()
        serving.join()
        remote.stop(grace=None).wait()
