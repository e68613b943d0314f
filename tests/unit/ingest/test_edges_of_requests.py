"""What surrounds the events of a request: addresses, origins, rates, routes, user agents, places."""

from __future__ import annotations

import tempfile
from types import SimpleNamespace
from typing import Any, cast

import pytest
from multidict import CIMultiDict

from ingest.clients.address import Proxies, Treatment, parse_networks, stricter, treat_address
from ingest.clients.bursts import burst_of
from ingest.clients.keys import KeyIndex
from ingest.clients.origins import Origins, preflight_headers
from ingest.clients.sender import agent_reader, location_reader, names_bot
from ingest.contract import Credential, Parsed, Refusal, Route
from ingest.http.routes import Routes
from ingest.intake.intake import Intake, Sender
from ingest.limits.rate import SLOTS, TABLE_BYTES, RateLimiter
from ingest.protocols import segment
from shared.clock import Clock
from shared.errors import ConfigError
from shared.project.model import Key, Project, Site
from tests.unit.ingest.desks import CountingDesk, post

TRUSTED = parse_networks(["10.0.0.0/8", "::1"], "X")


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        ("1.2.3.4", {}, "1.2.3.4"),
        ("1.2.3.4", {"x-forwarded-for": "6.6.6.6"}, "1.2.3.4"),
        ("10.0.0.1", {"x-forwarded-for": "6.6.6.6"}, "6.6.6.6"),
        ("10.0.0.1", {"x-forwarded-for": "9.9.9.9, 6.6.6.6, 10.0.0.2"}, "6.6.6.6"),
        ("10.0.0.1", {"x-forwarded-for": "6.6.6.6:1234"}, "6.6.6.6"),
        ("10.0.0.1", {"x-forwarded-for": "nonsense, 10.0.0.7"}, "10.0.0.7"),
        ("10.0.0.1", {"x-forwarded-for": ""}, "10.0.0.1"),
        ("10.0.0.1", {"x-forwarded-for": ",".join(["10.0.0.3"] * 500)}, "10.0.0.3"),
        ("10.0.0.1", {"forwarded": "for=7.7.7.7"}, "10.0.0.1"),
        ("10.0.0.1", {"forwarded": "for=7.7.7.7", "x-forwarded-for": "6.6.6.6"}, "6.6.6.6"),
        ("10.0.0.1", {"x-forwarded-for": "7.7.7.7" + " " * 100}, "7.7.7.7"),
        ("10.0.0.1", {"x-forwarded-for": "7" * 100}, "10.0.0.1"),
        ("::1", {"x-forwarded-for": "2001:db8::5"}, "2001:db8::5"),
        ("::ffff:10.0.0.1", {"x-forwarded-for": "6.6.6.6"}, "6.6.6.6"),
        ("::ffff:1.2.3.4", {}, "1.2.3.4"),
        ("fe80::1%eth0", {}, "fe80::1"),
        (None, {}, None),
    ],
)
def test_the_clients_address_is_believed_from_trusted_proxies_only(
    peer: str | None, headers: dict[str, str], client: str | None
) -> None:
    assert Proxies(TRUSTED).client_address(peer, headers) == client


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ({"forwarded": 'for="[2001:DB8::1]:4711";proto=https'}, "2001:db8::1"),
        ({"forwarded": "for=9.9.9.9, for=6.6.6.6;by=10.0.0.9"}, "6.6.6.6"),
        ({"forwarded": "for=unknown"}, "10.0.0.1"),
        ({"forwarded": "by=10.0.0.9"}, "10.0.0.1"),
        ({"forwarded": "For=6.6.6.6", "x-forwarded-for": "7.7.7.7"}, "6.6.6.6"),
        ({"forwarded": 'for=9.9.9.9;host="a, for=8.8.8.8", for=6.6.6.6, for=10.0.0.3'}, "6.6.6.6"),
        ({"forwarded": '"' * 8000 + ", for=6.6.6.6"}, "6.6.6.6"),
        ({"forwarded": 'for=9.9.9.9;x=", for="[2001:db8::1]"'}, "2001:db8::1"),
        ({"forwarded": 'for=9.9.9.9;x=", for="6.6.6.6:80", for="10.0.0.3:80"'}, "6.6.6.6"),
        ({"forwarded": 'proto=http;host="x;for=9.9.9.9;y";for=6.6.6.6'}, "6.6.6.6"),
        ({"forwarded": r'host="x, for=9.9.9.9;y=\"\"";for=6.6.6.6'}, "6.6.6.6"),
        ({"forwarded": "for=9.9.9.9, for=6.6.6.6; proto=https, ,"}, "6.6.6.6"),
        ({"forwarded": "for=9.9.9.9, nonsense"}, "10.0.0.1"),
        ({"x-forwarded-for": "7.7.7.7"}, "10.0.0.1"),
    ],
)
def test_forwarded_is_believed_where_the_operator_names_it(headers: dict[str, str], client: str) -> None:
    assert Proxies(TRUSTED, "Forwarded").client_address("10.0.0.1", headers) == client


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP"])
def test_all_lines_of_a_header_are_one_list(header: str) -> None:
    lines = CIMultiDict([(header, "9.9.9.9"), ("Other", "x"), (header, "6.6.6.6, 10.0.0.3")])
    assert Proxies(TRUSTED, header).client_address("10.0.0.1", lines) == "6.6.6.6"
    forwarded = CIMultiDict([("Forwarded", "for=9.9.9.9"), ("Forwarded", "for=6.6.6.6")])
    assert Proxies(TRUSTED, "forwarded").client_address("10.0.0.1", forwarded) == "6.6.6.6"


