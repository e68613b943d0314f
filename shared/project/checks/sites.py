"""Checks across fields of sites: keys, domains and origins that would open a site to the wrong sender, or to none. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from shared.errors import Problem
from shared.project.checks.snowplow import check_snowplow

if TYPE_CHECKING:
    from shared.project.model import Site

ANY_ORIGIN = "*"

_ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<wild>\*\.)?(?P<host>[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?P<port>:\d{1,5})?", re.IGNORECASE
)
_DOMAIN = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*|[0-9a-f:]*:[0-9a-f:.]+", re.IGNORECASE)
_SCRIPT_PATH = re.compile(r"(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,62}){1,8}(?<!\.js)(?<!\.mjs)")
_TAKEN = frozenset(
    ("v1", "api", "pixel", "beacon", "sourceconfig", "analytics.js", "webhooks", "i", "r", "p", "s", "t", "micro", "health")
)
"""First parts of paths that protocols have, or may get."""
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def check_sites(sites: Mapping[str, Site]) -> list[Problem]:
    """Returns every fault, with its path and the text to write instead."""
    problems: list[Problem] = []
    key_owners: dict[str, str] = {}
    domain_owners: dict[str, str] = {}
    path_owners: dict[str, str] = {}
    for name, site in sites.items():
        path = f"sites.{name}"
        for index, key in enumerate(site.keys):
            problems += _check_owner(
                owners=key_owners,
                value=key.id,
                shown=key.id,
                site=name,
                path=f"{path}.keys[{index}].id",
                remedy="give every key its own id",
            )
            if not key.id or ":" in key.id or not key.id.isprintable():
                problems.append(Problem(f"{path}.keys[{index}].id", "a key id is printable and has no colon"))
            if key.secret is not None and not key.secret.strip():
                text = (
                    "the secret is empty, so the key would open without one; set it (is its variable empty?) or remove `secret`"
                )
                problems.append(Problem(f"{path}.keys[{index}].secret", text))
        for index, domain in enumerate(site.domains):
            where = f"{path}.domains[{index}]"
            problems += _check_owner(
                owners=domain_owners,
                value=domain.lower(),
                shown=domain,
                site=name,
                path=where,
                remedy="remove one; upper and lower case are the same",
            )
            if not _DOMAIN.fullmatch(domain):
                text = f"expected a host name such as events.example.com, without scheme, port and path, got {domain!r}"
                problems.append(Problem(where, text))
        if (site.domains or site.snowplow.paths) and site.keys and all(key.secret or key.kind != "browser" for key in site.keys):
            what, option = ("host name", "domains") if site.domains else ("a path of its own", "snowplow.paths")
            text = f"requests by {what} need no key, so they would bypass the secrets of `keys`; add a browser key or remove `{option}`"
            problems.append(Problem(f"{path}.{option}", text))
        problems += _check_origins(path, site.origins)
        problems += check_snowplow(path, site.snowplow, path_owners)
        problems += _check_browser(path, site, path_owners)
    return problems


def _check_owner(owners: dict[str, str], value: str, shown: str, site: str, path: str, remedy: str) -> Iterator[Problem]:
    if value in owners:
        owner = owners[value]
        whose = "is in this site already" if owner == site else f"belongs to site {owner!r} already"
        yield Problem(path, f"{shown!r} {whose}; {remedy}")
    owners.setdefault(value, site)


def _check_browser(path: str, site: Site, owners: dict[str, str]) -> Iterator[Problem]:
    script, domain = site.browser.path, site.browser.cookie_domain
    where = f"{path}.browser.path"
    if script is not None:
        if not _SCRIPT_PATH.fullmatch(script):
            text = "expected a path without the name's end, such as /assets/shop for /assets/shop.js: letters, digits, -, _ and ."
            yield Problem(where, f"{text}, got {script!r}")
        elif script.split("/")[1].lower() in _TAKEN:
            yield Problem(where, f"/{script.split('/')[1]}/ belongs to a protocol; choose another first part")
        elif script in owners:
            yield Problem(where, f"is the path of site {owners[script]!r} already; choose another")
        owners.setdefault(script, path.removeprefix("sites."))
    if domain is None:
        return
    where = f"{path}.browser.cookie_domain"
    if "." not in domain or not _DOMAIN.fullmatch(domain) or domain.replace(".", "").isdigit():
        yield Problem(where, f"expected the domain that your pages share, such as example.com, got {domain!r}")
    elif not site.origins or ANY_ORIGIN in site.origins:
        text = "browsers take a cookie only for listed origins; list your pages in `origins`, such as"
        yield Problem(where, f"{text} https://*.{domain}")


def _check_origins(path: str, origins: list[str]) -> Iterator[Problem]:
    for index, origin in enumerate(origins):
        where = f"{path}.origins[{index}]"
        if origin == ANY_ORIGIN:
            if len(origins) > 1:
                yield Problem(where, '"*" allows every origin, so the others mean nothing; remove it, or them')
            continue
        problem = _origin_problem(origin)
        if problem:
            yield Problem(where, f"{problem}, got {origin!r}")


def _origin_problem(origin: str) -> str:
    if origin.lower() == "null":
        return '"null" is the origin of any local file and any sandboxed frame; serve the page from a host and write its origin'
    text = origin.removesuffix("/")
    found = _ORIGIN.fullmatch(text)
    if found is None:
        return _nearest_origin(text)
    default = _DEFAULT_PORTS.get(found["scheme"].lower())
    if default is not None and found["port"] == default:
        return f"browsers leave the default port out: write {text.removesuffix(default)}"
    return ""


def _nearest_origin(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "https", text
    host = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]
    if not host.isascii():
        try:
            host = host.encode("idna").decode()
        except UnicodeError:
            host = ""
    meant = f"{scheme.lower()}://{host}"
    if host and _ORIGIN.fullmatch(meant):
        return f"expected scheme and host as browsers send them: write {meant}"
    return 'expected scheme and host such as https://shop.example.com, https://*.example.com for its subdomains, or "*" alone for any'
