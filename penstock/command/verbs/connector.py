"""`penstock connector`: the connectors of a project file, asked and read without a stack."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import aclosing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock.command.dotenv import with_dotenv
from penstock.control.project.projects import DEFAULT_FILE, read_document
from penstock.control.reach import local_environment
from penstock.control.wording import counted, cut
from penstock.stack.home import stack_environment
from penstock.terminal import exits
from penstock.terminal.options import Integer, Setting, at_home
from shared.errors import SetupError

if TYPE_CHECKING:
    from connector_runner.contract import Said, Stream, StreamName

SHOWN_PROPERTIES = 8
LOUD = ("fatal", "error", "warn")
LINE_CHARACTERS = 300
NEW_LINE = "\n"
DESCRIPTION_CHARACTERS = 100

_file = click.option(
    "--file", type=click.Path(path_type=Path, dir_okay=False), default=DEFAULT_FILE, show_default=True, help="The project file."
)
_verbose = click.option("--verbose", is_flag=True, help="Print what the connector logs, on standard error.")


@click.group()
def connector() -> None:
    """Ask connectors of a project file which options and streams they have, and read rows; without a stack."""


@connector.command("list")
@_file
@at_home
def list_(setting: Setting, file: Path) -> int:
    """Lists the connectors of the project file.

    \b
    Example:
      penstock connector list
    """
    entries: dict[str, Any] = read_document(file).get("connectors") or {}
    rows = [(name, *_described(entry)) for name, entry in entries.items()]
    setting.screen.result([{"connector": name, "type": type_, "runs": runs} for name, type_, runs in rows])
    if not rows:
        setting.screen.say(f"{file} has no connectors; docs/connectors.md says how to write one")
        return exits.OK
    setting.screen.table(("connector", "type", "runs"), rows)
    for name, entry in entries.items():
        if (fault := _unknown_type(entry)) is not None:
            setting.screen.note(f"connectors.{name}.type: {fault}", "yellow")
    return exits.OK


@connector.command()
@click.argument("name")
@_file
@_verbose
@at_home
def spec(setting: Setting, name: str, file: Path, verbose: bool) -> int:
    """Shows which options connector NAME takes in `config`. With --json the whole JSON Schema.

    \b
    Example:
      penstock connector spec crm
    """
    from penstock.control.connectors.asked import ask_spec

    found = asyncio.run(ask_spec(name, _entry(setting, name, file), _cache(setting), _heard(setting, verbose=verbose)))
    setting.screen.result(found)
    needed = found.get("required") or []
    rows = [
        (
            key,
            _type_of(each),
            "yes" if key in needed else "",
            cut(str(each.get("description") or each.get("title") or ""), DESCRIPTION_CHARACTERS),
        )
        for key, each in (found.get("properties") or {}).items()
        if isinstance(each, dict)
    ]
    setting.screen.table(("option", "type", "needed", "what"), rows)
    return exits.OK


@connector.command()
@click.argument("name")
@_file
@_verbose
@at_home
def check(setting: Setting, name: str, file: Path, verbose: bool) -> int:
    """Tries whether the options of connector NAME work. Exit code 1 if they do not.

    \b
    Example:
      penstock connector check crm
    """
    from penstock.control.connectors.asked import ask_check

    found = asyncio.run(ask_check(name, _entry(setting, name, file), _cache(setting), _heard(setting, verbose=verbose)))
    setting.screen.result({"ok": found.ok, "message": found.message})
    why = f": {found.message}" if found.message else ""
    setting.screen.say(f"{name} {'works' if found.ok else 'does not work'}{why}", "green" if found.ok else "red")
    return exits.OK if found.ok else exits.NO


@connector.command()
@click.argument("name")
@_file
@_verbose
@at_home
def discover(setting: Setting, name: str, file: Path, verbose: bool) -> int:
    """Lists the streams of connector NAME: their keys, cursors and columns. With --json, with the JSON Schema of each.

    \b
    Example:
      penstock connector discover crm
    """
    from penstock.control.connectors.asked import ask_streams

    streams = asyncio.run(ask_streams(name, _entry(setting, name, file), _cache(setting), _heard(setting, verbose=verbose)))
    setting.screen.result(streams)
    setting.screen.table(("stream", "modes", "key", "cursor", "columns"), [_row(each) for each in streams])
    return exits.OK


@connector.command()
@click.argument("name")
@_file
@_verbose
@at_home
def cleanup(setting: Setting, name: str, file: Path, verbose: bool) -> int:
    """Removes what connector NAME made in the system behind it, such as a replication slot, which else keeps a server's log for ever.

    The next read begins at the beginning: remove its state too.

    \b
    Example:
      penstock connector cleanup shop
    """
    from penstock.control.connectors.asked import ask_cleanup

    removed = asyncio.run(ask_cleanup(name, _entry(setting, name, file), _cache(setting), _heard(setting, verbose=verbose)))
    setting.screen.result(list(removed))
    setting.screen.say(f"removed: {', '.join(removed)}" if removed else f"{name} has left nothing there")
    return exits.OK


@connector.command()
@click.argument("name")
@click.argument("streams", nargs=-1)
@_file
@click.option("--limit", type=Integer(1), help="Stop after so many rows.")
@click.option("--full", is_flag=True, help="Read all rows, also of streams that can tell new rows from old ones.")
@click.option(
    "--state",
    "state_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Go on where this file says, and write there how far the rows went.",
)
@_verbose
@at_home
def read(
    setting: Setting,
    name: str,
    streams: tuple[str, ...],
    file: Path,
    limit: int | None,
    full: bool,
    state_file: Path | None,
    verbose: bool,
) -> int:
    """Prints rows of STREAMS of connector NAME, of all without any: one JSON object a line. Of one stream the row itself, of several
    `{"stream": …, "row": …}`.

    The file of --state is written when the command ends well, and only with states whose rows were printed before. A row may come
    twice, none is missing.

    \b
    Examples:
      penstock connector read crm users --limit 5
      penstock connector read crm users --state users.state > new.ndjson
    """
    if limit is not None and state_file is not None:
        raise click.UsageError("--limit leaves rows out, and --state says that they were read; give one of them")
    rows = asyncio.run(_read(setting, name, streams, file=file, limit=limit, full=full, state_file=state_file, verbose=verbose))
    total = sum(rows.values())
    setting.screen.note(", ".join(f"{each}: {counted(number, 'row')}" for each, number in rows.items()) or counted(total, "row"))
    return exits.OK


async def _read(
    setting: Setting,
    name: str,
    streams: Sequence[str],
    *,
    file: Path,
    limit: int | None,
    full: bool,
    state_file: Path | None,
    verbose: bool,
) -> Counter[str]:
    from connector_runner.contract import Checkpoint, JsonRows, Row, Rows, Said
    from connector_runner.json_rows import json_rows
    from penstock.control.connectors.asked import read_rows, state_of, states_of

    heard = _heard(setting, verbose=verbose)
    states = states_of(_text(state_file)) if state_file is not None else {}
    rows: Counter[str] = Counter()
    messages = read_rows(
        name,
        _entry(setting, name, file),
        streams,
        cache=_cache(setting),
        heard=heard,
        full=full,
        states=dict(states),
    )
    async with aclosing(messages):
        async for message in messages:
            match message:
                case Row(stream, data) if data.startswith(b'"'):  # a row that cannot be read
                    heard(Said("error", json.loads(data)))
                case Row(stream, data):
                    rows[str(stream)] += _printed(stream, [data], streams, _left(limit, rows))
                case JsonRows(stream, lines):
                    rows[str(stream)] += _printed(stream, lines, streams, _left(limit, rows))
                case Rows(stream, table):
                    rows[str(stream)] += _printed(stream, json_rows(table), streams, _left(limit, rows))
                case Checkpoint(stream, state):
                    if stream is None:
                        states.clear()
                    states[stream] = state
                case Said():
                    heard(message)
                case _:
                    pass
            if _left(limit, rows) == 0:
                break
    sys.stdout.buffer.flush()
    if state_file is not None:
        _keep(state_file, b"".join(state_of(stream, state) + b"\n" for stream, state in states.items()))
    return rows


def _printed(stream: StreamName, rows: Iterable[bytes], streams: Sequence[str], most: int | None) -> int:
    """Prints rows of a stream, at most so many; returns how many."""
    begin, end = (b"", b"\n") if len(streams) == 1 else (b'{"stream":%s,"row":' % json.dumps(str(stream)).encode(), b"}\n")
    number = 0
    for number, row in enumerate(islice(rows, most), 1):  # noqa: B007  # the last one counts
        sys.stdout.buffer.write(begin + row + end)
    return number


def _left(limit: int | None, rows: Counter[str]) -> int | None:
    """Returns how many rows may still be printed; None: all."""
    return None if limit is None else limit - sum(rows.values())


def _entry(setting: Setting, name: str, file: Path) -> dict[str, Any]:
    from penstock.control.connectors.asked import connector_of

    environment = with_dotenv(local_environment(setting.home), file.parent)
    return connector_of(read_document(file), name, file.parent, environment)


def _cache(setting: Setting) -> Path:
    return Path(stack_environment(setting.home)["PENSTOCK_CONNECTOR_CACHE_DIR"]).absolute()


def _heard(setting: Setting, *, verbose: bool) -> Any:
    """Returns what takes lines for people: all with --verbose, else the first lines of the loud ones."""

    def heard(said: Said) -> None:
        if verbose:
            setting.screen.note(f"{said.level}: {said.text}")
        elif said.level in LOUD:
            setting.screen.note(f"{said.level}: {cut(said.text.partition(NEW_LINE)[0], LINE_CHARACTERS)}")

    return heard


def _described(entry: Any) -> tuple[str, str]:
    found = entry if isinstance(entry, dict) else {}
    manifest = found.get("manifest")
    if manifest is None and "package" not in found:
        runs = found.get("image") or ("its file" if found.get("type") == "python" else "in this process")
        return str(found.get("type")), "" if _unknown_type(found) else str(runs)
    package = f"{found.get('package')} {found.get('version')}"
    runs = "its own manifest" if isinstance(manifest, dict) else str(manifest or package)
    return str(found.get("type")), runs


def _unknown_type(entry: Any) -> str | None:
    """Returns what is wrong with the type of an entry; None: nothing."""
    from connector_runner.registry import SOURCES
    from shared.reading.decode import meant

    written, known = str(entry.get("type")) if isinstance(entry, dict) else "", SOURCES.names()
    return (
        None if written in known else f"expected one of {', '.join(known)}, got {written!r};{meant(written, known)}".rstrip(";")
    )


def _type_of(schema: dict[str, Any]) -> str:
    if "const" in schema or "enum" in schema:
        return "one of " + ", ".join(map(str, schema.get("enum") or [schema["const"]]))
    if "oneOf" in schema:
        return "one of several"
    if "anyOf" in schema:
        kinds = [_type_of(each) for each in schema["anyOf"] if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    found = schema.get("type", "any")
    return " or ".join(map(str, found)) if isinstance(found, list) else str(found)


def _row(stream: Stream) -> tuple[str, ...]:
    columns = list((stream.json_schema.get("properties") or {}).keys())
    more = f" and {len(columns) - SHOWN_PROPERTIES} more" if len(columns) > SHOWN_PROPERTIES else ""
    return (
        str(stream.known_as),
        ", ".join(stream.modes),
        ", ".join(".".join(path) for path in stream.primary_key),
        ".".join(stream.cursor),
        ", ".join(columns[:SHOWN_PROPERTIES]) + more,
    )


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as exc:
        raise SetupError(f"{file} cannot be read: {exc}") from exc


def _keep(file: Path, content: bytes) -> None:
    """Writes a file whole, or leaves the old one."""
    beside = file.with_name(f".{file.name}.new")
    try:
        with open(beside, "wb") as written:
            written.write(content)
            written.flush()
            os.fsync(written.fileno())
        os.replace(beside, file)
    except OSError as exc:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise SetupError(f"{file} cannot be written: {exc.strerror}; its old state holds, and rows come again") from exc
