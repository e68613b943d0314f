"""Finds channels of alerts: every module of `channels/` is one, named as its file. Listing them imports none."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

import router.alerts.channels
from router.alerts.contract import KINDS, AlertRules, Channel
from shared.errors import ConfigError, Problem
from shared.plugins import Plugins, secret_options
from shared.reading.decode import decode, meant
from shared.reading.mask import Mask
from shared.secrets.reading import reveal, seen
from shared.secrets.references import references_in, with_placeholders

CHANNELS: Plugins[Channel] = Plugins(
    "alert channel",
    [router.alerts.channels],
    ("OPTIONS", "MOST_ITEMS", "KNOWS_REPEATS", "RESOLVES_EACH", "requests", "answer"),
    "router/alerts/contract.py",
)
OF_RULES = frozenset(AlertRules.__struct_fields__)


class Alert(NamedTuple):
    """One alert of the project. `digest` tells one definition of its channel from another. `document`: its entry, which may refer to secrets."""

    name: str
    type: str
    channel: Channel
    options: msgspec.Struct
    rules: AlertRules
    mask: Mask
    digest: str
    document: Mapping[str, Any]


def with_secrets(alert: Alert) -> Alert:
    """Returns an alert with the secrets that it refers to, as they are now; blocks if it refers to any.

    Raises:
        SetupError, NotConnected: a secret cannot be read.
        ConfigError: the option that it stands in does not take it.
    """
    if not references_in(dict(alert.document)):
        return alert
    revealed = parse_alert(alert.name, reveal(alert.document))
    revealed.mask.add(seen(alert.document))
    return revealed._replace(digest=alert.digest, document=alert.document)


def parse_alert(name: str, document: Mapping[str, Any]) -> Alert:
    """Returns an alert of the project file; placeholders stand for the secrets that it refers to.

    Args:
        name: of the alert, for the errors.
        document: its entry.

    Raises:
        ConfigError: unknown type, unknown key or wrong value; the path starts with `alerts.<name>`.
    """
    path, written = f"alerts.{name}", document
    document = with_placeholders(dict(written))
    type_name = document.get("type")
    if not isinstance(type_name, str) or type_name not in CHANNELS.names():
        raise ConfigError([Problem(f"{path}.type", CHANNELS.unknown(type_name))])
    channel = CHANNELS.get(type_name)
    known = {*OF_RULES, "type", *channel.OPTIONS.__struct_fields__}
    of_rules = {key: value for key, value in document.items() if key in OF_RULES}
    own = {key: value for key, value in document.items() if key in known and key not in OF_RULES and key != "type"}
    problems = [
        Problem(f"{path}.{key}", f"unknown key;{meant(str(key), known)} known: {', '.join(sorted(known))}")
        for key in document
        if key not in known
    ]
    rules = options = None
    try:
        rules = decode(of_rules, AlertRules, path)
        problems.extend(_check(path, rules))
    except ConfigError as exc:
        problems.extend(exc.problems)
    try:
        options = decode(own, channel.OPTIONS, path)
    except ConfigError as exc:
        problems.extend(exc.problems)
    if problems or rules is None or options is None:
        raise ConfigError(problems)
    secrets = secret_options(channel.OPTIONS)
    mask = Mask(
        [getattr(options, option) for option in secrets],
        [getattr(options, option) for option in channel.OPTIONS.__struct_fields__ if option not in secrets],
    )
    digest = hashlib.sha256(
        msgspec.json.encode([type_name, {key: written[key] for key in own}], enc_hook=str, order="sorted")
    ).hexdigest()[:32]
    return Alert(
        name=name, type=type_name, channel=channel, options=options, rules=rules, mask=mask, digest=digest, document=written
    )


def _check(path: str, rules: AlertRules) -> list[Problem]:
    problems: list[Problem] = []
    for option, least, most in (("after", 0, 86_400), ("every", 1, 86_400), ("freshness", 1, 30 * 86_400)):
        value = float(getattr(rules, option))
        if not least <= value <= most:
            problems.append(Problem(f"{path}.{option}", f"expected {least}s to {most // 3600}h, got {value:g}s"))
    if rules.repeat and rules.repeat < 60:
        problems.append(Problem(f"{path}.repeat", f"expected at least 1m, or 0 for never, got {float(rules.repeat):g}s"))
    for server in rules.certificates:
        host, colon, port = server.rpartition(":")
        if not colon or not host or not port.isdigit() or not 0 < int(port) < 65_536:
            problems.append(Problem(f"{path}.certificates", f"expected servers as host:port, got {server!r}"))
    filters = (("connections", ("connection", "freshness", "queue", "dead")), ("syncs", ("sync",)), ("feeds", ("feed",)))
    for option, kinds in filters:
        if getattr(rules, option) and rules.when and not set(kinds) & set(rules.when):
            problems.append(
                Problem(
                    f"{path}.{option}", f"means nothing without one of {', '.join(kinds)} in `when`; known: {', '.join(KINDS)}"
                )
            )
    return problems
