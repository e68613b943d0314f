"""What the fields of `alerts` cannot tell one by one: names that nothing has. Pure. The options are checked by `router/alerts/registry.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from shared.errors import Problem
from shared.reading.decode import meant

if TYPE_CHECKING:
    from shared.project.model import Project

FILTERS = ("connections", "sites", "syncs", "feeds")
"""Options of an alert that list names of the project."""


def check_alerts(project: Project) -> Iterator[Problem]:
    """Yields everything that is wrong, each with its path and what to write instead."""
    for name, alert in project.alerts.items():
        path = f"alerts.{name}"
        if not isinstance(alert.get("type"), str):
            yield Problem(f"{path}.type", "expected the name of a channel, such as slack or email")
        for option in FILTERS:
            known, wanted = getattr(project, option), alert.get(option)
            for each in wanted if isinstance(wanted, list) else ():
                if isinstance(each, str) and each not in known:
                    hint = f"known: {', '.join(sorted(known)) or 'none'}"
                    yield Problem(f"{path}.{option}", f"no {option[:-1]} is named {each!r};{meant(each, known)} {hint}")
