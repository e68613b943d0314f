"""Reading, checking, planning and applying a project file.

`read_document` returns the author's document; `check_document` finds all its faults: shape and references, the options of each
destination by its plug-in, conditions and table templates by compiling them. Only then is it written, and only if the project
that runs is still the one that the plan compared with.
"""

from __future__ import annotations

import getpass
import socket
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from connector_runner import registry as connectors
from connector_runner.feeds.registry import parse_feed
from loader import registry
from penstock.control.functions.compiled import compile_functions
from penstock.control.project.code import read_functions
from penstock.control.project.consequences import Loss, losses
from penstock.control.project.doubts import doubts, misspelt_types
from penstock.control.project.plan import Change, compare, inline_secrets, plain
from penstock.control.project.planned import check_tracking_plans, read_plans
from penstock.control.syncs.tables import shared_tables
from router.alerts.registry import parse_alert
from router.rules.where import compile_where
from shared.devices.registry import DEVICES, is_device
from shared.errors import ConfigError, Problem, SetupError
from shared.jetstream.broker import Broker
from shared.project.read import decode_project
from shared.project.snapshot import StoredProject, apply_project, hash_secret, resolve, stored_project
from shared.project.variables import interpolate, required_variables
from shared.reading.document import parse_document
from shared.rules.where import read_where
from shared.secrets.references import misplaced, with_placeholders

DEFAULT_FILE = Path("penstock.yaml")

OF_TABLES = (
    "layout", "table", "primary_key", "deduplicate", "discriminator", "on_conflict", "schema_policy", "max_columns", "max_new_columns",
    "max_tables", "overflow_table", "column_types", "original_names", "system_columns",
)  # fmt: skip
"""Options of a connection that say how events become rows."""


OF_FUNCTIONS = ("functions_env", "on_error", "function_timeout")
"""Options of a connection that say how its functions run."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The changes and losses of applying a document. `revision` is the one it was compared with; 0: nothing was applied yet."""

    revision: int
    changes: list[Change]
    losses: list[Loss] = []
    doubts: list[str] = []
    """The settings that are allowed and rarely meant, each with its path."""
    in_the_browser: list[str] = []
    """New and changed connections that no service works on, each with its path."""


def read_document(file: Path) -> dict[str, Any]:
    """Reads a project file.

    Raises:
        SetupError: it cannot be read.
        ConfigError: it is not YAML or JSON; names line and column.
    """
    return parse_document(read_text(file), str(file))


