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

from penstock.terminal import exits
from penstock.terminal.options import Setting, anywhere
from shared.errors import ConfigError, Problem, SetupError

if TYPE_CHECKING:
    from penstock.control.functions.cases import Verdict
    from penstock.control.functions.tried import Tried

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
    help="File of one event as JSON; `-`: standard input.",
)
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="A value of `ctx.props`; may be repeated.")
@click.option("--fetch", is_flag=True, help="Send the requests of `fetch`; else they fail.")
@anywhere
def run(setting: Setting, files: tuple[Path, ...], event: Path, env: tuple[str, ...], fetch: bool) -> int:
    """Runs an event through FILES, one function after the other, and shows what comes out.

    \b
    Example:
      penstock fn run functions/clean.ts --event order.json
    """
    tried = asyncio.run(_run(files, _read(event), dict(map(_pair, env)), fetch=fetch))
    setting.screen.result(tried)
    _show(setting, tried)
    return exits.OK if tried.result != "dead_letter" and not tried.errors else exits.NO


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


async def _run(files: Sequence[Path], event: bytes, env: dict[str, str], *, fetch: bool) -> Tried:
    from penstock.control.functions.tried import Bench, read_code

    async with Bench(read_code(files), shared={"props": env}, fetch=fetch) as bench:
        return await bench.run(event)


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


def _read(file: Path) -> bytes:
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        msgspec.json.decode(content, type=dict[str, Any])
    except OSError as exc:
        raise SetupError(f"{file} cannot be read: {exc.strerror}") from exc
    except msgspec.MsgspecError as exc:
        raise ConfigError([Problem(str(file), f"expected one event as a JSON object: {exc}")]) from exc
    return content


def _pair(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found or not name:
        raise ConfigError([Problem("--env", f"expected NAME=VALUE, got {text!r}")])
    return name, value


def _show(setting: Setting, tried: Tried) -> None:
    screen = setting.screen
    for event in tried.events:
        screen.say(msgspec.json.format(msgspec.json.encode(event)).decode())
    by = f" by {tried.function}" if tried.function and tried.result in ("dropped", "dead_letter") else ""
    screen.say(
        f"{tried.result}{by}, {len(tried.events)} events go on, {tried.milliseconds:g} ms",
        "green" if not tried.errors else "yellow",
    )
    for title, lines in (
        ("reason", [tried.reason] if tried.reason else []),
        ("threw", tried.errors),
        ("again", [tried.retry] if tried.retry else []),
    ):
        for line in lines:
            screen.say(f"{title}: {line}", "yellow")
    for line in tried.logs:
        screen.say(f"log: {line}")
    for line in tried.calls:
        screen.say(f"call: {line}")
    if tried.store:
        screen.say(f"keeps: {msgspec.json.encode(tried.store).decode()}")
