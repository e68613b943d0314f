"""`penstock plan`, `apply`, `history`, `rollback` and `check`: the project file and the project that runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from penstock.command.apply import apply_checked, show_plan
from penstock.command.dotenv import with_dotenv
from penstock.control.moments import moment_of
from penstock.control.project.check import DestinationCheck, check_destinations
from penstock.control.project.plan import Change, compare
from penstock.control.project.projects import DEFAULT_FILE, Plan, check_document, make_plan, read_document, read_text
from penstock.control.reach import Reach, local_environment, open_broker
from penstock.control.wording import counted
from penstock.terminal import exits
from penstock.terminal.options import Integer, Setting, at_broker
from penstock.terminal.screen import Screen
from shared.errors import ConfigError, Problem, SetupError
from shared.project.model import Project
from shared.project.read import decode_project, without_removed
from shared.project.snapshot import StoredProject, project_history, stored_project
from shared.reading.document import parse_document

if TYPE_CHECKING:
    from penstock.control.project.trial import Trial

SHOWN_CHANGES = 4
"""How many changes of a revision the table of `penstock history` names."""

_yes = click.option("--yes", is_flag=True, help="Do not ask before something is removed.")
_file = click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default=DEFAULT_FILE)


class Revision(msgspec.Struct, frozen=True, kw_only=True):
    """A revision of the project, and its difference to the one before."""

    revision: int
    applied_at: str
    applied_by: str
    rollback_to: int | None = None
    """The earlier revision that it applies again."""
    changes: list[Change]


@click.command()
@_file
@click.option("--exit-code", is_flag=True, help="Exit with 1 when there is something to change.")
@click.option(
    "--sample", type=Integer(1, 1_000_000), metavar="N",
    help="Try the changed connections on the latest N events of their sites: what passes, which tables come.",
)  # fmt: skip
@at_broker
def plan(setting: Setting, file: Path, exit_code: bool, sample: int | None) -> int:
    """Shows what applying FILE (default penstock.yaml) would change and remove.

    \b
    Examples:
      penstock plan examples/shop/penstock.yaml
      penstock plan --sample 1000
    """
    document = read_document(file)
    reach, resolved = _checked(setting, document, file)
    made, trials = asyncio.run(_plan(reach, document, resolved, sample))
    setting.screen.result({**msgspec.to_builtins(made), **({} if sample is None else {"sample": trials})})
    show_plan(setting.screen, made)
    _show_trials(setting.screen, trials)
    return exits.NO if exit_code and made.changes else exits.OK


@click.command()
@_file
@click.option("--dry-run", is_flag=True, help="Only check and show, as `penstock plan` does.")
@_yes
@at_broker
def apply(setting: Setting, file: Path, dry_run: bool, yes: bool) -> int:
    """Makes FILE (default penstock.yaml) the project that runs, without a restart.

    It checks everything first: a file with an error changes nothing (exit code 2). Before it removes a site or a connection, it
    says how many events still wait for it, and asks. If another project is applied meanwhile, nothing changes either (exit code
    5).

    \b
    Example:
      penstock apply examples/shop/penstock.yaml
    """
    text = read_text(file)
    document = parse_document(text, str(file))
    reach, resolved = _checked(setting, document, file)
    made, revision = asyncio.run(apply_checked(reach, document, resolved, setting.screen, text=text, dry_run=dry_run, agreed=yes))
    _show_applied(setting, made, revision)
    return exits.OK


@click.command()
@click.argument("revision", type=Integer(1))
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@_yes
@at_broker
def rollback(setting: Setting, revision: int, dry_run: bool, yes: bool) -> int:
    """Applies REVISION again, with the values its variables had then. `penstock history` lists revisions.

    The old project becomes a new revision, so a rollback can be rolled back. Loading never goes back: rows stay where they are.

    \b
    Example:
      penstock rollback 3
    """
    made, applied = asyncio.run(_rollback(setting, revision, dry_run=dry_run, agreed=yes))
    _show_applied(setting, made, applied)
    return exits.OK


@click.command()
@at_broker
def history(setting: Setting) -> int:
    """Lists the revisions of the project that the broker keeps, the newest first: when, by whom, and what changed.

    \b
    Example:
      penstock history
    """
    entries = asyncio.run(_history(setting.reach()))
    setting.screen.result(entries)
    if not entries:
        setting.screen.say("no project was applied yet; apply one with: penstock apply FILE")
        return exits.OK
    rows = [(each.revision, each.applied_at, each.applied_by, _summary(each)) for each in entries]
    setting.screen.table(("revision", "applied at (UTC)", "by", "changes"), rows, spare=("by",))
    return exits.OK


@click.command()
@click.argument("destination", required=False)
@click.option("--file", type=click.Path(path_type=Path, dir_okay=False), help="Check a project file instead of what runs.")
@at_broker
def check(setting: Setting, destination: str | None, file: Path | None) -> int:
    """Tries DESTINATION, or all: reach it, create a table, write, read, replace its rows, drop it. Exit code 1 if a step fails.

    \b
    Example:
      penstock check warehouse
    """
    if file is not None:
        # a file can be checked before any stack runs
        environment = setting.reach().environment if setting.home.is_running() else local_environment(setting.home)
        destinations = (
            check_document(read_document(file), with_dotenv(environment, file.parent), file.parent).get("destinations") or {}
        )
    else:
        revision, destinations = asyncio.run(_destinations(setting.reach()))
    with setting.screen.progress("checking", total=None) as advance:
        checks = asyncio.run(check_destinations(destinations, destination, advance))
    setting.screen.result(checks)
    _show_checks(setting.screen, checks)
    if all(step.ok for found in checks for step in found.steps):
        return exits.OK
    if file is None:
        setting.screen.note(f"tried with the values of revision {revision}; to try others first: penstock check --file FILE")
    return exits.NO


def _checked(setting: Setting, document: dict[str, Any], file: Path) -> tuple[Reach, dict[str, Any]]:
    """Returns the broker and the document with its variables put in; reports a mistake in the file first."""
    try:
        reach = setting.reach()
    except SetupError as exc:
        check_document(document, with_dotenv(local_environment(setting.home), file.parent), file.parent)
        raise SetupError(f"{file} has no mistake, but {exc}") from exc
    return reach, check_document(document, with_dotenv(reach.environment, file.parent), file.parent)


async def _plan(reach: Reach, document: dict[str, Any], resolved: dict[str, Any], sample: int | None) -> tuple[Plan, list[Trial]]:
    async with open_broker(reach) as broker:
        made = await make_plan(broker, document, resolved)
        if sample is None:
            return made, []
        from penstock.control.project.trial import try_out  # brings router and loader with it

        project = decode_project(resolved)
        return made, await try_out(broker, project, _touched(made, project), sample)


def _touched(made: Plan, project: Project) -> list[str]:
    """Returns the connections that a plan changes, or whose site, destination or functions it changes."""
    paths = [change.path for change in made.changes]

    def changes(section: str, name: str) -> bool:
        return any(path == section or f"{path}.".startswith(f"{section}.{name}.") for path in paths)

    return [
        name
        for name, each in project.connections.items()
        if changes("connections", name)
        or changes("sites", each.site)
        or changes("destinations", each.destination)
        or any(changes("functions", function) for function in each.functions)
    ]


def _show_trials(screen: Screen, trials: Sequence[Trial]) -> None:
    for trial in trials:
        screen.say(f"\n{trial.connection}: takes {trial.taken} of the latest {counted(trial.events, 'event')}", "bold")
        for what, counts in (("dropped", trial.dropped), ("dead letters", trial.dead)):
            if counts:
                screen.say(f"  {what}: " + ", ".join(f"{count} {reason}" for reason, count in counts.items()))
        for doubt in trial.doubts:
            screen.say(f"  {doubt}", "yellow")
        if trial.tables:
            rows = [(each.table, each.rows, len(each.columns), ", ".join(each.columns)) for each in trial.tables]
            screen.table(("table", "rows", "columns", "names"), rows)


async def _history(reach: Reach) -> list[Revision]:
    async with open_broker(reach) as broker:
        kept = await project_history(broker)
    before = [StoredProject({}, {}), *(stored for _, stored in kept)]
    entries = [
        Revision(
            revision=revision,
            applied_at=moment_of(stored.applied_at),
            applied_by=stored.applied_by or "unknown",
            rollback_to=stored.rollback_to or None,
            # the change of the oldest one is unknown if the broker forgot the one before it
            changes=compare(before[index].document, stored.document, before[index].resolved, stored.resolved),
        )
        for index, (revision, stored) in enumerate(kept)
    ]
    return entries[::-1]


def _summary(revision: Revision) -> str:
    changes, back = revision.changes, f"rollback to {revision.rollback_to}: " if revision.rollback_to else ""
    signs = {"add": "+", "remove": "-", "change": "~", "variable": "~"}
    shown = [f"{signs[change.kind]} {change.path}" for change in changes[:SHOWN_CHANGES]]
    rest = len(changes) - len(shown)
    return back + ", ".join(shown) + (f", and {rest} more" if rest else "") or "none"


async def _rollback(setting: Setting, revision: int, *, dry_run: bool, agreed: bool) -> tuple[Plan, int]:
    reach = setting.reach()
    async with open_broker(reach) as broker:
        kept = dict(await project_history(broker))
    if revision not in kept:
        known = ", ".join(str(each) for each in kept) or "none"
        raise ConfigError([Problem("revision", f"the broker keeps no revision {revision}; known: {known}")])
    old = kept[revision]
    document, resolved = without_removed(old.document), without_removed(old.resolved)
    # an older Penstock may have accepted a project that this one refuses
    decode_project(resolved)
    text = old.text if document == old.document else ""
    return await apply_checked(
        reach, document, resolved, setting.screen, text=text, dry_run=dry_run, agreed=agreed, rollback_to=revision
    )


def _show_applied(setting: Setting, made: Plan, revision: int) -> None:
    changed = revision != made.revision
    setting.screen.result({"applied": changed, "revision": revision, "changes": made.changes, "losses": made.losses})


async def _destinations(reach: Reach) -> tuple[int, dict[str, Any]]:
    async with open_broker(reach) as broker:
        found = await stored_project(broker)
    if found is None:
        raise SetupError("no project was applied yet; apply one with `penstock apply FILE`, or name a file with --file")
    return found[0], found[1].resolved.get("destinations") or {}


def _show_checks(screen: Screen, checks: Sequence[DestinationCheck]) -> None:
    rows = [
        (found.destination, found.type, step.step, "ok" if step.ok else "FAILED", step.message)
        for found in checks
        for step in found.steps
    ]
    screen.table(("destination", "type", "step", "result", "message"), rows, spare=("type",))
