"""`penstock load`: rows of a file into a table of a destination."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from penstock.command.dotenv import with_dotenv
from penstock.control.wording import counted
from penstock.terminal import exits
from penstock.terminal.options import Setting, at_broker
from shared.errors import ConfigError, Problem, SetupError
from shared.reading.decode import meant

if TYPE_CHECKING:
    from penstock.control.data.load import Loaded
    from penstock.control.data.row_files import Format

FORMATS = ("csv", "tsv", "ndjson", "json", "parquet", "arrow")


@click.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option("--table", required=True, help="Table to load; it is created where it is missing.")
@click.option("--destination", help="Which destination; default: the only one with tables.")
@click.option("--format", "format_", type=click.Choice(FORMATS), help="Of FILE; default: what its name ends with.")
@click.option(
    "--mode", type=click.Choice(("append", "merge", "replace", "insert_only", "history")), default="append", show_default=True,
    help="append: add the rows. merge: one row for each --key. replace: put them in place of all rows, at once. "
    "insert_only: add rows whose --key is new. history: keep each version of a row, with the time from which and until which it is true.",
)  # fmt: skip
@click.option("--key", multiple=True, metavar="COLUMN", help="A column that identifies a row; may be repeated.")
@click.option(
    "--cursor", metavar="COLUMN",
    help="Of two rows of one key, the one with the larger value here wins; default: the later one. A version begins at it.",
)  # fmt: skip
@click.option(
    "--delete-column", metavar="COLUMN", help="A row with a value here deletes the row of its --key; with merge and history."
)
@click.option("--type", "types", multiple=True, metavar="COLUMN=TYPE", help="SQL type of a new column; may be repeated.")
@click.option("--no-header", is_flag=True, help="The first row of a CSV file is a row, and columns are column_1, column_2, …")
@click.option("--token", help="Names the load; a load of the same name is not repeated. Default: made of the content of FILE.")
@click.option(
    "--file",
    "project",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Take the destination from a project file instead of what runs.",
)
@at_broker
def load(
    setting: Setting,
    path: Path,
    table: str,
    destination: str | None,
    format_: str | None,
    mode: str,
    key: tuple[str, ...],
    cursor: str | None,
    delete_column: str | None,
    types: tuple[str, ...],
    no_header: bool,
    token: str | None,
    project: Path | None,
) -> int:
    """Loads the rows of FILE into a table of a destination; `-` is standard input. With --file it needs no stack.

    A load that was cut off goes on when it is started again, and one that is finished changes nothing: the same content into the same
    table is one load. `--token` names it otherwise.

    \b
    Examples:
      penstock load orders.csv --table orders --destination wh
      penstock load orders.parquet --table orders --mode merge --key id --cursor updated_at
      penstock load customers.csv --table customers --mode history --key id --cursor updated_at
      penstock connector read crm users --full | penstock load - --format ndjson --table users --mode replace
    """
    from loader.delivery.rows import RowsWanted
    from penstock.control.data.load import load_rows
    from penstock.control.data.row_files import RowFile, batches, fingerprint

    name, document = _destination(setting, destination, project)
    found, compressed = _format(path, cast("Format | None", format_))
    spooled = _spooled() if str(path) == "-" else None
    try:
        file = RowFile(spooled or path, found, compressed, header=not no_header)
        wanted = RowsWanted(
            table=table,
            token=token or fingerprint(file),
            write=cast("Any", mode),
            key=key,
            cursor=cursor,
            column_types=dict(map(_pair, types)),
            deleted=delete_column,
        )
        with setting.screen.progress("loading", total=None) as advance:
            done = asyncio.run(load_rows(name=name, document=document, wanted=wanted, batches=batches(file), advance=advance))
    finally:
        if spooled is not None:
            spooled.unlink(missing_ok=True)
    setting.screen.result(done)
    _show(setting, done)
    return exits.OK


def _show(setting: Setting, done: Loaded) -> None:
    before = f", {counted(done.skipped, 'row')} before" if done.skipped else ""
    setting.screen.say(f"{counted(done.rows, 'row')} into {done.table} of {done.destination}{before}", "green")
    if done.skipped and not done.rows:
        setting.screen.note(f"this load is finished already; --token gives it another name than {done.token}")
    for column, values in done.unmapped.items():
        setting.screen.note(f"{counted(values, 'value')} did not fit the column {column}, and went to _unmapped_data", "yellow")
    for what, values in done.changed.items():
        setting.screen.note(f"{what.replace('_', ' ')}: {values}", "yellow")


def _destination(setting: Setting, name: str | None, project: Path | None) -> tuple[str, dict[str, Any]]:
    from loader import registry
    from penstock.control.project.projects import read_document
    from penstock.control.reach import local_environment, open_broker
    from shared.project.snapshot import stored_project
    from shared.project.variables import interpolate

    if project is not None:
        document = read_document(project)
        wanted = {key: document.get(key) or {} for key in ("destinations",)}
        known = interpolate(wanted, with_dotenv(local_environment(setting.home), project.parent))["destinations"]
    else:

        async def ask() -> dict[str, Any]:
            async with open_broker(setting.reach()) as broker:
                stored = await stored_project(broker)
            if stored is None:
                raise SetupError("no project was applied yet; apply one, or name a project file with --file")
            return stored[1].resolved.get("destinations") or {}

        known = asyncio.run(ask())
    able = [each for each, options in known.items() if registry.takes_tables(str(options.get("type"))) is not None]
    if name is None and len(able) == 1:
        name = able[0]
    if name is None:
        raise ConfigError([Problem("--destination", f"say which one; with tables: {', '.join(able) or 'none'}")])
    if name not in known:
        raise ConfigError(
            [
                Problem(
                    "destinations", f"no destination is named {name!r};{meant(name, known)} known: {', '.join(known) or 'none'}"
                )
            ]
        )
    return name, known[name]


def _format(path: Path, named: Format | None) -> tuple[Format, bool]:
    from penstock.control.data.row_files import COMPRESSED, format_of

    if named is not None:
        return named, path.suffix.lower() == COMPRESSED
    if (found := format_of(path)) is None:
        raise click.UsageError(f"what {path} holds cannot be told from its name; say it with --format ({', '.join(FORMATS)})")
    return found


def _spooled() -> Path:
    """Keeps standard input in a file: its token is made of all of it, and CSV is read twice."""
    with tempfile.NamedTemporaryFile(prefix="penstock-load-", delete=False) as file:
        try:
            shutil.copyfileobj(sys.stdin.buffer, file)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return Path(file.name)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise click.UsageError(f"expected COLUMN=TYPE, got {text!r}")
    return name, value
