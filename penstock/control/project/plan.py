"""The difference between two project documents, by path.

Documents are compared as their authors wrote them, with `${NAME}` in place of secrets, so a plan can be shown to any reader. If a
document is the same but a variable has another value, the change says so and does not show the value. A secret that is written
into the file is masked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal

import msgspec

from connector_runner.feeds.registry import FEEDS
from connector_runner.registry import SOURCES
from loader.registry import secrets_of
from penstock.control.project.code import code_of, difference
from router.alerts.registry import CHANNELS
from shared.devices.registry import is_device
from shared.plugins import secret_options
from shared.project.functions import PrivacyRule
from shared.project.lookups import Lookup
from shared.project.model import Connection
from shared.project.webhooks import Webhook
from shared.project.webhooks.hydrate import Hydrate

ChangeKind = Literal["add", "remove", "change", "variable"]

MASK = "***"
_CODE = "code"
"""Of a function: its words `password = …` are no secret."""

_SECRET_KEY = re.compile(r"secret|passw|token|credential|private|api_?key|dsn$", re.IGNORECASE)
_VARIABLES_ONLY = re.compile(r"(\$\{[^}]*\}\s*)+")
_WITH_SCHEME = re.compile(r"(?:Bearer|Basic|Token|ApiKey|Key) (?:\$\{[^}]*\}\s*)+", re.IGNORECASE)
"""An authorization header whose secret is in a variable."""
_USER_INFO = re.compile(r"(?P<head>[a-z][a-z0-9+.-]*://[^:/@\s]*:)(?P<password>[^\s,]+)(?P<tail>@)", re.IGNORECASE)
_KEYWORD_PASSWORD = re.compile(r"(?P<head>\bpassword\s*=\s*)(?P<password>'[^']*'|\S+)", re.IGNORECASE)


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One difference at `path`. `variable`: a variable's value has changed since the project was applied."""

    path: str
    kind: ChangeKind
    before: Any = None
    after: Any = None
    lines: list[str] = []
    """What changed in the code of a function, in place of both."""


def compare(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    before_resolved: Mapping[str, Any] | None = None,
    after_resolved: Mapping[str, Any] | None = None,
) -> list[Change]:
    """Returns what must change to get from `before` to `after`, in the order of the file, secrets masked.

    Args:
        before, after: documents as written.
        before_resolved, after_resolved: the same with variables put in; without them changed variables are not found.
    """
    changes = [_of_code(change, before, after) or change for change in _walk("", plain(before), plain(after))]
    if before_resolved is not None and after_resolved is not None:
        seen = {change.path for change in changes}
        changes.extend(
            _of_code(change, before_resolved, after_resolved)
            or (change if _of_a_file(change, before, after) else _hidden(change))
            for change in _walk("", plain(before_resolved), plain(after_resolved))
            if not any(change.path == path or change.path.startswith((f"{path}.", f"{path}[")) for path in seen)
        )
    return changes


def _of_code(change: Change, before: Mapping[str, Any], after: Mapping[str, Any]) -> Change | None:
    """Returns a change of a function's code with the lines that differ; None for another change."""
    section, _, rest = change.path.partition(".")
    name, _, member = rest.rpartition(".")
    if (section, member, change.kind) != ("functions", "code", "change"):
        return None
    return Change(path=change.path, kind="change", lines=difference(code_of(before, name), code_of(after, name)))


def _of_a_file(change: Change, *documents: Mapping[str, Any]) -> bool:
    """Whether a change is one of the file of a tracking plan, whose content stands in the resolved document only."""
    plans = [each.get("tracking_plans") or {} for each in documents]
    paths = [f"tracking_plans.{name}" for found in plans for name, plan in found.items() if plan and plan.get("file")]
    return any(change.path == path or change.path.startswith(f"{path}.") for path in paths)


def _hidden(change: Change) -> Change:
    return Change(path=change.path, kind="variable")