@pytest.mark.parametrize(
    ("header", "headers", "place"),
    [
        ("X-Forwarded-For", {"x-forwarded-proto": "https", "x-forwarded-host": "in.example.com:8443"}, ("https", "in.example.com:8443")),
        ("X-Forwarded-For", {"x-forwarded-proto": "javascript", "x-forwarded-host": "a b"}, (None, None)),
        ("X-Forwarded-For", {"forwarded": "for=1.1.1.1;proto=https;host=evil.example"}, (None, None)),
        (
            "X-Forwarded-For",
            {"x-forwarded-for": "1.1.1.1, 10.0.0.3", "x-forwarded-proto": "http, https, http", "x-forwarded-host": "e.example, a.example, a.example"},
            ("https", "a.example"),
        ),
        # the outer proxy added to what the client wrote, the inner passed it on; or each wrote its own: nobody knows
        ("X-Forwarded-For", {"x-forwarded-for": "1.1.1.1, 10.0.0.3", "x-forwarded-host": "evil.example, a.example"}, (None, None)),
        ("X-Forwarded-For", {"x-forwarded-for": "1.1.1.1", "x-forwarded-host": "evil.example, a.example"}, (None, "a.example")),
        ("Forwarded", {"forwarded": 'for=1.1.1.1;proto=https;host="[2001:db8::1]:80"'}, ("https", "[2001:db8::1]:80")),
        ("Forwarded", {"forwarded": "for=9.9.9.9;host=evil.example, for=1.1.1.1;host=a.example, for=10.0.0.3;host=b"}, (None, "a.example")),
        ("Forwarded", {"x-forwarded-proto": "https"}, (None, None)),
    ],
)  # fmt: skip
def test_scheme_and_host_are_the_word_of_the_outermost_trusted_proxy(
    header: str, headers: dict[str, str], place: tuple[str | None, str | None]
) -> None:
    assert Proxies(TRUSTED, header).place("10.0.0.1", headers) == place
    assert Proxies(TRUSTED, header).place("1.2.3.4", headers) == (None, None)


def test_a_wrong_network_is_named() -> None:
    with pytest.raises(ConfigError, match=r"X: .*'10\.0\.0/8'"):
        parse_networks(["10.0.0/8"], "X")


