"""`penstock plan`, `apply`, `export` and `check`: the project file and the project that runs."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from penstock import exits
from penstock.apply import apply_checked, show_changes
from penstock.check import DestinationCheck, check_destinations
from penstock.dotenv import with_dotenv
from penstock.options import Setting, at_broker
from penstock.projects import DEFAULT_FILE, Plan, check_document, make_plan, read_document
from penstock.reach import Reach, open_broker
from penstock.screen import Screen
from shared.config_snapshot import stored_project
from shared.document import write_document
from shared.errors import SetupError

_file = click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default=DEFAULT_FILE)


@click.command()
@_file
@click.option("--exit-code", is_flag=True, help="Exit with 1 when there is something to change.")
@at_broker
def plan(setting: Setting, file: Path, exit_code: bool) -> int:
    """Shows what applying FILE (default penstock.yaml) would change.

    \b
    Example:
      penstock plan examples/shop/penstock.yaml
    """
    document = read_document(file)
    reach = setting.reach()
    resolved = check_document(document, with_dotenv(reach.environment, file.parent))
    made = asyncio.run(_plan(reach, document, resolved))
    setting.screen.result(made)
    show_changes(setting.screen, made.changes)
    return exits.NO if exit_code and made.changes else exits.OK


@click.command()
@_file
@click.option("--dry-run", is_flag=True, help="Only check and show, as `penstock plan` does.")
@at_broker
def apply(setting: Setting, file: Path, dry_run: bool) -> int:
    """Makes FILE (default penstock.yaml) the project that runs, without a restart.

    Everything is checked first: a file with an error changes nothing (exit code 2). If somebody else applies a project between
    the comparison and the writing, nothing is changed either (exit code 5).

    \b
    Example:
      penstock apply examples/shop/penstock.yaml
    """
    document = read_document(file)
    reach = setting.reach()
    resolved = check_document(document, with_dotenv(reach.environment, file.parent))
    made, revision = asyncio.run(apply_checked(reach, document, resolved, setting.screen, dry_run=dry_run))
    setting.screen.result({"applied": revision != made.revision, "revision": revision, "changes": made.changes})
    return exits.OK


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")
@at_broker
def export(setting: Setting, output: Path | None) -> int:
    """Prints the project that runs as its author wrote it; secrets stay ${NAME}.

    \b
    Example:
      penstock export > penstock.yaml
    """
    document = asyncio.run(_export(setting.reach()))
    if setting.screen.json and output is None:
        setting.screen.result(document)
        return exits.OK
    text = write_document(document)
    if output is None:
        sys.stdout.write(text)
    else:
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as exc:
            raise SetupError(f"{output} cannot be written: {exc.strerror}") from exc
        setting.screen.say(f"written to {output}")
    return exits.OK


@click.command()
@click.argument("destination", required=False)
@click.option("--file", type=click.Path(path_type=Path, dir_okay=False), help="Check a project file instead of what runs.")
@at_broker
def check(setting: Setting, destination: str | None, file: Path | None) -> int:
    """Tries DESTINATION, or all: reach it, create a table, write, read, drop. Exit code 1 if a step fails.

    \b
    Example:
      penstock check warehouse
    """
    if file is not None:
        # a file can be checked before any stack runs
        environment = setting.reach().environment if setting.home.is_running() else dict(os.environ)
        destinations = check_document(read_document(file), with_dotenv(environment, file.parent)).get("destinations") or {}
    else:
        destinations = asyncio.run(_destinations(setting.reach()))
    with setting.screen.progress("checking", total=None) as advance:
        checks = asyncio.run(check_destinations(destinations, destination, advance))
    setting.screen.result(checks)
    _show_checks(setting.screen, checks)
    return exits.OK if all(step.ok for found in checks for step in found.steps) else exits.NO


async def _plan(reach: Reach, document: dict[str, Any], resolved: dict[str, Any]) -> Plan:
    async with open_broker(reach) as broker:
        return await make_plan(broker, document, resolved)


async def _export(reach: Reach) -> dict[str, Any]:
    async with open_broker(reach) as broker:
        found = await stored_project(broker)
    if found is None:
        raise SetupError(f"no project was applied to {reach.broker_url.split('@')[-1]} yet; apply one with `penstock apply FILE`")
    return found[1].document


async def _destinations(reach: Reach) -> dict[str, Any]:
    async with open_broker(reach) as broker:
        found = await stored_project(broker)
    if found is None:
        raise SetupError("no project was applied yet; apply one with `penstock apply FILE`, or name a file with --file")
    destinations: dict[str, Any] = found[1].resolved.get("destinations") or {}
    return destinations


def _show_checks(screen: Screen, checks: Sequence[DestinationCheck]) -> None:
    rows = [
        (found.destination, found.type, step.step, "ok" if step.ok else "FAILED", step.message)
        for found in checks
        for step in found.steps
    ]
    screen.table(("destination", "type", "step", "result", "message"), rows)
