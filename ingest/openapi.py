"""The HTTP API of the edge as an OpenAPI 3.1 document, made from the routes of its protocols. Pure.

This module has the common part of all requests (keys, statuses, errors, headers); `tests/hostile/test_openapi.py` sends requests
made from the document and holds the edge to it.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ingest.http.routes import PARAMETER
from ingest.registry import http_protocols

VERSION = "1"

_FILES = {"js": "text/javascript", "mjs": "text/javascript", "ts": "text/plain"}

_ERROR = {"$ref": "#/components/schemas/Error"}
_ID = {"X-Request-Id": {"$ref": "#/components/headers/X-Request-Id"}}
_AGAIN = {**_ID, "Retry-After": {"$ref": "#/components/headers/Retry-After"}}

_MEANINGS = {
    "400": "the request or its body is damaged, or the path does not take it",
    "401": "no site is opened: the key is missing, unknown, or lacks its secret",
    "403": "the site takes nothing of this page, or of bots",
    "404": "nothing is served there",
    "405": "the path takes another method",
    "408": "the request did not come in time",
    "413": "a limit is exceeded; the message names it",
    "415": "the content encoding or the character set is unknown",
    "426": "the path speaks WebSocket",
    "429": "more events a second than the site's rate for a key",
    "431": "the headers do not end within the limit",
    "503": "nothing can be stored now, or too much waits already",
}
_EVERYWHERE = ("400", "401", "404", "405", "408", "431", "503")
_OF_EVENTS = ("403", "413", "415", "429")
_PROPERTIES = {
    "type": {"type": "string"},
    "event": {"type": "string"},
    "messageId": {"type": "string"},
    "userId": {"type": ["string", "null"]},
    "anonymousId": {"type": ["string", "null"]},
    "timestamp": {"type": "string"},
    "sentAt": {"type": "string"},
    "properties": {"type": "object"},
    "traits": {"type": "object"},
    "context": {"type": "object"},
    "integrations": {"type": "object"},
    "writeKey": {"type": "string"},
}


def document() -> dict[str, Any]:
    """Returns the document."""
    paths: dict[str, Any] = {}
    for protocol in http_protocols():
        for route in protocol.ROUTES:
            paths.setdefault(route.path, {})[route.method.lower()] = _operation(protocol.NAME, route.method, route.path)
    paths["/health"] = {"get": _health()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Penstock edge",
            "version": VERSION,
            "summary": "Takes events. An answer of 200 means that they are on disk.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"basic": []}, {"bearer": []}, {"header": []}, {"query": []}, {}],
        "paths": dict(sorted(paths.items())),
        "components": _components(),
    }


def text() -> str:
    """Returns the document as JSON."""
    return json.dumps(document(), indent=2) + "\n"


def _operation(protocol: str, method: str, path: str) -> dict[str, Any]:
    takes_body = method == "POST"
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{method.lower()}{path}").strip("_"),
        "tags": [protocol],
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in PARAMETER.findall(path)
        ],
        "responses": {"200": _success(method, path), **_errors((*_EVERYWHERE, *_OF_EVENTS))},
    }
    if takes_body:
        is_batch = path.endswith(("/batch", "/import", "/b"))
        schema = {"$ref": f"#/components/schemas/{'Batch' if is_batch else 'Event'}"}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _success(method: str, path: str) -> dict[str, Any]:
    if "/pixel/" in path:
        return {"description": "a GIF, also where the event is refused", "headers": _ID, "content": {"image/gif": {}}}
    if protocol_file := _FILES.get(path.rpartition(".")[2]):
        return {"description": "the file", "headers": _ID, "content": {protocol_file: {}}}
    if method == "GET" and path.endswith("{file}"):
        return {"description": "the file", "headers": _ID, "content": {"text/javascript": {}}}
    if method == "GET":
        content = {"application/json": {"schema": {"type": "object"}}}
        return {"description": "the document", "headers": _ID, "content": content}
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Success"}}}
    return {"description": "every event is durable, or a dead letter that the answer names", "headers": _ID, "content": content}


def _errors(statuses: tuple[str, ...]) -> dict[str, Any]:
    return {
        status: {
            "description": _MEANINGS[status],
            "headers": _AGAIN if status in ("429", "503") else _ID,
            "content": {"application/json": {"schema": _ERROR}},
        }
        for status in sorted(statuses)
    }


def _health() -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object", "properties": {"status": {"type": "string"}}}}}
    return {
        "operationId": "get_health",
        "tags": ["operation"],
        "security": [],
        "responses": {
            "200": {"description": "the edge takes requests", "headers": _ID, "content": content},
            "503": {"description": "it does not, for now", "headers": _AGAIN, "content": content},
            **_errors(("400", "408", "431")),
        },
    }


def _components() -> dict[str, Any]:
    reject = {
        "type": "object",
        "required": ["index", "reason", "detail"],
        "properties": {"index": {"type": "integer"}, "reason": {"type": "string"}, "detail": {"type": "string"}},
    }
    return {
        "schemas": {
            "Event": {"type": "object", "properties": _PROPERTIES},
            "Batch": {
                "type": "object",
                "required": ["batch"],
                "properties": {
                    "batch": {"type": "array", "items": {"$ref": "#/components/schemas/Event"}},
                    "sentAt": {"type": "string"},
                    "context": {"type": "object"},
                    "integrations": {"type": "object"},
                    "writeKey": {"type": "string"},
                },
            },
            "Success": {
                "type": "object",
                "required": ["success"],
                "properties": {
                    "success": {"type": "boolean"},
                    "accepted": {"type": "integer"},
                    "rejected": {"type": "integer"},
                    "rejects": {"type": "array", "items": reject},
                },
            },
            "Error": {
                "type": "object",
                "required": ["code", "message"],
                "properties": {"code": {"type": "string"}, "message": {"type": "string"}},
            },
        },
        "headers": {
            "X-Request-Id": {"description": "names the request in the log of the edge", "schema": {"type": "string"}},
            "Retry-After": {"description": "seconds", "schema": {"type": "integer", "minimum": 1}},
        },
        "securitySchemes": {
            "basic": {"type": "http", "scheme": "basic", "description": "the key as user, its secret as password"},
            "bearer": {"type": "http", "scheme": "bearer", "description": "the key, or `id:secret`"},
            "header": {"type": "apiKey", "in": "header", "name": "X-Write-Key"},
            "query": {"type": "apiKey", "in": "query", "name": "writeKey"},
        },
    }