@pytest.mark.parametrize(
    ("address", "treatment", "kept"),
    [
        ("1.2.3.4", "keep", "1.2.3.4"),
        ("1.2.3.4", "truncate", "1.2.3.0"),
        ("2001:db8:1:2::3", "truncate", "2001:db8:1::"),
        ("1.2.3.4", "drop", None),
        (None, "truncate", None),
    ],
)
def test_an_address_is_kept_truncated_or_dropped(address: str | None, treatment: Any, kept: str | None) -> None:
    assert treat_address(address, treatment) == kept


@pytest.mark.parametrize(
    ("site", "asked", "treatment"),
    [
        ("keep", None, "keep"),
        ("keep", "keep", "keep"),
        ("keep", "stripLastOctet", "truncate"),
        ("keep", "remove", "drop"),
        ("drop", "stripLastOctet", "drop"),
        ("truncate", "remove", "drop"),
        ("truncate", "nonsense", "truncate"),
    ],
)
def test_a_client_may_ask_that_less_of_its_address_is_kept_and_never_more(
    site: Treatment, asked: str | None, treatment: Treatment
) -> None:
    assert stricter(site, asked) == treatment


def test_a_site_without_origins_takes_any_page_without_credentials() -> None:
    headers = Origins([]).headers("https://any.example")
    assert headers["Access-Control-Allow-Origin"] == "https://any.example"
    assert headers["Vary"] == "Origin"
    assert "Access-Control-Allow-Credentials" not in headers


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://shop.example.com", True),
        ("https://SHOP.example.com", True),
        ("https://a.b.example.org", True),
        ("https://example.org", False),
        ("https://evil.example", False),
        ("http://shop.example.com", False),
        ("https://shop.example.com.evil.example", False),
        ("https://evil.example/.example.org", False),
        ("null", False),
    ],
)
def test_only_listed_origins_are_echoed_and_may_send_credentials(origin: str, allowed: bool) -> None:
    origins = Origins(["https://shop.example.com/", "https://*.example.org"])
    headers = origins.headers(origin)
    assert origins.allows(origin) is allowed
    assert headers.get("Access-Control-Allow-Origin") == (origin if allowed else None)
    assert headers.get("Access-Control-Allow-Credentials") == ("true" if allowed else None)
    assert headers["Vary"] == "Origin"


def test_a_star_allows_any_page_without_credentials_and_names_nobody() -> None:
    headers = Origins(["*"]).headers("https://any.example")
    assert headers["Access-Control-Allow-Origin"] == "https://any.example"
    assert "Access-Control-Allow-Credentials" not in headers
    assert "Access-Control-Allow-Credentials" not in Origins(["*"]).headers("null")


