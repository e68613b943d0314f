"""Finds the protocol a request is for: fixed paths by one dictionary look-up, paths with parameters by pattern. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import unquote

from ingest.contract import HttpProtocol

NO_PARAMS: Mapping[str, str] = MappingProxyType({})

OWN_SCRIPT = "/p"
"""The path of the script of browsers, without its end."""

_ADDRESS = re.compile(r"\Ahttps?://[^/]*/?")
_SLASHES = re.compile(r"//+")
OWN_PATHS: Mapping[str, str] = MappingProxyType(
    {
        "tp2": "/com.snowplowanalytics.snowplow/tp2",
        "iglu": "/com.snowplowanalytics.iglu/v1",
        "redirect": "/r/tp2",
    }
)
"""The routes that a site's own paths stand for (`shared/project/snowplow.py`)."""

PARAMETER = re.compile(r"\{(\w+)\}")


class Match(NamedTuple):
    """The protocol and pattern of a request. `params` are decoded."""

    protocol: HttpProtocol
    route: str
    params: Mapping[str, str] = NO_PARAMS

    @property
    def query_decides(self) -> bool:
        """Whether a key in the query is stronger than any in the body (`ingest/contract.py`)."""
        return bool(getattr(self.protocol, "QUERY_DECIDES", False))

    @property
    def most_bytes(self) -> int:
        """How large a body the protocol takes beyond the limit of the site (`ingest/contract.py`); 0: no larger one."""
        return int(getattr(self.protocol, "MOST_BODY_BYTES", 0))

    @property
    def has_keys(self) -> bool:
        """Whether a key of the request can decide alone; the address of a webhook cannot."""
        return bool(getattr(self.protocol, "HAS_KEYS", True))


class Routes:
    """All routes of all protocols."""

    def __init__(self, protocols: Iterable[HttpProtocol]) -> None:
        """
        Raises:
            ValueError: two protocols claim one route.
        """
        self.protocols = tuple(protocols)
        self._fixed: dict[tuple[str, str], Match] = {}
        self._patterns: dict[tuple[str, str], list[tuple[re.Pattern[str], HttpProtocol, str]]] = {}
        """By method and first part of the path; an empty part: any."""
        self._others: tuple[str, ...] = ()
        claimed: dict[tuple[str, str], str] = {}
        for protocol in self.protocols:
            for route in protocol.ROUTES:
                shape = (route.method, PARAMETER.sub("{}", route.path))
                if shape in claimed:
                    raise ValueError(f"{route.method} {route.path} is claimed by {claimed[shape]} and {protocol.NAME}")
                claimed[shape] = protocol.NAME
                if "{" in route.path:
                    pattern = re.compile(PARAMETER.sub(r"(?P<\1>[^/]+)", route.path.replace(".", r"\.")))
                    first = route.path.split("/", 2)[1]
                    place = (route.method, "" if "{" in first else first)
                    self._patterns.setdefault(place, []).append((pattern, protocol, route.path))
                else:
                    self._fixed[route.method, route.path] = Match(protocol, route.path)

    def use_paths(self, paths: Sequence[str]) -> None:
        """Serves the script of browsers, and all that it asks for, at these paths as well: `/assets/shop` for `/assets/shop.js`."""
        self._others = tuple(f"{path}{end}" for path in paths for end in ("/", ".js", ".mjs"))

    def find(self, method: str, path: str) -> Match | None:
        """Returns the match of a raw path without its query; a whole address and slashes too many are tolerated."""
        match = self._fixed.get((method, path))
        if match is not None:
            return match
        path = unquote(path) if "%" in path and path.count("/") < 3 else path
        path = _SLASHES.sub("/", _ADDRESS.sub("/", path)).rstrip("/") or "/"
        match = self._fixed.get((method, path))
        if match is not None:
            return match
        for other in self._others:
            if path.startswith(other):
                path = OWN_SCRIPT + path[len(other.removesuffix("/").removesuffix(".mjs").removesuffix(".js")) :]
                match = self._fixed.get((method, path))
                if match is not None:
                    return match
                break
        for first in (path[1:].partition("/")[0], ""):
            for pattern, protocol, route in self._patterns.get((method, first), ()):
                if found := pattern.fullmatch(path):
                    return Match(protocol, route, {name: unquote(value) for name, value in found.groupdict().items()})
        return None

    def find_own(self, method: str, path: str, own: Mapping[str, str]) -> Match | None:
        """Returns the match of a path of a site's own; `own` says for each what it takes."""
        target = own.get(path)
        found = None if target is None else self.find(method, OWN_PATHS[target])
        return None if found is None else found._replace(params={"path": path})

    def methods(self, path: str, own: Mapping[str, str] = NO_PARAMS) -> list[str]:
        """Returns the methods a path knows, for 405."""
        return [each for each in ("GET", "POST") if self.find(each, path) or self.find_own(each, path, own)]
