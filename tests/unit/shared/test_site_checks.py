"""Keys, domains and origins that would open a site to the wrong sender, or to none, are refused with their path and a remedy."""

from __future__ import annotations

from typing import Any

import pytest

from shared.errors import ConfigError
from shared.project.read import decode_project

WEB = [{"id": "web"}]


def problems(**sites: dict[str, Any]) -> dict[str, str]:
    try:
        decode_project({"sites": sites})
    except ConfigError as exc:
        return {problem.path: problem.message for problem in exc.problems}
    return {}


@pytest.mark.parametrize(
    ("site", "path", "words"),
    [
        ({"keys": [{"id": "a", "secret": "s"}, {"id": "a"}]}, "keys[1].id", "in this site already"),
        ({"keys": [{"id": "a", "secret": ""}]}, "keys[0].secret", "would open without one"),
        ({"keys": [{"id": "a", "secret": "s"}], "domains": ["a.example"]}, "domains", "add a browser key"),
        ({"keys": [{"id": "a", "kind": "server"}], "domains": ["a.example"]}, "domains", "add a browser key"),
        ({"keys": WEB, "domains": ["a.example", "A.example"]}, "domains[1]", "upper and lower case are the same"),
        ({"keys": WEB, "domains": ["https://a.example"]}, "domains[0]", "without scheme"),
        ({"keys": WEB, "domains": ["a.example:8080"]}, "domains[0]", "without scheme, port"),
        ({"keys": WEB, "domains": ["*.example"]}, "domains[0]", "expected a host name"),
    ],
)
def test_a_site_that_would_open_to_the_wrong_sender_is_refused(site: dict[str, Any], path: str, words: str) -> None:
    found = problems(shop=site)
    assert list(found) == [f"sites.shop.{path}"]
    assert words in found[f"sites.shop.{path}"]


def test_a_domain_belongs_to_one_site_however_it_is_spelled() -> None:
    found = problems(a={"keys": [{"id": "a"}], "domains": ["x.example"]}, b={"keys": [{"id": "b"}], "domains": ["X.EXAMPLE"]})
    assert "belongs to site 'a'" in found["sites.b.domains[0]"]


@pytest.mark.parametrize(
    ("origin", "words"),
    [
        ("shop.example.com", "write https://shop.example.com"),
        ("shop.example.com:8080", "write https://shop.example.com:8080"),
        ("https://shop.example.com/path?x", "write https://shop.example.com"),
        ("https://user@shop.example.com", "write https://shop.example.com"),
        ("https://shop.example.com:443", "write https://shop.example.com"),
        ("http://shop.example.com:80/", "write http://shop.example.com"),
        ("https://bücher.example", "write https://xn--bcher-kva.example"),
        ("null", "sandboxed frame"),
        ("https://*", "for its subdomains"),
        ("https://shop.*.com", "for its subdomains"),
        ("*.example.com", "write https://*.example.com"),
        ("", "such as https://shop.example.com"),
    ],
)
def test_an_origin_no_browser_sends_is_refused_and_the_right_one_named(origin: str, words: str) -> None:
    assert words in problems(shop={"keys": WEB, "origins": [origin]})["sites.shop.origins[0]"]


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "https://shop.example.com",
        "https://Shop.example.com/",
        "http://localhost:3000",
        "https://*.example.com",
        "http://[::1]:3000",
        "capacitor://localhost",
    ],
)
def test_an_origin_that_browsers_send_is_taken(origin: str) -> None:
    assert problems(shop={"keys": WEB, "origins": [origin]}) == {}


def test_a_star_beside_other_origins_is_refused() -> None:
    assert "every origin" in problems(shop={"keys": WEB, "origins": ["https://a.example", "*"]})["sites.shop.origins[1]"]
