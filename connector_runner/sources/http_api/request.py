"""One request, and the texts of it that have values of a parent's row. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

import msgspec

from shared.errors import SetupError

if TYPE_CHECKING:
    from connector_runner.sources.http_api.options import ApiStream


class Request(NamedTuple):
    """A request. `url`: with a query only where the API gave it so. `params`: are added to the query."""

    method: str
    url: str
    params: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = {}
    body: Mapping[str, Any] | None = None

    def put(self, name: str, value: Any, send_in: str) -> Request:
        """Returns the request with a parameter, in place of the one of that name: of the query, or of the body, there by its path."""
        if send_in == "body":
            return self._replace(body=_put(self.body or {}, name.split("."), value))
        kept = tuple(each for each in self.params if each[0] != name)
        return self._replace(params=(*kept, (name, as_param(value))))

    @property
    def shown(self) -> str:
        """Its address for people, without the query, which may hold a secret."""
        parts = urlsplit(self.url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

    @property
    def identity(self) -> tuple[object, ...]:
        """What tells it from others."""
        return self.url, self.params, msgspec.json.encode(self.body)


def request_of(base_url: str, stream: ApiStream, values: Mapping[str, str]) -> Request:
    """Returns the request of a stream's first page, without what paging and cursor add.

    Args:
        values: texts of the parent's row, by field; empty where there is no parent.

    Raises:
        SetupError: a value of the parent would lead to another path.
    """
    path = _filled(
        stream.path, {name: _quoted(name, text) for name, text in values.items() if f"{{parent.{name}}}" in stream.path}
    )
    url = path if "://" in path else f"{base_url.rstrip('/')}/{path.lstrip('/')}" if path else base_url
    params = [
        (name, _filled(as_param(each), values))
        for name, value in stream.params.items()
        for each in (value if isinstance(value, list) else [value])
    ]
    body = _filled_body(stream.body, values)
    return Request(method=stream.method, url=url, params=tuple(params), headers=stream.headers, body=body)


def joined(request: Request, target: str) -> Request:
    """Returns the request of an address that an answer names, whole or relative to the one asked; its query replaces all parameters."""
    return request._replace(url=urljoin(request.url, target), params=())


def as_param(value: Any) -> str:
    """Returns a value as a parameter of a query."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _put(body: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    inner = body.get(path[0])
    below = _put(inner if isinstance(inner, Mapping) else {}, path[1:], value) if len(path) > 1 else value
    return {**body, path[0]: below}


def _filled(text: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"{{parent.{name}}}", value)
    return text


def _filled_body(body: Any, values: Mapping[str, str]) -> Any:
    if isinstance(body, str):
        return _filled(body, values)
    if isinstance(body, dict):
        return {name: _filled_body(each, values) for name, each in body.items()}
    return [_filled_body(each, values) for each in body] if isinstance(body, list) else body


def _quoted(name: str, text: str) -> str:
    if text in ("", ".", ".."):
        raise SetupError(f"{{parent.{name}}} is {text!r}, which names no path; take another field of the parent's row")
    return quote(text, safe="")
