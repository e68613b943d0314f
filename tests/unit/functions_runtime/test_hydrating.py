"""Hydration: which address a delivery names, what its event gets of the answer, and what becomes of it without one."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from functions_runtime.definition import Definition
from functions_runtime.host.fetch import Fetcher
from functions_runtime.hydration.asking import Hydrator, LeavingError, ask_all, ask_one
from functions_runtime.rules.hydrating import Answer, Ask, Hydration, address_of
from functions_runtime.rules.outcome import outcome_of
from functions_runtime.rules.packing import Finished, Prepared, finish, prepare
from functions_runtime.sandbox import wire
from functions_runtime.sandbox.batch import Fate
from shared.driving.egress import Guard, networks
from shared.events.dead import decode_dead
from shared.events.event import facts_of, materialise
from shared.events.frame import Frame, Head, RequestContext, decode_frame, pack
from shared.events.headers import Place
from shared.project.functions import PrivacyRule
from shared.project.model import Connection
from shared.project.webhooks.hydrate import Hydrate
from shared.reading.units import ByteSize, Duration
from shared.rules.privacy import compile_rules
from shared.settings import ServiceSettings
from shared.telemetry.health import Health
from shared.telemetry.metrics import Telemetry

HINTS = b'{"__sql_type_a": "text", "a": 1, "JITSU_TABLE_NAME": "x", "deep": {"__sql_\\u0074ype_b": "text"}}'
URL = "https://api.example.com/orders/{id}"


def hydrate_of(**options: Any) -> Hydrate:
    return Hydrate(**{"url": URL, "into": "properties.order", **options})


def frame_of(*payloads: object, protocol: str = "webhook", packed: bool = False) -> Frame:
    about = {"name": "hook", "type": "open", **({"packed": True} if packed else {}), "index": 0}
    heads = [Head(f"m{number}", "webhook", "hook") for number in range(len(payloads))]
    bodies = [{"type": "webhook", "context": {"webhook": about}, "properties": each} for each in payloads]
    request = RequestContext(1_767_225_600_000_000, protocol, "hook", "server")
    return pack("shop", [request], heads, [json.dumps(body).encode() for body in bodies])


def bodies_of(frame: Frame) -> list[dict[str, Any]]:
    facts = [facts_of(request) for request in frame.requests]
    return [materialise(body, head, facts[head.request]) for body, head in zip(frame.bodies(), frame.heads, strict=True)]


def through(
    frame: Frame, answers: dict[str, Answer], hydrate: Hydrate, *, failures: int = 0, rules: tuple[PrivacyRule, ...] = ()
) -> tuple[Prepared, Finished, Hydration]:
    found = {Ask("hook", f"https://api.example.com/orders/{id_}"): each for id_, each in answers.items()}
    hydration = Hydration({"hook": hydrate}, found, failures)
    made = prepare(frame, compile_rules(rules, lambda: b"n" * 12), failures, hydrate=hydration)
    return made, finish(made, [Fate(wire.SAME)] * len(made.given)), hydration


@pytest.mark.parametrize(
    ("url", "payload", "address"),
    [
        (URL, {"id": 7}, "https://api.example.com/orders/7"),
        (URL, {"id": "a/b?c#d é"}, "https://api.example.com/orders/a%2Fb%3Fc%23d%20%C3%A9"),
        (URL, {"id": "../admin"}, "https://api.example.com/orders/..%2Fadmin"),
        ("https://x.example/{a.b}?v={c}", {"a": {"b": 1}, "c": "&d=1"}, "https://x.example/1?v=%26d%3D1"),
        ("https://x.example/{a.b}", {"a.b": 2}, "https://x.example/2"),
        (URL, {"id": None}, None),
        (URL, {"id": ""}, None),
        (URL, {"id": {}}, None),
        (URL, {}, None),
    ],
)
def test_an_address_has_the_values_of_the_payload_escaped(url: str, payload: dict[str, Any], address: str | None) -> None:
    assert address_of(Hydrate(url=url), payload, packed=False) == address
    assert address_of(Hydrate(url=url), {"data": payload}, packed=True) == address


@pytest.mark.parametrize("value", ["..", ".", "x" * 600])
def test_a_value_that_would_lead_elsewhere_makes_no_address(value: str) -> None:
    found = address_of(Hydrate(url=URL), {"id": value}, packed=False)
    assert isinstance(found, Answer)
    assert found.kind == "failed"


@pytest.mark.parametrize(
    ("address", "good"),
    [
        ("https://api.example.com/o/1?x=2", True),
        ("http://API.example.com:8080/", True),
        ("https://api.example.com.evil.com/", False),
        ("https://api.example.com@evil.com/", False),
        ("https://user:p@api.example.com/", False),
        ("https://evil.com\\@api.example.com/", False),
        ("https://api.example.com:81/", False),
        ("ftp://api.example.com/", False),
        ("//api.example.com/", False),
        ("https://api.example.com/\n", False),
        ("https://[api.example.com/", False),
    ],
)
def test_an_address_out_of_the_payload_needs_one_of_the_hosts(address: str, good: bool) -> None:
    hydrate = Hydrate(url="{links.self}", hosts=["api.example.com", "api.example.com:8080"])
    found = address_of(hydrate, {"links": {"self": address}}, packed=False)
    assert (found == address) is good
    assert good or isinstance(found, Answer)


def test_each_event_gets_its_answer_a_mark_or_another_try_and_the_others_go_on() -> None:
    answers = {
        "1": Answer("ok", 200, {"total": 9.5}),
        "2": Answer("missing", 404, words="the address answers 404"),
        "3": Answer("again", 503, words="the address answers 503"),
        "4": Answer("failed", 200, words="no JSON"),
    }
    frame = frame_of({"id": 1}, {"id": 2}, {"id": 3}, {"id": 4}, {"none": 1})
    made, finished, hydration = through(frame, answers, hydrate_of())
    assert [body["properties"].get("order") for body in bodies_of(finished.frame)] == [{"total": 9.5}, None, None]
    assert [body["context"]["webhook"].get("hydration") for body in bodies_of(finished.frame)] == [
        {"status": 200},
        {"status": 404},
        None,
    ]
    assert finished.frame.dead == {"hydration_failed": 1}
    assert hydration.results == Counter({("hook", kind): 1 for kind in ("ok", "missing", "again", "failed")})
    assert [(each.index, each.function, each.dropped) for each in finished.retries] == [(2, "hydrate.hook", True)]
    outcome = outcome_of(
        made, finished, queue="q", connection="c", place=Place("l", 1, 5), headers={}, failures=0, delay=lambda _: 10.0, at=0.0
    )
    (letter,) = decode_dead(outcome.letters)
    assert (letter.reason, letter.detail) == ("hydration_failed", "webhook hook: no JSON")
    (later,) = outcome.later
    again = decode_frame(later.payload)
    assert [head.message_id for head in again.heads] == ["m2"]
    _, finished, _ = through(again, {"3": Answer("ok", 200, [1])}, hydrate_of(), failures=1)
    assert [body["properties"] for body in bodies_of(finished.frame)] == [{"id": 3, "order": [1]}]


def test_rules_hide_what_was_fetched_and_not_what_is_still_asked_for() -> None:
    hide = (PrivacyRule(field="properties.id", do="hash", secret="s"), PrivacyRule(field="**.mail", do="drop"))
    made, finished, _ = through(frame_of({"id": 1}), {"1": Answer("again", words="away")}, hydrate_of(), rules=hide)
    outcome = outcome_of(
        made, finished, queue="q", connection="c", place=Place("l", 1, 1), headers={}, failures=0, delay=lambda _: 10.0, at=0.0
    )
    again = decode_frame(outcome.later[0].payload)
    assert not again.trusted_hints  # the rules did not run yet
    _, finished, _ = through(again, {"1": Answer("ok", 200, {"mail": "a@b", "n": 1})}, hydrate_of(), failures=1, rules=hide)
    (body,) = bodies_of(finished.frame)
    assert body["properties"]["order"] == {"n": 1}
    assert len(body["properties"]["id"]) == 64
    # the same for an event that is dead
    made, finished, _ = through(frame_of({"id": 1}), {"1": Answer("failed", words="no")}, hydrate_of(), rules=hide)
    assert json.loads(made.bodies[0])["properties"]["id"] == body["properties"]["id"]
    assert [letter.reason for letter in finished.letters] == ["hydration_failed"]


@pytest.mark.parametrize(
    ("options", "kind", "result"),
    [
        ({"missing": "dead_letter"}, "missing", "dead"),
        ({"missing": "again"}, "missing", "again"),
        ({"missing": "again", "delays": []}, "missing", "dead"),
        ({"delays": []}, "again", "dead"),
        ({"delays": [], "failed": "leave_out"}, "again", "marked"),
        ({"failed": "leave_out"}, "failed", "marked"),
    ],
)
def test_the_options_say_what_becomes_of_an_event_without_an_answer(options: dict[str, Any], kind: Any, result: str) -> None:
    _, finished, _ = through(frame_of({"id": 1}), {"1": Answer(kind, 418, words="teapot")}, hydrate_of(**options))
    assert bool(finished.frame.dead) == (result == "dead")
    assert bool(finished.retries) == (result == "again")
    marks = [body["context"]["webhook"]["hydration"] for body in bodies_of(finished.frame)]
    assert marks == ([{"status": 418, "failed": "teapot"}] if result == "marked" else [])


def test_what_has_an_answer_and_what_no_webhook_brought_is_not_asked_for() -> None:
    _, finished, _ = through(frame_of({"id": 1}), {"1": Answer("ok", 200, {})}, hydrate_of())
    for frame in (finished.frame, frame_of({"id": 1}, protocol="segment"), frame_of()):
        collecting = Hydration({"hook": hydrate_of()}, None)
        prepare(frame, None, hydrate=collecting)
        assert collecting.asks == {}


def test_digits_that_a_double_loses_are_kept() -> None:
    made, finished, _ = through(frame_of({"id": 1}), {"1": Answer("ok", 200, {"id": 12345678901234567890})}, hydrate_of())
    assert made.given[0].exact
    assert bodies_of(finished.frame)[0]["properties"]["order"] == {"id": 12345678901234567890}


class Vendor:
    """An API: counts what it is asked, and answers by the id."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.headers: list[Any] = []
        self.under_way = self.most_under_way = 0
        self.hold = asyncio.Event()
        self.hold.set()
        self.other = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        id_ = request.match_info["id"]
        self.asked[id_] += 1
        self.headers.append(request.headers.copy())
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.hold.wait()
        finally:
            self.under_way -= 1
        if id_.isdigit():
            return web.Response(status=int(id_), body=b'{"n":1}' if id_ == "200" else b"")
        if id_ == "moved":
            raise web.HTTPFound(f"{self.other}/orders/here")
        if id_ == "loop":
            raise web.HTTPFound("/orders/loop")
        if id_.startswith("page"):
            return web.Response(status=int(id_[4:]), body=b"x" * 100_000)
        texts = {
            "hints": HINTS,
            "bom": b"\xef\xbb\xbf[1]",
            "large": b"[" + b"1," * 100_000 + b"1]",
            "html": b"<html>",
            "deep": b"[" * 100_000,
        }
        return web.Response(body=texts.get(id_, b'{"id":"%b"}' % id_.encode()))


