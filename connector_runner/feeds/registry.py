"""Finds feeds: every module of `kinds/` is one type, named as its file. Listing them imports none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

import connector_runner.feeds.kinds
from connector_runner.feeds.contract import Environment, Feed, FeedRules
from connector_runner.feeds.rules.template import Template
from shared.errors import ConfigError, Problem
from shared.plugins import Plugins, secret_options
from shared.reading.decode import decode, meant
from shared.reading.mask import Mask
from shared.secrets.reading import seen

OF_RULES = frozenset(FeedRules.__struct_fields__)
_TEMPLATES = ("event_type", "event", "user_id", "message_id")


class Plugin(Protocol):
    """The parts of a plug-in module."""

    OPTIONS: type[msgspec.Struct]

    async def open_feed(self, name: str, options: Any, environment: Environment) -> Feed:
        """Returns the open feed; raises `SetupError` if a person must act first."""
        ...


FEEDS: Plugins[Plugin] = Plugins(
    "feed", [connector_runner.feeds.kinds], ("OPTIONS", "open_feed"), "connector_runner/feeds/contract.py"
)


def parse_feed(name: str, document: Mapping[str, Any]) -> tuple[Plugin, FeedRules, msgspec.Struct]:
    """Returns the plug-in of a feed, the rules by which its records become events, and the options of the plug-in.

    Args:
        name: of the feed, for the errors.
        document: its entry in the project file.

    Raises:
        ConfigError: unknown type, unknown key or wrong value; the path starts with `feeds.<name>`.
    """
    path = f"feeds.{name}"
    type_name = document.get("type")
    if not isinstance(type_name, str) or type_name not in FEEDS.names():
        raise ConfigError([Problem(f"{path}.type", FEEDS.unknown(type_name))])
    plugin = FEEDS.get(type_name)
    of_rules = {key: value for key, value in document.items() if key in OF_RULES}
    own = {key: value for key, value in document.items() if key not in OF_RULES and key != "type"}
    known = {*OF_RULES, "type", *plugin.OPTIONS.__struct_fields__}
    problems = [
        Problem(f"{path}.{key}", f"unknown key;{meant(str(key), known)} known: {', '.join(sorted(known))}")
        for key in own
        if key not in known
    ]
    own = {key: value for key, value in own.items() if key in known}
    rules = options = None
    try:
        rules = decode(of_rules, FeedRules, path)
    except ConfigError as exc:
        problems.extend(exc.problems)
    try:
        options = decode(own, plugin.OPTIONS, path)
    except ConfigError as exc:
        problems.extend(exc.problems)
    for field in _TEMPLATES:
        text = getattr(rules, field, None)
        if text is not None:
            try:
                Template(text)
            except ValueError as exc:
                problems.append(Problem(f"{path}.{field}", str(exc)))
    if problems or rules is None or options is None:
        raise ConfigError(problems)
    return plugin, rules, options


def mask_of(document: Mapping[str, Any]) -> Mask:
    """Returns what hides the secrets of a feed in what its driver says; `document`: its entry in the project file, resolved."""
    type_name = document.get("type")
    secrets = secret_options(FEEDS.get(str(type_name)).OPTIONS) if type_name in FEEDS.names() else frozenset[str]()
    shown = (value for name, value in document.items() if name not in secrets)
    return Mask([*(value for name, value in document.items() if name in secrets), *seen(document)], shown)