@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        ({"origin": "https://a.example"}, True),
        ({"origin": "https://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"referer": "https://a.example/path?x"}, True),
        ({"referer": "https://evil.example/https://a.example"}, False),
        ({"origin": "https://evil.example", "referer": "https://a.example/"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": "same-site", "referer": "nonsense"}, False),
        ({}, True),
        ({"sec-fetch-site": "same-origin"}, True),
    ],
)
def test_a_page_is_known_by_its_origin_or_referer_and_one_that_hides_is_refused(headers: dict[str, str], taken: bool) -> None:
    assert (Origins(["https://a.example"]).stranger(headers) is None) is taken
    assert Origins([]).stranger(headers) is None


def test_a_preflight_allows_what_sdks_send_and_what_this_one_asks_for() -> None:
    asked = {"origin": "https://a.example", "access-control-request-headers": "Authorization, X-Own, bad header,"}
    headers = preflight_headers(Origins([]), asked)
    allowed = headers["Access-Control-Allow-Headers"].split(", ")
    assert {"authorization", "content-type", "anonymousid", "x-retry-count", "rsa-retry-reason", "x-own"} <= set(allowed)
    assert "bad header" not in allowed
    assert int(headers["Access-Control-Max-Age"]) >= 7200
    assert "POST" in headers["Access-Control-Allow-Methods"]
    assert "Access-Control-Allow-Headers" not in preflight_headers(Origins(["https://b.example"]), asked)
    private = "Access-Control-Allow-Private-Network"
    assert private not in headers
    assert preflight_headers(Origins([]), {**asked, "access-control-request-private-network": "true"})[private] == "true"


def test_a_key_is_held_to_its_rate_and_told_when_to_come_back() -> None:
    limiter = RateLimiter()
    assert limiter.take("k", 150, 100, now=1.0) == 0
    assert limiter.take("k", 50, 100, now=1.0) == 0  # the bucket holds two seconds
    assert limiter.take("k", 1, 100, now=1.0) == 1
    assert limiter.take("other", 1, 100, now=1.0) == 0
    assert limiter.take("k", 50, 100, now=1.4) == 1
    assert limiter.take("k", 50, 100, now=1.51) == 0


def test_what_is_refused_costs_nothing_so_no_client_can_put_a_key_into_debt() -> None:
    limiter = RateLimiter()
    assert limiter.take("k", 200, 100, now=1.0) == 0
    for _ in range(1000):
        assert limiter.take("k", 200, 100, now=1.0) == 2
    assert limiter.take("k", 200, 100, now=3.0) == 0


def test_processes_of_a_machine_hold_a_key_to_one_rate() -> None:
    with tempfile.TemporaryFile() as shared:
        shared.truncate(TABLE_BYTES)
        first, second = RateLimiter(shared.fileno()), RateLimiter(shared.fileno())
        assert first.take("k", 200, 100, now=1.0) == 0
        assert second.take("k", 1, 100, now=1.0) == 1
        assert second.take("k", 100, 100, now=2.0) == 0
        assert first.take("k", 1, 100, now=2.0) == 1


def test_keys_that_are_gone_leave_their_place_to_others() -> None:
    limiter = RateLimiter()
    for number in range(3 * SLOTS):
        assert limiter.take(f"k{number}", burst_of(1), 1, now=1000.0 * (1 + number // (SLOTS // 4))) == 0


def test_while_no_project_is_known_a_key_is_not_called_wrong() -> None:
    found = KeyIndex(None).admit([Credential("header", "web")])
    assert isinstance(found, Refusal)
    assert (found.status, found.retry_after) == (503, 2)


def test_keys_that_look_alike_when_masked_have_a_rate_each() -> None:
    site = Site(keys=[Key(id=f"server-key-{n}", kind="server") for n in range(2)] + [Key(id=n, kind="server") for n in "ab"])
    index = KeyIndex(Project(sites={"shop": site}))
    found = [index.admit([Credential("header", key.id)]) for key in site.keys]
    admissions = [each[0] for each in found if isinstance(each, tuple)]
    assert len({each.key for each in admissions}) == 2
    assert len({each.bucket for each in admissions}) == 4


def test_routes_are_found_by_method_and_path_with_their_parameters() -> None:
    routes = Routes([segment])
    match = routes.find("GET", "/v1/projects/a%20b/settings")
    assert match is not None
    assert match.params == {"key": "a b"}
    assert routes.find("POST", "/v1/pixel/track") is None
    assert routes.find("GET", "/v1/projects/a/b/settings") is None
    assert routes.methods("/v1/batch/") == ["POST"]
    assert routes.methods("/v1/pixel/track") == ["GET"]


@pytest.mark.parametrize("path", ["//v1/batch", "/v1//batch/", "http://x/v1/batch", "https://x:1//v1/batch", "/v1%2Fbatch"])
def test_a_whole_address_and_slashes_too_many_are_tolerated(path: str) -> None:
    assert Routes([segment]).methods(path) == ["POST"]


@pytest.mark.parametrize("path", ["", "/", "http://", "http://v1/batch", "*", "x:443", "/http://x/v1/batch"])
def test_what_only_looks_like_a_path_is_unknown(path: str) -> None:
    assert Routes([segment]).methods(path) == []


def test_two_protocols_cannot_claim_one_route() -> None:
    class Rival:
        NAME = "rival"
        ROUTES: tuple[Route, ...] = (Route("GET", "/v1/pixel/{kind}"),)
        credentials = staticmethod(segment.credentials)
        parse = staticmethod(segment.parse)
        reply = staticmethod(segment.reply)
        judge_again = staticmethod(segment.judge_again)
        as_event = staticmethod(segment.as_event)

    with pytest.raises(ValueError, match=r"GET /v1/pixel/\{kind\} is claimed by segment and rival"):
        Routes([segment, Rival()])


def test_a_browser_is_described_and_a_bot_is_known() -> None:
    read = agent_reader()
    facts, bot, _ = read(
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
    )
    assert facts == {
        "browser": "Mobile Safari", "browserVersion": "17.5", "os": "iOS", "osVersion": "17.5",
        "device": "iPhone", "deviceBrand": "Apple", "deviceModel": "iPhone",
    }  # fmt: skip
    assert not bot
    assert read("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)").bot
    assert read("nobody knows me") == (None, False, False)
    assert read("x" * 100_000) == (None, False, False)


@pytest.mark.parametrize(
    ("agent", "is_bot"),
    [
        (
            "Mozilla/5.0 (Linux; Android 9; CUBOT_X19) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/96.0 Mobile Safari/537.36",
            False,
        ),
        ("Dalvik/2.1.0 (Linux; U; Android 9; ROBOT P1 Build/PPR1)", False),
        ("MyApp/1.0 (CUBOT P40; Android 10)", False),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Version/16.4 Safari/605.1.15 (Safari Technology Preview)", False),
        ("Safari Technology Preview/18615.1 CFNetwork/1400 Darwin/22", False),
        (
            "Mozilla/5.0 (Linux; Android 6; Nexus 5X) Safari/537.36 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
            True,
        ),
        ("Mozilla/5.0 (compatible; SemrushBot-BA; +http://www.semrush.com/bot.html)", True),
        ("Mozilla/5.0 (Windows NT 6.1; Win64; x64) Chrome/41 Safari/537.36 BingPreview/1.0b", True),
        ("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/119.0 Safari/537.36", True),
        ("Pingdom.com_bot_version_1.4_(http://www.pingdom.com/)", True),
    ],
)
def test_the_name_of_a_device_or_a_browser_makes_no_bot(agent: str, is_bot: bool) -> None:
    assert names_bot(agent) is is_bot


def test_unknown_user_agents_take_a_bounded_share_of_the_time() -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.03  # what parsing one is taken to cost
        return now

    read = agent_reader(clock)
    agents = [read(f"agent {number} of a bot") for number in range(100)]
    parsed = sum(not agent.skipped for agent in agents)
    assert 5 < parsed < 40
    assert all(agent.bot for agent in agents)
    now += 10
    assert not read("agent 99 of a bot").skipped


def test_a_geo_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(ConfigError, match=r"/nowhere/geo\.mmdb"), location_reader("/nowhere/geo.mmdb"):
        pass


def test_without_a_geo_file_nobody_has_a_place() -> None:
    with location_reader(None) as read:
        assert read("1.2.3.4") is None


def test_a_user_agent_is_cut_before_it_is_read_and_stored() -> None:
    parsed = segment.parse(post("/v1/page", '{"type":"page","userId":"u"}', headers={"x-write-key": "web"}), CountingDesk())
    assert isinstance(parsed, Parsed)
    read: list[str] = []
    cut: list[tuple[str, str]] = []

    def reader(text: str) -> tuple[None, bool, bool]:
        read.append(text)
        return None, False, False

    intake = SimpleNamespace(
        _clock=Clock(),
        sites={},
        proxies=SimpleNamespace(client_address=lambda *_: None),
        _read_agent=reader,
        _skew=lambda *_: None,
        _keep_headers=(),
        telemetry=SimpleNamespace(count=lambda name, **labels: cut.append((name, labels["reason"]))),
    )
    context = Intake._context(cast("Any", intake), parsed, Sender("192.0.2.1", {"user-agent": "a" * 10_000}), "segment")
    assert context is not None
    assert [context.user_agent, *read] == ["a" * 512] * 2
    assert cut == [("ingest_texts_cut_total", "user_agent")]