def read_text(file: Path) -> str:
    """Returns the text of a project file.

    Raises:
        SetupError: it cannot be read.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise SetupError(
            f"project file {file} cannot be read: {reason}; name another one, or write {DEFAULT_FILE} with `penstock init`"
        ) from exc


def check_document(document: Mapping[str, Any], environment: Mapping[str, str], folder: Path = Path()) -> dict[str, Any]:
    """Returns the document with variables, the code of its functions, and the files of its connectors, put in.

    Args:
        folder: where the project file is; the files of functions and connectors are found from there.

    Raises:
        ConfigError: with every problem found, each named by its path.
    """
    document, problems = read_functions(document, folder)
    missing = _problems_of(lambda: interpolate(dict(document), environment))
    problems.extend(missing)
    # put a placeholder in for each missing variable, to find the other faults
    known: Mapping[str, str] = _filled(document, environment) if missing else environment
    problems.extend(_problems_of(lambda: resolve(document, known)))
    filled: dict[str, Any] = interpolate(dict(document), known)
    with_texts, unread = _with_texts(filled, folder)
    problems.extend(unread)
    filled["connectors"] = {**(filled.get("connectors") or {}), **with_texts}
    plans, unplanned = read_plans(filled, folder)
    problems.extend(unplanned)
    if plans:
        filled["tracking_plans"] = {**filled["tracking_plans"], **plans}
    problems.extend(check_tracking_plans(filled))
    problems.extend(misplaced(filled))
    problems.extend(_check_plugins(filled))
    if not any(problem.path.startswith("functions") for problem in problems):
        problems.extend(compile_functions(dict(_entries(filled, "functions"))))
    if problems:
        blamed = {problem.path for problem in missing}
        unique = dict.fromkeys(problem for problem in problems if problem in missing or problem.path not in blamed)
        raise ConfigError(list(unique))
    resolved = resolve(document, environment)
    if with_texts:
        resolved["connectors"] = {**resolved["connectors"], **with_texts}
    if plans:
        resolved["tracking_plans"] = {**resolved["tracking_plans"], **plans}
    return resolved


def _with_texts(document: Mapping[str, Any], folder: Path) -> tuple[dict[str, dict[str, Any]], list[Problem]]:
    """Returns the connectors with the texts of the files that they name, and the files that cannot be read."""
    found: dict[str, dict[str, Any]] = {}
    problems: list[Problem] = []
    for name, options in _entries(document, "connectors"):
        try:
            found[name] = connectors.with_files(name, options, folder)
        except ConfigError as exc:
            problems.extend(exc.problems)
    return found, problems


async def make_plan(broker: Broker, document: Mapping[str, Any], resolved: Mapping[str, Any]) -> Plan:
    """Compares a document with the project that is applied.

    Raises:
        NotConnected: the broker does not answer.
    """
    found = await stored_project(broker)
    revision, stored = found or (0, StoredProject({}, {}))
    project = decode_project(resolved)
    changes = compare(stored.document, keepable(document), stored.resolved, resolved)
    changed = tuple(f"{change.path}." for change in changes)
    return Plan(
        revision=revision,
        changes=changes,
        in_the_browser=[path for path in map("connections.{}".format, project.devices) if f"{path}.".startswith(changed)],
        losses=await losses(broker, stored, resolved),
        doubts=[str(doubt) for doubt in doubts(project)],
    )


async def apply_document(
    broker: Broker,
    document: Mapping[str, Any],
    resolved: Mapping[str, Any],
    expected_revision: int,
    text: str = "",
    rollback_to: int = 0,
) -> int:
    """Writes a checked document as the project that runs; returns its revision.

    Args:
        text: the file of the document; it is kept for `penstock export` unless it holds a secret.
        rollback_to: the earlier revision that is applied again, for `penstock history`.

    Raises:
        Conflict: another project was applied since `expected_revision`.
        NotConnected, Transient: it may not be applied.
    """
    kept = keepable(document)
    stored = StoredProject(
        document=kept,
        resolved=plain(resolved),
        applied_at=datetime.now(UTC).isoformat(timespec="seconds"),
        applied_by=_author(),
        text="" if kept != plain(document) or inline_secrets(document) else text,
        rollback_to=rollback_to,
    )
    return await apply_project(broker, stored, expected_revision=expected_revision)


def _author() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def keepable(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a document as it is stored: as written, but a literal secret of a key becomes its hash."""
    kept = plain(document)
    for site in _mappings(kept.get("sites")):
        for key in site.get("keys") or []:
            if isinstance(key, dict) and isinstance(key.get("secret"), str) and "${" not in key["secret"]:
                key["secret"] = hash_secret(key["secret"])
    return kept


def _check_plugins(document: Mapping[str, Any]) -> list[Problem]:
    problems: list[Problem] = []
    for name, options in _entries(document, "destinations"):
        type_name = options.get("type")
        if is_device(options):
            continue  # `decode_project` checks them
        if isinstance(type_name, str) and type_name not in registry.destination_types():
            problems.append(Problem(f"destinations.{name}.type", registry.DESTINATIONS.unknown(type_name, DEVICES.names())))
        elif isinstance(type_name, str):
            problems.extend(_problems_of(partial(registry.parse_options, name, with_placeholders(options))))
    for name, options in _entries(document, "connectors"):
        problems.extend(_problems_of(partial(connectors.parse_options, name, with_placeholders(options))))
    for name, options in _entries(document, "feeds"):
        if isinstance(options.get("type"), str) and isinstance(options.get("site"), str):
            problems.extend(_problems_of(partial(parse_feed, name, with_placeholders(options))))
    for name, options in _entries(document, "alerts"):
        if isinstance(options.get("type"), str):
            problems.extend(_problems_of(partial(parse_alert, name, with_placeholders(options))))
    for name, sync in _entries(document, "syncs"):
        problems.extend(_check_sync(document, name, sync))
        for stream, how in _entries(sync, "streams"):
            problems.extend(_problems_of(partial(read_where, how.get("where"), f"syncs.{name}.streams.{stream}.where")))
    problems.extend(shared_tables(document.get("syncs")))
    for name, site in _entries(document, "sites"):
        problems.extend(_problems_of(partial(compile_where, site.get("where"), f"sites.{name}.where")))
    for name, connection in _entries(document, "connections"):
        problems.extend(_problems_of(partial(compile_where, connection.get("where"), f"connections.{name}.where")))
        if isinstance(connection.get("table"), str):
            from loader.rows.template import TableTemplate  # brings Jinja, which few projects use

            problems.extend(_problems_of(partial(TableTemplate, connection["table"], f"connections.{name}.table")))
        problems.extend(misspelt_types(connection.get("column_types"), f"connections.{name}.column_types"))
        problems.extend(_check_abilities(document, name, connection))
        problems.extend(
            Problem(f"connections.{name}.{option}", "means nothing without `functions`; take it out")
            for option in OF_FUNCTIONS
            if option in connection and not connection.get("functions")
        )
    return problems