@pytest.fixture
async def vendor() -> Any:
    vendor = Vendor()
    application = web.Application()
    application.router.add_get("/orders/{id}", vendor.answer)
    async with TestServer(application) as server:
        vendor.url = str(server.make_url("/orders/")) + "{id}"  # type: ignore[attr-defined]
        yield vendor
        vendor.hold.set()


@pytest.fixture
async def fetcher() -> Any:
    fetcher = Fetcher(Guard(networks("127.0.0.1", "X"), remedy="an operator allows more"))
    yield fetcher
    await fetcher.close()


@pytest.mark.parametrize(
    ("id_", "kind"),
    [
        ("200", "ok"), ("a", "ok"), ("204", "missing"), ("404", "missing"), ("410", "missing"), ("202", "again"), ("401", "again"), ("403", "again"),
        ("429", "again"), ("500", "again"), ("503", "again"), ("400", "failed"), ("422", "failed"), ("large", "failed"), ("html", "failed"),
        ("deep", "failed"), ("loop", "again"), ("bom", "ok"), ("page503", "again"), ("page404", "missing"), ("page200", "failed"),
    ],
)  # fmt: skip
async def test_an_answer_counts_by_its_status_and_its_bytes(vendor: Any, fetcher: Fetcher, id_: str, kind: str) -> None:
    hydrate = hydrate_of(url=vendor.url, max_bytes=ByteSize(200_000 if id_ == "deep" else 10_000))
    assert (await ask_one(fetcher, vendor.url.replace("{id}", id_), hydrate)).kind == kind


