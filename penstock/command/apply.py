"""Applies a checked project file and shows what changes: `penstock apply`, `rollback` and the start of `penstock up --project`.

It first says what would be lost, and asks on a terminal; a program agrees with an option.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from penstock.control.metrics import wait_for_revision
from penstock.control.project.check import failing_steps
from penstock.control.project.plan import Change, inline_secrets
from penstock.control.project.projects import Plan, apply_document, make_plan
from penstock.control.reach import Reach, open_broker
from penstock.terminal.screen import Screen
from shared.devices.connections import IN_THE_BROWSER
from shared.errors import ConfigError, Conflict, Problem

SIGNS = {"add": ("+", "green"), "remove": ("-", "red"), "change": ("~", "yellow"), "variable": ("~", "yellow")}


async def apply_checked(
    reach: Reach,
    document: dict[str, Any],
    resolved: dict[str, Any],
    screen: Screen,
    *,
    text: str = "",
    dry_run: bool = False,
    in_full: bool = True,
    agreed: bool = False,
    instead: str | None = None,
    rollback_to: int = 0,
) -> tuple[Plan, int]:
    """Shows the plan, applies it if there is something to change, and waits until the services of a local stack follow.

    Args:
        text: the file the document was read from, with its comments.
        in_full: show every line of a project that is applied for the first time.
        agreed: True: do not ask about losses.
        instead: what to do if no person can be asked, for the message; None: say --yes.
        rollback_to: the earlier revision that is applied again.

    Raises:
        Conflict: another project was applied meanwhile; nothing was changed.
        NotConnected, SetupError: the broker does not answer or cannot hold it.
        ConfigError: something would be lost without consent.
    """
    async with open_broker(reach) as broker:
        made = await make_plan(broker, document, resolved)
        if made.revision or dry_run or in_full:
            show_plan(screen, made)
        for path in inline_secrets(document):
            screen.note(f"warning: {path} holds a secret as plain text; write ${{NAME}} and set the variable", "yellow")
        if dry_run or (not made.changes and made.revision):
            return made, made.revision
        await _warn_of_destinations(screen, made, resolved)
        if made.losses and not agreed:
            _ask(screen, made, instead)
        try:
            revision = await apply_document(
                broker=broker,
                document=document,
                resolved=resolved,
                expected_revision=made.revision,
                text=text,
                rollback_to=rollback_to,
            )
        except Conflict as exc:
            raise Conflict(
                f"another project was applied since revision {made.revision}; nothing was changed, run the command again"
            ) from exc
    admin = [process.admin_url for process in reach.state.processes if process.admin_url] if reach.state else []
    late = await wait_for_revision(admin, revision)
    screen.say(f"applied as revision {revision}", "green")
    for url in late:
        screen.note(f"warning: the service at {url} does not follow revision {revision} yet; see penstock status", "yellow")
    return made, revision


def show_plan(screen: Screen, made: Plan) -> None:
    """Prints a plan for people: the changes, and the losses they cause."""
    show_changes(screen, made.changes)
    for loss in made.losses:
        screen.say(f"! {loss}", "bold red" if loss.events else "yellow")
    for path in made.in_the_browser:
        screen.say(f"{path} {IN_THE_BROWSER}: pages load it with the script, no service sends or counts its events")
    for doubt in made.doubts:
        screen.note(f"warning: {doubt}", "yellow")


def _ask(screen: Screen, made: Plan, instead: str | None) -> None:
    if not screen.is_terminal or screen.json:
        told = instead is None and not screen.json  # by the plan above
        raise ConfigError(
            [
                *(Problem(loss.path, loss.what) for loss in made.losses if not told),
                Problem("apply", f"{instead or 'say --yes to agree'}; nothing was changed"),
            ]
        )
    screen.agree("apply it?", "nothing was changed")


async def _warn_of_destinations(screen: Screen, made: Plan, resolved: dict[str, Any]) -> None:
    """Checks new and changed destinations, and warns of the ones that do not work."""
    changed = {change.path.split(".")[1] for change in made.changes if change.path.startswith("destinations.")}
    all_of_them = any(change.path == "destinations" for change in made.changes)
    for name, options in (resolved.get("destinations") or {}).items():
        # a file belongs to its loader: opening it here would lock it, or create it under another user
        if "path" not in options and (all_of_them or name in changed):
            for step in await failing_steps(name, options):
                screen.note(f"warning: destinations.{name}: {step.message}; events wait until it works", "yellow")


def show_changes(screen: Screen, changes: Sequence[Change]) -> None:
    """Prints a plan for people."""
    if not changes:
        screen.say("nothing to change")
    for change in changes:
        sign, style = SIGNS[change.kind]
        match change.kind:
            case "add":
                text = _block(change.after)
            case "remove":
                text = ""
            case "variable":
                text = " (the value of an environment variable changed)"
            case _ if change.lines:
                text = "\n" + "\n".join(f"    {line}" for line in change.lines)
            case _:
                text = f": {_inline(change.before)} -> {_inline(change.after)}"
        screen.say(f"{sign} {change.path}{text}", style)


def _block(value: Any) -> str:
    if not isinstance(value, dict | list):
        return f": {_inline(value)}"
    lines = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110).rstrip().splitlines()
    return "\n" + "\n".join(f"    {line}" for line in lines)


def _inline(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000).removesuffix("...\n").strip()
