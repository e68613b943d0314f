"""Who is refused is counted by site and key, told now and then, and never brought back all at once; and what bodies may hold."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytest

from ingest.clients.address import Proxies, parse_networks
from ingest.clients.own_address import own_url
from ingest.contract import Admission, Refusal, Reply
from ingest.http.answer import Answered, encode_answer
from ingest.limits.bounds import SHARE, Bounds, Held
from ingest.limits.refusals import Refusals, jittered
from shared.project.model import SiteLimits

MIB = 1024 * 1024
PROXIES = Proxies(parse_networks(["10.0.0.0/8"], "X"))


class Counts:
    def __init__(self) -> None:
        self.counted: Counter[tuple[str, ...]] = Counter()

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        self.counted[(name, *labels.values())] += int(amount)


def test_a_refusal_is_counted_by_site_and_masked_key_and_logged_once_in_a_while(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = Counts()
    refusals = Refusals(counts)  # type: ignore[arg-type]
    refusal = Admission("shop", "web", "browser", SiteLimits()).refuse(429, "rate_limited", "too many", 2)
    with caplog.at_level(logging.WARNING):
        for number in range(1000):
            refusals.note(refusal, "192.0.2.1", b"id-%d" % number)
        refusals.note(Refusal(401, "unknown_key", "no"), None, b"other")
    assert "1000 rate_limited (site shop, key web), 1 unknown_key in the last two minutes" in refusals.recent()
    monkeypatch.setattr("ingest.limits.refusals.RECENT_SECONDS", 0.0)
    assert refusals.recent() == ""
    assert counts.counted == {
        ("ingest_requests_refused_total", "rate_limited", "shop", "web"): 1000,
        ("ingest_requests_refused_total", "unknown_key", "", ""): 1,
    }
    lines: list[Any] = caplog.records
    assert [(line.code, line.site, line.key, line.address, line.request) for line in lines] == [
        ("rate_limited", "shop", "web", "192.0.2.1", "id-0"),
        ("unknown_key", "", "", "", "other"),
    ]


def test_clients_refused_together_do_not_come_back_together() -> None:
    times = {jittered(10) for _ in range(1000)}
    assert (min(times), max(times)) == (10, 15)
    assert {jittered(1) for _ in range(100)} == {1, 2}


def test_every_answer_has_an_id_of_its_own() -> None:
    ids = {encode_answer(Answered(Reply(200, b""))).partition(b"X-Request-Id: ")[2].partition(b"\r\n")[0] for _ in range(100)}
    assert len(ids) == 100
    assert b"X-Request-Id: mine\r\n" in encode_answer(Answered(Reply(200, b""), request_id=b"mine"))


def test_strangers_and_one_address_have_a_share_of_the_bytes_and_the_others_the_rest() -> None:
    bounds = Bounds(max_requests=1, max_body_bytes=100 * MIB * SHARE)

    def held(address: str, *, stranger: bool) -> Held:
        each = Held(bounds)
        each.belongs_to(address, stranger=stranger)
        return each

    strangers = [held(f"a{number}", stranger=True) for number in range(3)]
    assert [each.grow_to(60 * MIB) for each in strangers] == [True, False, False]
    known = [held("b", stranger=False) for _ in range(3)]
    assert [each.grow_to(60 * MIB) for each in known] == [True, False, False]
    assert held("c", stranger=False).grow_to(30 * MIB)
    for each in (*strangers, *known):
        each.free()
    assert (bounds.stranger_bytes, bounds.body_bytes, set(bounds.address_bytes)) == (0, 30 * MIB, {"c"})


def test_a_single_request_may_be_as_large_as_its_site_allows() -> None:
    alone = Held(Bounds(max_requests=1, max_body_bytes=10))
    alone.belongs_to("a", stranger=True)
    assert alone.grow_to(1000)


@pytest.mark.parametrize(
    ("peer", "headers", "url"),
    [
        ("1.2.3.4", {"host": "shop.example.com"}, "http://shop.example.com"),
        ("1.2.3.4", {"host": "SHOP.example.com:8443"}, "http://SHOP.example.com:8443"),
        ("1.2.3.4", {"host": "shop.example.com.:8443"}, "http://shop.example.com.:8443"),
        ("1.2.3.4", {"host": "evil.example"}, "http://127.0.0.1:8080"),
        ("1.2.3.4", {"host": "evil.example", "x-forwarded-host": "shop.example.com"}, "http://127.0.0.1:8080"),
        ("1.2.3.4", {"host": "shop.example.com", "x-forwarded-host": "evil.example"}, "http://shop.example.com"),
        ("1.2.3.4", {"host": "shop.example.com/evil"}, "http://127.0.0.1:8080"),
        ("1.2.3.4", {}, "http://127.0.0.1:8080"),
        ("10.0.0.1", {"host": "inner:8080", "x-forwarded-host": "a.example"}, "http://a.example"),
        ("10.0.0.1", {"host": "inner:8080", "x-forwarded-host": 'a"<script>'}, "http://inner:8080"),
    ],
)
def test_documents_name_this_server_as_its_domains_or_a_trusted_proxy_say(peer: str, headers: dict[str, str], url: str) -> None:
    place, host = PROXIES.place(peer, headers), headers.get("host", "")
    assert own_url(place, host, PROXIES.trusts(peer), lambda name: name == "shop.example.com", "127.0.0.1:8080") == url
