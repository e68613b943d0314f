"""References to secrets in a document: `${file:/run/secrets/pg}`, `${vault:secret/data/pg#password}`, `${command:pass show pg}`. Pure.

`penstock apply` leaves them as they are, so the stored project holds no secret. A service puts the values in when it opens a destination.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from shared.errors import Problem

_REFERENCE = re.compile(r"\$\{(?P<kind>file|vault|command):(?P<where>[^}]+)\}")
_NOWHERE = "secret.invalid"
_SCHEMES = {"postgres": "postgresql", "clickhouse": "https"}
PLACEHOLDER = "0"
"""Stands for a secret where a document is checked without it: fits texts, and parts of addresses."""

TAKES = ("destinations", "connectors", "feeds", "webhooks", "alerts", "archive")
"""The parts of a project file whose values may refer to secrets."""
OF_FUNCTIONS = "functions_env"
OF_RULES = ("secret", "key")
"""In connections: the values of `functions_env`, and these of the rules in `privacy`."""


class Reference(NamedTuple):
    """Where a secret is: `where` is a path, a path and key of a vault, or a command line."""

    kind: str
    where: str

    def __str__(self) -> str:
        return f"${{{self.kind}:{self.where}}}"


def references_in(document: Any) -> set[Reference]:
    """Returns all references in a document."""
    if isinstance(document, dict):
        return set().union(*map(references_in, document.values()))
    if isinstance(document, list | tuple):
        return set().union(*map(references_in, document))
    if not isinstance(document, str) or "${" not in document:
        return set()
    return {Reference(found["kind"], found["where"]) for found in _REFERENCE.finditer(document)}


def with_values(document: Any, value_of: Callable[[Reference], str]) -> Any:
    """Returns a document with values in place of references."""
    if isinstance(document, dict):
        return {key: with_values(each, value_of) for key, each in document.items()}
    if isinstance(document, list | tuple):
        return [with_values(each, value_of) for each in document]
    if not isinstance(document, str) or "${" not in document:
        return document
    return _REFERENCE.sub(lambda found: value_of(Reference(found["kind"], found["where"])), document)


def with_placeholders(document: Any) -> Any:
    """Returns an entry of a project file as it can be checked where its secrets are not. An address that is a secret as a whole becomes one."""
    if not isinstance(document, dict):
        return with_values(document, lambda _: PLACEHOLDER)
    scheme = _SCHEMES.get(str(document.get("type")), str(document.get("type")))
    addresses = {"url": f"https://{_NOWHERE}/0", "dsn": f"{scheme}://secret:0@{_NOWHERE}/secret"}
    found: dict[str, Any] = {}
    for key, value in document.items():
        whole = key in addresses and isinstance(value, str) and _REFERENCE.fullmatch(value)
        found[key] = (
            addresses[key]
            if whole
            else with_placeholders(value)
            if isinstance(value, dict)
            else with_values(value, lambda _: PLACEHOLDER)
        )
    return found


def misplaced(document: dict[str, Any]) -> Iterator[Problem]:
    """Yields a problem for each reference where no service would put a value in."""
    for part, entries in document.items():
        if part in TAKES:
            continue
        for name, entry in entries.items() if isinstance(entries, dict) else (("", entries),):
            for reference in sorted(references_in(_without_read(entry) if part == "connections" else entry)):
                path = f"{part}.{name}" if name else part
                yield Problem(
                    path,
                    f"{reference} is not read here, only in {', '.join(TAKES)}, and in `{OF_FUNCTIONS}` and the `secret` and `key` of "
                    "`privacy` of connections; write ${NAME}, and set the variable",
                )


def _without_read(connection: Any) -> Any:
    """Returns a connection without the values in which functions_runtime puts secrets."""
    if not isinstance(connection, dict):
        return connection
    rest = {key: value for key, value in connection.items() if key != OF_FUNCTIONS}
    rules = rest.get("privacy")
    if isinstance(rules, list):
        rest["privacy"] = [
            {key: value for key, value in rule.items() if key not in OF_RULES} if isinstance(rule, dict) else rule
            for rule in rules
        ]
    return rest
