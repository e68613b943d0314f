"""The source `http_api` reads real answers of a local API: each way of paging and of login, parents, formats, hostile answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from connector_runner import registry
from connector_runner.contract import Ended, NewOptions
from connector_runner.sources.http_api.paging import next_link
from shared.errors import ConfigError, SetupError
from tests.support.http_api import Api
from tests.support.sources.place import Reading

IDS = list(range(1, 24))
ROWS = [{"id": number} for number in IDS]
SECRET = "secret-0123456789"
Make = Callable[[Callable[[web.Request], Any]], Any]


def query(request: web.Request, name: str, default: int = 0) -> int:
    return int(request.query.get(name, default))


def by_number(request: web.Request) -> Any:
    first = (query(request, "page", 1) - 1) * 5
    return {"data": ROWS[first : first + 5], "pages": 5, "more": first + 5 < len(ROWS)}


def by_offset(request: web.Request) -> Any:
    offset, most = query(request, "offset"), min(query(request, "limit", 100), 4)  # the API gives no more than 4
    return {"data": ROWS[offset : offset + most], "total": len(ROWS)}


def by_mark(request: web.Request) -> Any:
    first = query(request, "after")
    more = first + 5 < len(ROWS)
    headers = {"X-Next": str(first + 5)} if more else {}
    found = {"data": ROWS[first : first + 5], "meta": {"next": first + 5 if more else None}, "has_more": more}
    return web.json_response(found, headers=headers)


async def by_body(request: web.Request) -> Any:
    first = (await request.json())["page"]["number"] * 5
    return {"data": ROWS[first : first + 5]}


def by_link(request: web.Request) -> Any:
    first = query(request, "from")
    next_ = f'<{request.url.with_query({"from": first + 5, "size": 5})}>; rel="next"' if first + 5 < len(ROWS) else ""
    return web.json_response(ROWS[first : first + 5], headers={"Link": f'</rows?x=a,b>; rel="first prev", {next_}'})


def by_address(request: web.Request) -> Any:
    first = query(request, "from")
    return {"data": ROWS[first : first + 5], "next": f"/rows?from={first + 5}" if first + 5 < len(ROWS) else ""}


@pytest.mark.parametrize(
    ("answer", "stream", "requests"),
    [
        (lambda _: ROWS, {}, 1),
        (lambda _: {"a": {"b": ROWS}}, {"records": "a.b"}, 1),
        (by_number, {"records": "data", "paging": {"type": "page"}}, 6),
        (by_number, {"records": "data", "paging": {"type": "page", "total_pages": "pages"}}, 5),
        (by_number, {"records": "data", "paging": {"type": "page", "has_more": "more"}}, 5),
        (by_number, {"records": "data", "paging": {"type": "page", "size": 5, "ends_at": "short_page"}}, 5),
        (by_offset, {"records": "data", "paging": {"type": "offset", "size": 10}}, 7),
        (by_offset, {"records": "data", "paging": {"type": "offset", "size": 10, "total": "total"}}, 6),
        (by_mark, {"records": "data", "paging": {"type": "cursor", "param": "after", "next": "meta.next"}}, 5),
        (by_mark, {"records": "data", "paging": {"type": "cursor", "param": "after", "header": "x-next"}}, 5),
        (
            by_mark,
            {"records": "data", "paging": {"type": "cursor", "param": "after", "last_row": "id", "has_more": "has_more"}},
            5,
        ),
        (
            by_body,
            {
                "records": "data",
                "method": "POST",
                "body": {"page": {"size": 5}},
                "paging": {"type": "page", "param": "page.number", "start": 0, "send_in": "body"},
            },
            6,
        ),
        (by_link, {"paging": {"type": "link", "size_param": "size", "size": 5}}, 5),
        (by_address, {"records": "data", "paging": {"type": "next_url", "next": "next"}}, 5),
    ],
)
async def test_every_way_of_paging_gives_all_rows_once(shop: Api, answer: Any, stream: dict[str, Any], requests: int) -> None:
    shop.answer = answer
    found = await shop.one(stream)
    assert found.ids() == IDS
    assert found.complete == {"s"}
    assert len(shop.requests) == requests, shop.requests


@pytest.mark.parametrize(
    ("header", "target"),
    [
        ('<https://a.example/?page=2>; rel="next"', "https://a.example/?page=2"),
        ('<2>;rel=next;title="a, b; c"', "2"),
        ('</x,y>; rel="prev first", </n>; title="z"; REL="last Next"', "/n"),
        ('<a>; rel="prev"', None),
        ("<a", None),
        ("", None),
    ],
)
def test_links_of_the_header(header: str, target: str | None) -> None:
    assert next_link([header]) == target


@pytest.mark.parametrize(
    ("answer", "paging"),
    [
        (lambda _: {"data": ROWS[:5], "next": "/rows"}, {"type": "next_url", "next": "next"}),
        (
            lambda r: {"data": [{"n": time.perf_counter()}], "next": query(r, "after") % 7 + 1},
            {"type": "cursor", "param": "after", "next": "next"},
        ),
        (lambda _: {"data": ROWS[:5]}, {"type": "page"}),
        (lambda _: {"data": ROWS[:5], "at": time.perf_counter()}, {"type": "offset"}),
        (lambda _: {"data": ROWS[:5]}, {"type": "cursor", "param": "after", "last_row": "id"}),
    ],
)
async def test_an_api_that_leads_in_a_circle_is_noticed(shop: Api, answer: Any, paging: dict[str, Any]) -> None:
    shop.answer = answer
    with pytest.raises(SetupError, match="`paging`"):
        await shop.one({"records": "data", "paging": paging})
    assert len(shop.requests) < 30


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [
        ({"type": "bearer", "token": SECRET}, "Authorization", f"Bearer {SECRET}"),
        ({"type": "bearer", "token": SECRET, "scheme": "Token"}, "Authorization", f"Token {SECRET}"),
        ({"type": "basic", "user": "u", "password": SECRET}, "Authorization", "Basic dTpzZWNyZXQtMDEyMzQ1Njc4OQ=="),
        ({"type": "api_key", "name": "X-Key", "value": SECRET}, "X-Key", SECRET),
        ({"type": "api_key", "name": "key", "value": SECRET, "where": "query"}, "", ""),
    ],
)
async def test_ways_of_login(shop: Api, auth: dict[str, Any], header: str, value: str) -> None:
    def answer(request: web.Request) -> Any:
        known = request.headers.get(header) == value if header else request.query.get("key") == SECRET
        if not known:
            return web.Response(
                status=403, text=f"no rights for {request.headers.get('Authorization', '')} {request.query.get('key')}"
            )
        return ROWS

    shop.answer = answer
    assert (await shop.one({}, auth=auth)).ids() == IDS
    wrong = {name: f"other-{SECRET}" if name in ("token", "password", "value") else option for name, option in auth.items()}
    with pytest.raises(SetupError, match=r"/rows: the API answers 403: .*check `auth` and its rights") as failed:
        await shop.one({}, auth=wrong)
    assert SECRET not in " ".join([str(failed.value), *(each.text for each in shop.heard)])
    assert len(shop.requests) == 1, "a refusal is not tried again"


@pytest.mark.parametrize("refresh", [False, True])
async def test_tokens_are_fetched_and_renewed_when_they_are_over_or_refused(shop: Api, refresh: bool) -> None:
    given: list[str] = []
    grants: list[dict[str, str]] = []
    good = {"token": ""}

    async def answer(request: web.Request) -> Any:
        if request.path == "/token":
            form = await request.post()
            grants.append({key: str(value) for key, value in form.items()})
            good["token"] = f"access-token-{len(grants)}"
            return {
                "access_token": good["token"],
                "expires_in": 3600,
                **({"refresh_token": f"refresh-{len(grants)}-0123"} if refresh else {}),
            }
        given.append(request.headers.get("Authorization", ""))
        if given[-1] != f"Bearer {good['token']}":
            return web.Response(status=401)
        if len(given) == 3:
            good["token"] = "the service forgot the others"
        return by_number(request)

    shop.answer = answer
    auth = {"type": "oauth2", "token_url": f"{shop.url}/token", "client_id": "me", "client_secret": SECRET, "scope": "a b"}
    found = await shop.one(
        {"records": "data", "paging": {"type": "page"}}, auth=auth | ({"refresh_token": "refresh-0"} if refresh else {})
    )
    assert found.ids() == IDS
    assert len(grants) == 2
    assert grants[0]["client_secret"] == SECRET
    assert [each["grant_type"] for each in grants] == ["refresh_token" if refresh else "client_credentials"] * 2
    if refresh:
        assert [each["refresh_token"] for each in grants] == ["refresh-0", "refresh-1-0123"]
        kept = [json.loads(each.config) for each in found.messages if isinstance(each, NewOptions)]
        assert [each["refresh_token"] for each in kept] == ["refresh-1-0123", "refresh-2-0123"]


async def test_a_refused_client_says_so_in_the_words_of_the_standard(shop: Api) -> None:
    shop.answer = lambda _: web.json_response(
        {"error": "invalid_client", "error_description": f"{SECRET} is unknown"}, status=401
    )
    auth = {"type": "oauth2", "token_url": f"{shop.url}/token", "client_id": "me", "client_secret": SECRET}
    with pytest.raises(SetupError, match=r"answers 401: invalid_client: ••• is unknown; check `auth`"):
        await shop.one({}, auth=auth)


async def test_child_streams_are_asked_for_each_row_of_their_parent(shop: Api) -> None:
    def answer(request: web.Request) -> Any:
        if request.path == "/orders":
            return by_number(request)
        parts = request.raw_path.split("/")
        if parts[2] == "3":
            return web.Response(status=404)
        return [{"line": 1}, {"line": 2}] if len(parts) == 4 else [{"part": 1}]

    shop.answer = answer
    orders = {"path": "orders", "records": "data", "paging": {"type": "page"}, "primary_key": ["id"]}
    items = {"path": "orders/{parent.id}/items", "parent": "orders", "from_parent": {"order": "id"}, "empty_at": [404]}
    parts = {"path": "items/{parent.order}/x/{parent.line}/parts", "parent": "items"}
    found = await shop.read({"orders": orders, "items": items})
    own = [row for row in found.rows() if "line" in row]
    assert [(row["order"], row["line"]) for row in own] == [(number, line) for number in IDS if number != 3 for line in (1, 2)]
    assert found.complete == {"orders", "items"}
    with pytest.raises(SetupError, match=r"a row of the parent items has no `order`"):
        await shop.read({"orders": orders, "items": items, "parts": parts})


@pytest.mark.parametrize(
    ("value", "path"), [("a/b?c#d", "/rows/a%2Fb%3Fc%23d/x"), ("ä 1", "/rows/%C3%A4%201/x"), ("%2e%2e", "/rows/%252e%252e/x")]
)
async def test_a_value_of_a_parent_cannot_choose_another_path(shop: Api, value: str, path: str) -> None:
    asked: list[str] = []

    def answer(request: web.Request) -> Any:
        asked.append(request.raw_path)
        return [{"id": value}] if request.path == "/top" else []

    shop.answer = answer
    streams = {"top": {"path": "top"}, "s": {"path": "rows/{parent.id}/x", "parent": "top"}}
    await shop.read(streams)
    assert path in asked
    shop.answer = lambda request: [{"id": ".."}]
    with pytest.raises(SetupError, match="names no path"):
        await shop.read(streams)


async def test_a_stream_that_fails_keeps_no_other_back(shop: Api) -> None:
    shop.answer = lambda request: ROWS if request.path == "/b" else web.Response(status=404, text="no such thing")
    with pytest.raises(SetupError, match=r"/a: the API answers 404: no such thing; check `base_url` and `path`") as failed:
        await shop.read({"a": {"path": "a"}, "b": {"path": "b"}})
    reading: Reading = failed.value.reading  # type: ignore[attr-defined]
    assert reading.ids() == IDS
    assert [(each.stream.name, each.complete) for each in reading.messages if isinstance(each, Ended)] == [
        ("a", False),
        ("b", True),
    ]


async def test_types_come_from_a_page(shop: Api) -> None:
    rows = [
        {
            "id": 1,
            "at": "2026-01-02T03:04:05Z",
            "on": True,
            "x": 1,
            "o": {"a": "b"},
            "l": [1],
            "n": None,
            "d": "2026-01-02",
            "m": 1,
        },
        {"id": 2, "at": "2026-01-02T03:04:05.5+02:00", "x": 1.5, "o": {"c": 1}, "m": "text"},
    ]
    shop.answer = lambda _: rows
    (stream,) = await (await shop.open({"s": {"path": "rows"}})).discover()
    assert stream.json_schema["properties"] == {
        "id": {"type": "integer"}, "at": {"type": "string", "format": "date-time"}, "on": {"type": "boolean"}, "x": {"type": "number"},
        "o": {"type": "object", "properties": {"a": {"type": "string"}, "c": {"type": "integer"}}}, "l": {"type": "array"}, "n": {},
        "d": {"type": "string", "format": "date"}, "m": {"type": ["integer", "string"]},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        ({"path": "a/{parent.id}"}, "write `parent`"),
        ({"path": "a", "parent": "s"}, "must say where its values go"),
        ({"path": "a/{parent.id}", "parent": "gone"}, "the parent 'gone', which is no stream"),
        ({"path": "a/{parent.id}", "parent": "s"}, "its own parent"),
        ({"path": "a", "paging": {"type": "cursor", "param": "c"}}, "one of `next`, `header` and `last_row`"),
        ({"path": "a", "paging": {"type": "pages"}}, "pages"),
        ({"path": "a", "cursor": {"field": "x", "lookback": "1h"}}, "need a `format` that is a time"),
        ({"path": "a", "cursor": {"field": "x", "format": "iso", "step": "1d"}}, "needs `param`, `end_param` and `start`"),
        ({"path": "a", "cursor": {"field": "x", "format": "iso", "start": "soon"}}, "`start` is a date or a moment"),
        ({"path": "ftp://a"}, "expected an address"),
    ],
)
def test_options_that_cannot_be_are_refused(stream: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        registry.parse_options("shop", {"type": "http_api", "base_url": "https://a.example", "streams": {"s": stream}})


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="do not belong into it") as failed:
        registry.parse_options(
            "shop", {"type": "http_api", "base_url": f"https://u:{SECRET}@a.example", "streams": {"s": {"path": "a"}}}
        )
    assert SECRET not in str(failed.value)


async def test_a_port_beyond_all_ports_is_no_address(shop: Api) -> None:
    shop.answer = lambda _: {"data": ROWS[:5], "next": "http://a.example:99999/%20"}
    with pytest.raises(SetupError, match="no http address"):
        await shop.one({"records": "data", "paging": {"type": "next_url", "next": "next"}})


@pytest.mark.parametrize("total", ["\u00b2", "9" * 5_000, "many"])
async def test_a_total_that_is_no_number_ends_no_paging(shop: Api, total: str) -> None:
    shop.answer = lambda request: {**by_number(request), "total": total}
    found = await shop.one({"records": "data", "paging": {"type": "page", "total_pages": "total"}})
    assert found.ids() == IDS