def plain(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a document as JSON holds it (dates as text, keys as text), empty sections left out."""
    decoded: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document))
    return {key: value for key, value in decoded.items() if value not in (None, {})}


def mask(value: Any, key: str = "", *, secret: bool = False) -> Any:
    """Returns a value with all probable secrets replaced; `${NAME}` stays.

    Args:
        key: the value's name; `secret`, `password`, `dsn` and their like are masked, and options that a destination marks as
            secret.
        secret: whether the value belongs to such an option.
    """
    if is_device(value):
        return value  # every visitor reads it
    if isinstance(value, dict):
        marked = _marked(value)
        return {
            name: item if name == _CODE else mask(item, name, secret=secret or name in marked) for name, item in value.items()
        }
    if isinstance(value, list):
        return [mask(item, key, secret=secret) for item in value]
    if not isinstance(value, str) or _VARIABLES_ONLY.fullmatch(value) or _WITH_SCHEME.fullmatch(value):
        return value
    masked = _USER_INFO.sub(_hide, _KEYWORD_PASSWORD.sub(_hide, value))
    hidden = secret or _SECRET_KEY.search(key)
    return MASK if masked == value and hidden and not _is_address(value, key, secret=secret) else masked


_OF_HYDRATE = frozenset(field.encode_name for field in msgspec.structs.fields(Hydrate))


def _marked(value: Mapping[str, Any]) -> frozenset[str]:
    """Returns the members that hold secrets, under any name: of a destination, a connector, a feed, an alert, a connection, a lookup, or a privacy rule."""
    if "do" in value and "field" in value:
        return _secret_options(PrivacyRule)
    if "file" in value and "key" in value:
        return _secret_options(Lookup)
    if "url" in value and value.keys() <= _OF_HYDRATE:
        return _secret_options(Hydrate)
    type_name = value.get("type")
    of_connector = _secret_options(SOURCES.get(type_name).OPTIONS) if type_name in SOURCES.names() else frozenset[str]()
    of_feed = _secret_options(FEEDS.get(type_name).OPTIONS) if type_name in FEEDS.names() else frozenset[str]()
    of_alert = _secret_options(CHANNELS.get(type_name).OPTIONS) if type_name in CHANNELS.names() else frozenset[str]()
    return secrets_of(type_name) | of_connector | of_feed | of_alert | _secret_options(Connection) | _secret_options(Webhook)


@cache
def _secret_options(struct: type[msgspec.Struct]) -> frozenset[str]:
    return secret_options(struct)


def _is_address(value: str, key: str, *, secret: bool) -> bool:
    """Whether a text is an address without a password. Base64 ends with `=` as well."""
    dsn = key.lower().endswith("dsn")
    return ("://" in value and (dsn or not secret)) or ("=" in value and dsn)


def inline_secrets(document: Mapping[str, Any]) -> list[str]:
    """Returns the paths of literal secrets in a document."""
    written, masked = plain(document), mask(plain(document))
    return [change.path for change in _walk("", written, masked, hide=False)]


def _hide(match: re.Match[str]) -> str:
    password = match["password"]
    hidden = password if _VARIABLES_ONLY.fullmatch(password) else MASK
    return match["head"] + hidden + match.groupdict().get("tail", "")


def _walk(path: str, before: Any, after: Any, *, hide: bool = True, secret: bool = False) -> Iterator[Change]:
    if _text(before) == _text(after):
        return
    if isinstance(before, dict) and isinstance(after, dict):
        marked = _marked(before) | _marked(after)
        for key in [*before, *(key for key in after if key not in before)]:
            yield from _member(f"{path}.{key}".lstrip("."), before, after, key, hide=hide, secret=secret or key in marked)
    elif isinstance(before, list) and isinstance(after, list) and _of_mappings(before) and _of_mappings(after):
        for index in range(max(len(before), len(after))):
            olds, news = dict(enumerate(before)), dict(enumerate(after))
            yield from _member(f"{path}[{index}]", olds, news, index, hide=hide, secret=secret)
    else:
        old, new = (_shown(each, path, secret=secret) if hide else None for each in (before, after))
        yield Change(path=path, kind="change", before=old, after=new)


def _member(
    path: str, before: Mapping[Any, Any], after: Mapping[Any, Any], key: Any, *, hide: bool, secret: bool
) -> Iterator[Change]:
    if key not in after:
        yield Change(path=path, kind="remove", before=_shown(before[key], path, secret=secret) if hide else None)
    elif key not in before:
        yield Change(path=path, kind="add", after=_shown(after[key], path, secret=secret) if hide else None)
    else:
        yield from _walk(path, before[key], after[key], hide=hide, secret=secret)


def _text(value: Any) -> bytes:
    # Python takes 1 and True for equal
    return msgspec.json.encode(value, order="sorted")


def _of_mappings(items: list[Any]) -> bool:
    return all(isinstance(item, dict) for item in items)


def _shown(value: Any, path: str, *, secret: bool) -> Any:
    return mask(value, re.sub(r"\[\d+\]$", "", path).rpartition(".")[2], secret=secret)
