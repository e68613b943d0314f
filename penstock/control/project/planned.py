"""The files of tracking plans: read beside a project file, so that what is applied holds their content and services need no files.

A file holds the keys of a plan. A folder holds a JSON Schema for each event, named by its `title` or by the file; `identify`, `group`, `page`
and `screen` are the rules of these types.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from router.plans.compiled import compile_plan
from shared.errors import ConfigError, Problem
from shared.project.tracking import TYPES, TrackingPlan
from shared.reading.decode import decode
from shared.reading.document import parse_document

ENDINGS = (".json", ".yaml", ".yml")
MOST_BYTES = 512 * 1024
"""Of all files of a plan: the applied project is one message of the broker, which takes a megabyte."""


def read_plans(document: Mapping[str, Any], folder: Path) -> tuple[dict[str, Any], list[Problem]]:
    """Returns the plans of a document with the content of the files that they name, and what is wrong with these.

    Args:
        folder: where the project file is; paths begin there.
    """
    plans = document.get("tracking_plans")
    found: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, plan in plans.items() if isinstance(plans, dict) else ():
        file = plan.get("file") if isinstance(plan, dict) else None
        if not isinstance(file, str):
            continue
        try:
            found[str(name)] = _merged(plan, _read(folder / file))
        except ValueError as exc:
            problems.append(Problem(f"tracking_plans.{name}.file", f"{folder / file}: {exc}"))
        except ConfigError as exc:
            problems += [
                Problem(f"tracking_plans.{name}.file", f"{each.path}: {each.message}" if each.path else each.message)
                for each in exc.problems
            ]
    return found, problems


def check_tracking_plans(document: Mapping[str, Any]) -> list[Problem]:
    """Returns what is wrong with the plans of a document, each with its place; schemas are compiled as the router does."""
    plans = document.get("tracking_plans")
    problems: list[Problem] = []
    for name, plan in plans.items() if isinstance(plans, dict) else ():
        try:
            compile_plan(str(name), decode(plan, TrackingPlan, f"tracking_plans.{name}"))
        except ConfigError as exc:
            problems += exc.problems
    return problems


def _merged(plan: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys of a file, and over them those of the project file; both may have events."""
    events = {**_section(content), **_section(plan)}
    twice = sorted(set(_section(content)) & set(_section(plan)))
    if twice:
        raise ValueError(f"the project file has the event {twice[0]!r} too; leave it out of one of them")
    return {**content, **plan, **({"events": events} if events else {})}


def _section(plan: Mapping[str, Any]) -> dict[str, Any]:
    events = plan.get("events")
    return events if isinstance(events, dict) else {}


def _read(place: Path) -> dict[str, Any]:
    """Returns the keys of a plan; raises ValueError with what is wrong."""
    try:
        mode = place.stat().st_mode
        if stat.S_ISDIR(mode):
            return _folder(place)
        if not stat.S_ISREG(mode):
            raise ValueError("it is neither a file nor a folder")
        content = parse_document(_text(place, MOST_BYTES), str(place))
    except OSError as exc:
        raise ValueError(f"cannot be read: {exc.strerror}; its path begins where the project file is") from exc
    if "file" in content:
        raise ValueError("a file of a plan cannot name another file")
    return content


def _folder(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"events": {}}
    left = MOST_BYTES
    for file in sorted(each for each in place.iterdir() if each.suffix in ENDINGS and each.is_file()):
        text = _text(file, left)
        left -= len(text.encode())
        schema = parse_document(text, str(file))
        title = schema.get("title")
        name = title if isinstance(title, str) and title else file.stem
        rules = found if name in TYPES else found["events"]
        if name in rules:
            raise ValueError(f"{file.name} is a second schema of {name!r}")
        rules[name] = {"schema": schema}
    if not found["events"] and len(found) == 1:
        raise ValueError(f"the folder has no file that ends with {', '.join(ENDINGS)}")
    return found


def _text(file: Path, most: int) -> str:
    if file.stat().st_size > most:
        raise ValueError(f"the files of a plan have more than {MOST_BYTES >> 10} KiB together")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise ValueError(f"{file.name} is not UTF-8 text (byte {exc.start})") from exc
