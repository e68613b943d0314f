"""The files that pages load: their size, their forms, and what a site tells its pages."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import brotli
import pytest

from ingest.browser import assets
from ingest.browser.pages import SitePages, pages_of, paths_of
from ingest.contract import HttpRequest, Refusal, Reply
from ingest.http.answer import Answered, encode_answer
from ingest.http.routes import Routes
from ingest.protocols import browser
from ingest.registry import http_protocols
from shared.project.read import decode_project
from tests.unit.ingest.desks import CountingDesk, get

ROOT = Path(__file__).parents[3]
MOST_BYTES = 10 * 1024
PROJECT: dict[str, Any] = {
    "sites": {
        "shop": {
            "keys": [{"id": "web"}],
            "origins": ["https://www.example.com"],
            "browser": {"path": "/assets/shop", "cookie_domain": "example.com", "cookie_days": 30},
        },
        "plain": {"keys": [{"id": "plain"}]},
    },
    "destinations": {"tag": {"type": "tag", "script": "1"}, "off": {"type": "tag", "script": "2"}},
    "connections": {
        "shop-tag": {"site": "shop", "destination": "tag", "consent": ["ads"], "where": {"field": "type", "eq": "track"}},
        "shop-off": {"site": "shop", "destination": "off", "enabled": False},
    },
}


def desk() -> CountingDesk:
    return CountingDesk(decode_project(PROJECT))


def asked(route: str, headers: dict[str, str] | None = None, body: bytes = b"", **params: str) -> Reply | Refusal:
    request = HttpRequest("POST" if body else "GET", route, params, {}, headers or {}, body, "", "")
    answer = browser.parse(request, desk())
    assert isinstance(answer, Reply | Refusal)
    return answer


def test_the_script_stays_below_ten_kibibytes() -> None:
    assert len(assets.script().gzip.body) < MOST_BYTES
    assert len(assets.module().gzip.body) < MOST_BYTES


def test_modules_that_are_put_into_one_scope_share_no_name() -> None:
    declared = re.compile(r"^(?:export )?(?:async )?(?:function|const|let|class) (\w+)", re.MULTILINE)
    for names in ((*assets.CORE, "start"), ("where", "devices"), ("socket",)):
        found = [name for each in names for name in declared.findall((assets.FOLDER / "script" / f"{each}.mjs").read_text())]
        assert len(found) == len(set(found)), sorted(name for name in found if found.count(name) > 1)


def test_a_served_script_holds_no_import_and_no_comment_and_names_its_version() -> None:
    text = assets.script().plain.body.decode()
    assert not re.search(r"^\s*(import .* from|export |//)", text, re.MULTILINE)
    assert f'BUILD = "?v={assets.version()}"' in text


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip, deflate, br", "br"),
        ("gzip", "gzip"),
        ("", None),
        ("br;q=0, gzip", "gzip"),
        ("gzip;q=0.0", None),
        ("identity", None),
    ],
)
def test_a_file_is_sent_in_the_best_form_that_the_browser_takes(accepted: str, encoding: str | None) -> None:
    reply = asked(browser.SCRIPT, {"accept-encoding": accepted})
    assert isinstance(reply, Reply)
    assert reply.headers.get("Content-Encoding") == encoding
    unpacked = {"br": brotli.decompress, "gzip": gzip.decompress, None: bytes}[encoding](reply.body)
    assert unpacked == assets.script().plain.body
    assert reply.headers["Vary"] == "Accept-Encoding"
    assert reply.headers["Access-Control-Allow-Origin"] == "*"


def test_a_browser_that_has_a_file_is_told_so_without_body_type_and_length() -> None:
    etag = assets.script().etag
    for known in (etag, f'"x", {etag}', "*"):
        reply = asked(browser.SCRIPT, {"if-none-match": known, "accept-encoding": "br"})
        assert isinstance(reply, Reply)
        sent = encode_answer(Answered(reply))
        assert sent.startswith(b"HTTP/1.1 304 Not Modified\r\n")
        assert sent.endswith(b"\r\n\r\n")
        assert not re.search(rb"^Content-(Type|Length|Encoding)", sent, re.MULTILINE)
        assert etag.encode() in sent
    other = asked(browser.SCRIPT, {"if-none-match": 'W/"other"'})
    assert isinstance(other, Reply)
    assert other.status == 200


def test_only_a_file_with_its_version_in_its_address_is_kept_for_ever() -> None:
    for query, lasts in (({"v": assets.version()}, True), ({"v": "old"}, False), ({}, False)):
        request = HttpRequest("GET", browser.DEVICE, {"file": "tag.js"}, query, {}, b"", "", "")
        reply = browser.parse(request, desk())
        assert isinstance(reply, Reply)
        assert ("immutable" in reply.headers["Cache-Control"]) is lasts


@pytest.mark.parametrize("name", ["nothing.js", "tag", "../tag.js", "tag.py", "", "contract.js", "%2e%2e"])
def test_there_are_no_other_files(name: str) -> None:
    for route in (browser.DEVICE, browser.PART):
        refused = asked(route, file=name)
        assert isinstance(refused, Refusal)
        assert refused.status == 404


def test_names_that_strangers_make_up_are_not_remembered() -> None:
    caches = (assets._part, assets._device)
    before = [cache.cache_info().currsize for cache in caches]
    for number in range(100):
        assert assets.part(f"{number}.mjs", False) is None
        assert assets.device(f"{number}.js", True) is None
    assert [cache.cache_info().currsize for cache in caches] == before


def test_the_settings_hold_the_enabled_devices_of_the_site_with_their_rules() -> None:
    reply = asked(browser.SETTINGS, key="web")
    assert isinstance(reply, Reply)
    document = json.loads(reply.body)
    assert document == {
        "cookie": {"domain": "example.com", "days": 30},
        "devices": [
            {
                "name": "shop-tag",
                "type": "tag",
                "src": f"d/tag.js?v={assets.version()}",
                "names": ["shop-tag", "tag"],
                "integrations": True,
                "consent": ["ads"],
                "where": {"field": "type", "eq": "track"},
                "options": {"script": "1"},
            }
        ],
    }
    plain = asked(browser.SETTINGS, key="plain")
    assert isinstance(plain, Reply)
    assert json.loads(plain.body) == {"devices": []}
    unknown = asked(browser.SETTINGS, key="nobody")
    assert isinstance(unknown, Refusal)
    assert unknown.status == 401


def test_the_cookie_is_set_for_the_sites_domain_and_only_with_an_id_that_fits() -> None:
    body = {"writeKey": "web", "anonymousId": "0a-b_c.d~E"}
    reply = asked(browser.COOKIE, {"origin": "https://www.example.com"}, json.dumps(body).encode())
    assert isinstance(reply, Reply)
    cookie = reply.headers["Set-Cookie"]
    assert cookie == "penstock_id=0a-b_c.d~E; Max-Age=2592000; Domain=example.com; Path=/; SameSite=Lax; Secure"
    for wrong, status in (
        ({"writeKey": "web", "anonymousId": "a; Domain=evil.com"}, 400),
        ({"writeKey": "web", "anonymousId": ""}, 400),
        ({"writeKey": "web"}, 400),
        ({"writeKey": "nobody", "anonymousId": "a"}, 401),
        ({"writeKey": "plain", "anonymousId": "a"}, 404),
        ({"anonymousId": "a"}, 401),
    ):
        refused = asked(browser.COOKIE, {}, json.dumps(wrong).encode())
        assert isinstance(refused, Refusal), wrong
        assert refused.status == status, wrong
    for odd in (b"[]", b"\xff", b"{" * 5000, b"null"):
        assert isinstance(asked(browser.COOKIE, {}, odd), Refusal)


def test_a_path_of_the_sites_own_leads_to_the_same_routes_until_the_project_changes() -> None:
    routes = Routes(http_protocols())
    routes.use_paths(paths_of(decode_project(PROJECT)))
    for method, path, route in (
        ("GET", "/assets/shop.js", browser.SCRIPT),
        ("GET", "/assets/shop.mjs", browser.MODULE),
        ("GET", "/assets/shop/s/web", browser.SETTINGS),
        ("GET", "/assets/shop/d/tag.js", browser.DEVICE),
        ("POST", "/assets/shop/e", browser.EVENTS),
        ("POST", "/assets//shop/i/", browser.COOKIE),
    ):
        found = routes.find(method, path)
        assert found is not None, path
        assert found.route == route
    for path in ("/assets/shop", "/assets/shopping/e", "/assets/shop.jsx", "/assets/shop/x", "/assets/other.js"):
        assert routes.find("GET", path) is None, path
    routes.use_paths(())
    assert routes.find("GET", "/assets/shop.js") is None


def test_a_device_that_is_refused_today_is_left_out_and_the_others_stay() -> None:
    project = decode_project({**PROJECT, "destinations": {**PROJECT["destinations"], "off": {"type": "tag"}},
                              "connections": {**PROJECT["connections"], "shop-off": {"site": "shop", "destination": "off"}}}, stored=True)  # fmt: skip
    pages = pages_of(project)["shop"]
    assert isinstance(pages, SitePages)
    assert [each["name"] for each in pages.devices] == ["shop-tag"]


def test_the_package_for_npm_names_files_that_exist_and_the_version_of_the_script() -> None:
    package = json.loads((assets.FOLDER / "package.json").read_text())
    for name in (package["main"], package["types"], *package["files"]):
        assert (assets.FOLDER / name).exists(), name
    assert f'VERSION = "{package["version"]}"' in assets.script().plain.body.decode()
    assert get(browser.TYPES) is not None