async def test_headers_go_to_their_host_only(vendor: Any, fetcher: Fetcher) -> None:
    other = Vendor()
    application = web.Application()
    application.router.add_get("/orders/{id}", other.answer)
    async with TestServer(application) as server:
        vendor.other = str(server.make_url("")).rstrip("/")
        found = await ask_one(fetcher, vendor.url.replace("{id}", "moved"), hydrate_of(headers={"X-Api-Key": "s3cret"}))
    assert found.value == {"id": "here"}
    assert vendor.headers[0]["x-api-key"] == "s3cret"
    assert "x-api-key" not in other.headers[0]


@pytest.mark.parametrize("address", ["http://api.example.com:99999/", "http://xn--/", "http:///x", "http://[::1/"])
async def test_what_is_no_address_fails_at_once_and_ends_no_frame(fetcher: Fetcher, address: str) -> None:
    assert await ask_one(fetcher, address, hydrate_of()) == Answer("failed", words="the address is no http address")


async def test_an_answer_chooses_no_types_and_tables(vendor: Any, fetcher: Fetcher) -> None:
    """Customers fill the objects of an API: what only functions may say to the loader is taken out."""
    found = await ask_one(fetcher, vendor.url.replace("{id}", "hints"), hydrate_of(url=vendor.url))
    assert found.value == {"a": 1, "deep": {}}


