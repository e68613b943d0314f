"""The way to a collector over HTTP, on which its answers are read with care.

The exporters of the SDK take any answer below 400 for a success, and read its body to the end. But a proxy may answer with a redirect or a
page of its own, and an answer may have no end.
"""

from __future__ import annotations

import time
from typing import Any

import requests
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from shared.telemetry.otlp.refused import Refused, note_refused

MOST_BYTES = 64 * 1024
"""Of an answer; a collector's has some dozens."""
BLOCK = 4096
DEFAULT_SECONDS = 10.0

_RESPONSES: dict[str, Any] = {
    "spans": ExportTraceServiceResponse,
    "metrics": ExportMetricsServiceResponse,
    "logs": ExportLogsServiceResponse,
}


class NotTakenError(Exception):
    """Raised when an answer is not a collector's. The exporter counts the batch as failed and does not repeat it."""


class Session(requests.Session):
    """Sends batches of one signal over HTTP; an answer is read up to a size and a time.

    Prefers the collector's own authority to the one that `REQUESTS_CA_BUNDLE` names for all programs.
    """

    def __init__(self, signal: str, refused: Refused) -> None:
        super().__init__()
        self._signal = signal
        self._refused = refused

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """Called by `requests` for each request."""
        verify = self.verify if verify is None else verify
        return super().merge_environment_settings(url=url, proxies=proxies, stream=stream, verify=verify, cert=cert)

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Called by the exporter.

        Raises:
            NotTakenError: a redirect, a web page, or an answer without an end.
        """
        ends_at = time.monotonic() + float(kwargs.get("timeout") or DEFAULT_SECONDS)
        answer = super().request(*args, **{**kwargs, "stream": True, "allow_redirects": False})
        try:
            body = _read(answer, ends_at)
        finally:
            answer.close()
        answer._content = body  # `requests` would read the rest, without bounds
        if answer.status_code >= 400:
            return answer
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if answer.status_code >= 300 or kind == "text/html":
            said = answer.headers.get("location", "") or kind
            raise NotTakenError(f"answered with {answer.status_code} {said[:200]}: the address is not a collector's")
        if body and kind == "application/x-protobuf":
            self._note(body)
        return answer

    def _note(self, body: bytes) -> None:
        try:
            response = _RESPONSES[self._signal].FromString(body)
        except Exception:  # noqa: BLE001  # the decoder's error has no public name; the batch was taken by the status
            return
        note_refused(self._signal, response, self._refused)


def _read(answer: requests.Response, ends_at: float) -> bytes:
    found = bytearray()
    for block in answer.iter_content(BLOCK):
        found += block
        if len(found) > MOST_BYTES:
            raise NotTakenError(f"answered with more than {MOST_BYTES} bytes")
        if time.monotonic() > ends_at:
            raise NotTakenError("its answer did not end in time")
    return bytes(found)
