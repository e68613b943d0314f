"""`penstock export`: the project that runs, as a file."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from penstock.control.project.code import write_functions
from penstock.control.project.plan import inline_secrets, mask
from penstock.control.reach import Reach, open_broker
from penstock.terminal import exits
from penstock.terminal.options import Setting, at_broker
from shared.errors import SetupError
from shared.project.snapshot import StoredProject, stored_project


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file.")
@click.option("--masked", is_flag=True, help="*** in place of secrets, to show it to others; it cannot be applied then.")
@at_broker
def export(setting: Setting, output: Path | None, masked: bool) -> int:
    """Prints the project that runs; secrets stay ${NAME}.

    It is the file that was applied, with its comments. If the file held a secret literally, Penstock did not keep it. Then the
    command prints the same project without comments, with secrets of keys as hashes. It prints passwords of destinations as they
    are, with a warning, because the file could not be applied without them.

    With -o the files of functions are written beside the file, as they were applied; files that are there already stay as they are.

    \b
    Example:
      penstock export > penstock.yaml
    """
    stored = asyncio.run(_export(setting.reach()))
    secrets = inline_secrets(stored.document)
    document = mask(stored.document) if masked and secrets else stored.document
    for path in () if masked else secrets:
        if not path.endswith(".secret"):  # those are hashes
            setting.screen.note(f"warning: {path} is printed with its secret in plain text; --masked hides it", "yellow")
    if setting.screen.json and output is None:
        setting.screen.result(document)
        return exits.OK
    text = stored.text
    if not text:
        from shared.reading.document import write_document  # brings yaml, which a stored text does not need

        text = write_document(document)
    if output is None:
        sys.stdout.write(text)
    else:
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as exc:
            raise SetupError(f"{output} cannot be written: {exc.strerror}") from exc
        for line in write_functions(stored.resolved, output.parent):
            setting.screen.note(f"warning: {line}", "yellow")
        setting.screen.say(f"written to {output}")
    return exits.OK


async def _export(reach: Reach) -> StoredProject:
    async with open_broker(reach) as broker:
        found = await stored_project(broker)
    if found is None:
        raise SetupError(f"no project was applied to {reach.broker_url.split('@')[-1]} yet; apply one with `penstock apply FILE`")
    return found[1]
