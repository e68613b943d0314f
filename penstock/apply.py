"""Applies a checked project file and shows what changes: `penstock apply` and the start of `penstock up --project`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from penstock.metrics import wait_for_revision
from penstock.plan import Change, inline_secrets
from penstock.projects import Plan, apply_document, make_plan
from penstock.reach import Reach, open_broker
from penstock.screen import Screen
from shared.errors import Conflict

SIGNS = {"add": ("+", "green"), "remove": ("-", "red"), "change": ("~", "yellow"), "variable": ("~", "yellow")}


async def apply_checked(
    reach: Reach,
    document: dict[str, Any],
    resolved: dict[str, Any],
    screen: Screen,
    *,
    dry_run: bool = False,
    in_full: bool = True,
) -> tuple[Plan, int]:
    """Shows the plan, applies it if there is something to change, and waits until the services of a local stack follow.

    Args:
        in_full: show every line of a project that is applied for the first time.

    Raises:
        Conflict: another project was applied meanwhile; nothing was changed.
        NotConnected, SetupError: the broker does not answer or cannot hold it.
    """
    async with open_broker(reach) as broker:
        made = await make_plan(broker, document, resolved)
        if made.revision or dry_run or in_full:
            show_changes(screen, made.changes)
        for path in inline_secrets(document):
            screen.note(f"warning: {path} holds a secret as plain text; write ${{NAME}} and set the variable", "yellow")
        if dry_run or (not made.changes and made.revision):
            return made, made.revision
        try:
            revision = await apply_document(broker, document, resolved, made.revision)
        except Conflict as exc:
            raise Conflict(
                f"the project was changed by somebody else since revision {made.revision}; nothing was applied, run the command again"
            ) from exc
    admin = [process.admin_url for process in reach.state.processes if process.admin_url] if reach.state else []
    late = await wait_for_revision(admin, revision)
    screen.say(f"applied as revision {revision}", "green")
    for url in late:
        screen.note(f"warning: the service at {url} does not follow revision {revision} yet; see penstock status", "yellow")
    return made, revision


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
                text = " (the value of a variable is another now)"
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
