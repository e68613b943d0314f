"""Snowplow's network user id: where it comes from, the cookie that keeps it, and who asks for none."""

from __future__ import annotations

import pytest

from ingest.protocols import snowplow
from shared.errors import ConfigError
from shared.project.read import decode_project
from shared.project.snowplow import SnowplowCookie
from tests.unit.ingest.snowplows import PAGE_VIEW, desk, get, one, parsed, payload, post, snow

NOBODY = "00000000-0000-0000-0000-000000000000"


def cookie_of(request: object, **cookie: object) -> str:
    return parsed(request, snow(cookie=SnowplowCookie(**cookie))).headers["Set-Cookie"]  # type: ignore[arg-type, index]


def test_a_visitor_gets_an_id_in_a_cookie_and_keeps_it() -> None:
    assert cookie_of(post(payload(PAGE_VIEW))) == "sp=new-1; Max-Age=31536000; Path=/; Secure; HttpOnly; SameSite=None"
    again = post(payload(PAGE_VIEW), cookie="a=1; sp=abc-1; b=2")
    assert cookie_of(again) == "sp=abc-1; Max-Age=31536000; Path=/; Secure; HttpOnly; SameSite=None"
    assert one(again)["context"]["snowplow"]["nuid"] == "abc-1"


@pytest.mark.parametrize("cookie", ["xsp=abc", 'sp="', "sp=a\\b", "sp=" + "x" * 200, "sp=é", ""])
def test_a_cookie_that_no_edge_set_is_not_read(cookie: str) -> None:
    assert one(post(payload(PAGE_VIEW), cookie=cookie))["context"]["snowplow"]["nuid"] == "new-1"


def test_the_id_of_the_query_wins_over_the_cookie_and_that_of_the_event_over_both() -> None:
    query = {"nuid": "from-query"}
    assert one(post(payload(PAGE_VIEW), query=query, cookie="sp=abc"))["context"]["snowplow"]["nuid"] == "from-query"
    event = {**PAGE_VIEW, "tnuid": "own"}
    assert one(post(payload(event), query=query))["context"]["snowplow"]["nuid"] == "own"
    assert one(get({**query, "e": "pv"}))["anonymousId"] == "from-query"


@pytest.mark.parametrize(
    ("origin", "domain"),
    [
        ("https://shop.example.com", "; Domain=example.com"),
        ("https://example.com:8443", "; Domain=example.com"),
        ("https://notexample.com", "; Domain=fall.org"),
        ("null", "; Domain=fall.org"),
        ("", "; Domain=fall.org"),
        ("https://a.two.org", "; Domain=two.org"),
    ],
)
def test_the_cookies_domain_is_the_first_that_fits_the_page(origin: str, domain: str) -> None:
    found = cookie_of(
        post(payload(PAGE_VIEW), origin=origin),
        name="n", domains=["example.com", "two.org"], fallback_domain="fall.org", secure=False, http_only=False, same_site="lax",
    )  # fmt: skip
    assert found == f"n=new-1; Max-Age=31536000; Path=/{domain}; SameSite=Lax"


def test_who_asks_to_be_anonymous_has_no_id_no_address_and_no_cookie() -> None:
    event = {**PAGE_VIEW, "ip": "192.0.2.1"}
    del event["duid"]
    result = parsed(post(payload(event), sp_anonymous="*", cookie="sp=abc"))
    assert result.hide_address
    assert result.heads[0].anonymous_id is None
    assert result.headers
    assert result.headers["Set-Cookie"] == "sp=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=None"
    kept = one(post(payload(event), sp_anonymous="*"))["context"]["snowplow"]
    assert (kept["nuid"], "ip" in kept) == (NOBODY, False)
    assert parsed(post(payload(event), sp_anonymous="*")).headers is None


def test_no_cookie_is_set_where_it_is_off_or_for_servers() -> None:
    assert parsed(post(payload(PAGE_VIEW), cookie="sp=a"), snow(cookie="off")).headers is None
    assert one(post(payload(PAGE_VIEW), cookie="sp=a"), snow(cookie="off"))["context"]["snowplow"]["nuid"] == "new-1"
    assert parsed(post(payload(PAGE_VIEW), x_write_key="api:s3cret")).headers is None


@pytest.mark.parametrize(("ip", "kept"), [("keep", "192.0.2.77"), ("truncate", "192.0.2.0"), ("drop", None)])
def test_an_address_that_an_event_names_is_treated_as_the_site_says(ip: str, kept: str | None) -> None:
    event = one(post(payload({**PAGE_VIEW, "ip": "192.0.2.77, 10.0.0.1"})), desk(ip=ip))
    assert event["context"]["snowplow"].get("ip") == kept


def test_faults_of_the_options_are_named() -> None:
    site = {
        "keys": [{"id": "web"}],
        "snowplow": {
            "paths": {"no": "tp2", "/com.acme/track": "tp2"},
            "redirect_hosts": ["https://x"],
            "cookie": {"name": "a b", "secure": False, "domains": ["x y"]},
        },
    }
    other = {"keys": [{"id": "w2"}], "snowplow": {"paths": {"/com.acme/track": "tp2"}}}
    with pytest.raises(ConfigError) as raised:
        decode_project({"sites": {"a": site, "b": other}})
    assert [problem.path for problem in raised.value.problems] == [
        "sites.a.snowplow.paths['no']",
        "sites.a.snowplow.redirect_hosts[0]",
        "sites.a.snowplow.cookie.name",
        "sites.a.snowplow.cookie.same_site",
        "sites.a.snowplow.cookie.domains",
        "sites.b.snowplow.paths['/com.acme/track']",
    ]


def test_a_path_of_its_own_needs_a_key_that_pages_may_show() -> None:
    site = {"keys": [{"id": "api", "kind": "server", "secret": "x"}], "snowplow": {"paths": {"/com.acme/track": "tp2"}}}
    with pytest.raises(ConfigError, match="bypass the secrets"):
        decode_project({"sites": {"a": site}})


def test_a_path_of_its_own_selects_the_site() -> None:
    of = snow(paths={"/com.acme/track": "tp2"})
    request = post(payload(PAGE_VIEW))._replace(host="", params={"path": "/com.acme/track"})
    assert parsed(request, of).admission.site == "shop"
    assert snowplow.credentials(request)[-1].value == "/com.acme/track"
