"""`penstock fn run`, `fn test` and `fn new`: functions without a stack."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from penstock.control.wording import counted
from penstock.terminal import exits
from penstock.terminal.options import Setting, anywhere
from shared.errors import ConfigError, Problem, SetupError
from shared.project.model import NAME, NAME_RULE

if TYPE_CHECKING:
    from penstock.control.functions.cases import Verdict
    from penstock.control.functions.tried import Together, Tried

TYPES = "penstock.d.ts"
ENDINGS = (".ts", ".mjs", ".js")

NEW = """\
/// <reference path="./penstock.d.ts" />

/** What this function is for. */
export default async function (event: PenstockEvent, ctx: PenstockContext) {
  if (event.type === "track" && event.properties?.internal) return null; // dropped

  event.properties = { ...event.properties, seen_by: "%(name)s" };
  return event;
}
"""
NEW_CASES = """\
[
  {
    "name": "marks what it has seen",
    "event": {"type": "track", "event": "Order Completed", "messageId": "1", "properties": {"total": 5}},
    "expect": {"type": "track", "event": "Order Completed", "messageId": "1", "properties": {"total": 5, "seen_by": "%(name)s"}}
  },
  {
    "name": "drops internal events",
    "event": {"type": "track", "event": "Order Completed", "messageId": "2", "properties": {"internal": true}},
    "expect": null
  }
]
"""

_files = click.argument("files", type=click.Path(path_type=Path, dir_okay=False), nargs=-1, required=True)


@click.group()
def fn() -> None:
    """Write, run and test functions, without a stack."""


@fn.command()
@_files
@click.option(
    "--event",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    default=Path("-"),
    help="File of an event as JSON, or of a list of events, which go as one batch; `-`: standard input.",
)
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="A value of `ctx.props`; may be repeated.")
@click.option("--fetch", is_flag=True, help="Send the requests of `fetch`; else they fail.")
@anywhere
def run(setting: Setting, files: tuple[Path, ...], event: Path, env: tuple[str, ...], fetch: bool) -> int:
    """Runs an event, or a batch of them, through FILES, one function after the other, and shows what comes out.

    \b
    Example:
      penstock fn run functions/clean.ts --event order.json
    """
    given, are_many = _read(event)
    together = asyncio.run(_run(files, given, dict(map(_pair, env)), fetch=fetch))
    if not are_many:
        alone = together.events[0]
        setting.screen.result(
            msgspec.structs.replace(
                alone, logs=together.logs, calls=together.calls, store=together.store, milliseconds=together.milliseconds
            )
        )
        _show_event(setting, alone, f", {together.milliseconds:g} ms")
    else:
        setting.screen.result(together)
        for number, tried in enumerate(together.events, 1):
            _show_event(setting, tried, f", event {number} of {len(together.events)}")
    _show_effects(setting, together)
    well = all(tried.result != "dead_letter" and not tried.errors for tried in together.events)
    return exits.OK if well else exits.NO


@fn.command()
@click.argument("files", type=click.Path(path_type=Path), nargs=-1)
@anywhere
def test(setting: Setting, files: tuple[Path, ...]) -> int:
    """Holds functions against their cases, in `NAME.cases.json` beside each; all below `functions/` unless FILES are named.

    \b
    Example:
      penstock fn test
      penstock fn test functions/clean.ts
    """
    chosen = _with_cases(files or (Path("functions"),))
    if not chosen:
        raise ConfigError([Problem("", "no function with cases beside it; `penstock fn new NAME` writes both")])
    verdicts = asyncio.run(_test(chosen))
    setting.screen.result(verdicts)
    for verdict in verdicts:
        setting.screen.say(f"{'ok  ' if verdict.ok else 'FAIL'} {verdict.file}: {verdict.case}", "green" if verdict.ok else "red")
        if verdict.difference:
            setting.screen.say(f"     {verdict.difference}")
    failed = sum(not verdict.ok for verdict in verdicts)
    setting.screen.say(f"{len(verdicts) - failed} cases hold, {failed} do not")
    return exits.NO if failed else exits.OK


@fn.command()
@click.argument("name")
@click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False), default=Path("functions"), help="Where it is written."
)
@anywhere
def new(setting: Setting, name: str, folder: Path) -> int:
    """Writes a function to begin with, its cases, and the types that editors read.

    \b
    Example:
      penstock fn new clean
    """
    if not NAME.fullmatch(name):
        raise ConfigError([Problem("NAME", f"{NAME_RULE}; got {name!r}")])
    written = [folder / f"{name}.ts", folder / f"{name}.cases.json"]
    there = [str(file) for file in written if file.exists()]
    if there:
        raise SetupError(f"{', '.join(there)} is there already; choose another name")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in zip(written, (NEW, NEW_CASES), strict=True):
            file.write_text(text % {"name": name}, encoding="utf-8")
        from functions_runtime.sandbox.guest import JS

        shutil.copyfile(JS / TYPES, folder / TYPES)
    except OSError as exc:
        raise SetupError(f"{folder} cannot be written: {exc.strerror}") from exc
    setting.screen.result([str(file) for file in written])
    setting.screen.say(f"wrote {', '.join(map(str, written))}; try it with: penstock fn test", "green")
    setting.screen.say(
        f"in the project file: functions: {{{name}: {{file: {written[0]}}}}}, and functions: [{name}] on a connection"
    )
    return exits.OK


async def _run(files: Sequence[Path], events: Sequence[bytes], env: dict[str, str], *, fetch: bool) -> Together:
    from penstock.control.functions.tried import Bench, read_code

    async with Bench(read_code(files), shared={"props": env}, fetch=fetch) as bench:
        return await bench.run_all(events)


async def _test(files: Sequence[Path]) -> list[Verdict]:
    from penstock.control.functions.cases import try_cases
    from penstock.control.functions.tried import read_code

    return [verdict for file, code in zip(files, read_code(files), strict=True) for verdict in await try_cases(file, code)]


def _with_cases(paths: Sequence[Path]) -> list[Path]:
    from penstock.control.functions.cases import cases_of

    found: list[Path] = []
    for path in paths:
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        found += [
            file
            for file in files
            if file.suffix in ENDINGS and not file.name.endswith(".d.ts") and (cases_of(file).exists() or not path.is_dir())
        ]
    return found


def _read(file: Path) -> tuple[list[bytes], bool]:
    """Returns the events of a file, each as it was written, and whether they are a list."""
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        given = msgspec.json.decode(content, type=dict[str, Any] | list[dict[str, Any]])
    except OSError as exc:
        raise SetupError(f"{file} cannot be read: {exc.strerror}") from exc
    except msgspec.MsgspecError as exc:
        raise ConfigError([Problem(str(file), f"expected one event as a JSON object, or a list of them: {exc}")]) from exc
    if isinstance(given, dict):
        return [content], False
    if not given:
        raise ConfigError([Problem(str(file), "the list has no event")])
    return list(map(bytes, msgspec.json.decode(content, type=list[msgspec.Raw]))), True


def _pair(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise ConfigError([Problem("--env", f"expected NAME=VALUE, got {text!r}")])
    return name, value


def _show_event(setting: Setting, tried: Tried, more: str) -> None:
    screen = setting.screen
    for event in tried.events:
        screen.say(msgspec.json.format(msgspec.json.encode(event)).decode())
    by = f" by {tried.function}" if tried.function and tried.result in ("dropped", "dead_letter") else ""
    going = counted(len(tried.events), "event")
    screen.say(
        f"{tried.result}{by}, {going} {'goes' if len(tried.events) == 1 else 'go'} on{more}",
        "green" if not tried.errors else "yellow",
    )
    for title, lines in (
        ("reason", [tried.reason] if tried.reason else []),
        ("threw", tried.errors),
        ("again", [tried.retry] if tried.retry else []),
    ):
        for line in lines:
            screen.say(f"{title}: {line}", "yellow")


def _show_effects(setting: Setting, together: Together) -> None:
    for title, lines in (("log", together.logs), ("call", together.calls)):
        for line in lines:
            setting.screen.say(f"{title}: {line}")
    if together.store:
        setting.screen.say(f"keeps: {msgspec.json.encode(together.store).decode()}")