@pytest.mark.parametrize("address", ["http://169.254.169.254/a", "http://[::1]:1/a", "http://localhost:1/a", "http://10.0.0.1/a"])
async def test_addresses_that_are_not_of_the_internet_are_not_asked(address: str) -> None:
    fetcher = Fetcher(Guard(remedy="an operator allows more"))
    try:
        found = await ask_one(fetcher, address, hydrate_of())
    finally:
        await fetcher.close()
    assert found.kind == "again"
    host = found.words.partition(" ")[0]
    assert found.words == f"{host} cannot be reached: {host} is no address of the internet; an operator allows more"


async def test_no_more_are_asked_at_once_and_after_so_many_failures_in_a_row_none(vendor: Any, fetcher: Fetcher) -> None:
    wanted = {"hook": hydrate_of(at_once=3)}
    good = [Ask("hook", vendor.url.replace("{id}", f"x{number}")) for number in range(20)]
    answers = await ask_all(fetcher, good, wanted)
    assert {answer.kind for answer in answers.values()} == {"ok"}
    assert vendor.most_under_way <= 3
    bad = [Ask("hook", f"{vendor.url.replace('{id}', '503')}?{number}") for number in range(50)]
    answers = await ask_all(fetcher, bad, wanted)
    assert {answer.kind for answer in answers.values()} == {"again"}
    assert len(answers) == 50
    assert vendor.asked["503"] <= 5
    with pytest.raises(LeavingError):
        await ask_all(fetcher, good, wanted, lambda: True)


async def test_a_frame_asks_each_address_once_and_shows_an_outage_until_it_ends(vendor: Any, fetcher: Fetcher) -> None:
    class Context:
        telemetry = Telemetry("functions_runtime", ServiceSettings())
        health = Health()
        forgotten = None

    context: Any = Context()
    connection = Connection(site="shop", destination="wh")
    definition = Definition(
        "c", "c", connection, (), "duckdb", hydrates={"hook": hydrate_of(url=vendor.url, delays=[Duration(1)])}
    )
    hydrator = Hydrator(context, "c", fetcher, lambda: False)
    frame = frame_of({"id": "a"}, {"id": "a"}, {"id": "503"}, {"id": "b"})
    hydration = await hydrator.of(frame, definition, 0)
    assert hydration is not None
    assert await hydrator.of(frame, definition, 0) is not None  # functions cannot run yet
    assert vendor.asked == {"a": 1, "b": 1, "503": 1}
    assert hydrator.policies["hydrate.hook"].delay(1) == 1
    made = prepare(frame, None, hydrate=hydration)
    assert list(made.given) == [0, 1, 3]
    hydrator.count(hydration)
    assert "webhook hook: the address answers 503" in context.health.warnings["hydration of connection c"]
    assert await hydrator.of(frame_of({"id": "z"}), definition, 0) is not None
    assert context.health.warnings == {}
    assert await hydrator.of(frame_of({"id": "z"}, protocol="segment"), definition, 0) is None