def _check_abilities(document: Mapping[str, Any], name: str, connection: Mapping[str, Any]) -> Iterator[Problem]:
    """Yields the options of a connection that destinations of this type cannot fulfil."""
    destination = dict(_entries(document, "destinations")).get(str(connection.get("destination")))
    type_name = destination.get("type") if destination else None
    if type_name not in registry.destination_types():
        return
    can = registry.plugin(str(type_name)).CAPABILITIES
    if connection.get("mode") == "stream" and not can.stream:
        yield Problem(f"connections.{name}.mode", f"a destination of type {type_name} takes batches only; write mode: batch")
    if connection.get("identity") is not None and can.merge == "no":
        yield Problem(
            f"connections.{name}.identity",
            "sends earlier events again under their messageId, and a destination of type "
            f"{type_name} cannot replace what it has; use one with tables that merge ({', '.join(_merging())}), or take it out",
        )
    if registry.takes_tables(str(type_name)) is None:
        for option in OF_TABLES:
            if option in connection:
                yield Problem(
                    f"connections.{name}.{option}",
                    f"means nothing here: a destination of type {type_name} takes events and has no tables; take it out",
                )


def _check_sync(document: Mapping[str, Any], name: str, sync: Mapping[str, Any]) -> Iterator[Problem]:
    """Yields what destinations of this type cannot do for a sync."""
    destination = dict(_entries(document, "destinations")).get(str(sync.get("destination")))
    type_name = destination.get("type") if destination else None
    if type_name not in registry.destination_types():
        return
    can = registry.takes_tables(str(type_name))
    if can is None:
        yield Problem(
            f"syncs.{name}.destination", f"a destination of type {type_name} takes events and has no tables; choose one that has"
        )
        return
    for stream, how in _entries(sync, "streams"):
        path, write = f"syncs.{name}.streams.{stream}.write", how.get("write")
        if write == "replace" and not can.replace:
            yield Problem(path, f"a destination of type {type_name} cannot replace a table; write: append")
        if write in ("merge", "insert_only", "history") and can.merge == "no":
            yield Problem(path, f"a destination of type {type_name} finds no row by its key; write: append, or choose another")
        leaves = how.get("where") is not None and how.get("unmatched", "remove") == "remove"
        if write == "merge" and leaves and not can.deletes:
            text = f"a destination of type {type_name} cannot take away rows that no longer meet `where`; write unmatched: keep"
            yield Problem(f"syncs.{name}.streams.{stream}.where", f"{text}, or write: append")
        yield from misspelt_types(how.get("column_types"), f"syncs.{name}.streams.{stream}.column_types")


def _merging() -> list[str]:
    return [name for name in registry.destination_types() if registry.plugin(name).CAPABILITIES.merge != "no"]


def _problems_of(call: Callable[[], object]) -> list[Problem]:
    try:
        call()
    except ConfigError as exc:
        return list(exc.problems)
    return []


def _entries(document: Mapping[str, Any], kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    entries = document.get(kind)
    if isinstance(entries, dict):
        yield from ((str(name), entry) for name, entry in entries.items() if isinstance(entry, dict))


def _mappings(section: object) -> list[dict[str, Any]]:
    return [entry for entry in section.values() if isinstance(entry, dict)] if isinstance(section, dict) else []


def _filled(document: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, str]:
    """Returns an environment in which every variable without a default is set."""
    return dict.fromkeys(required_variables(document), "x") | dict(environment)
