"""Writes the generated pages of the documentation: `python -m penstock.reference` (or `make docs`), `--check` only compares.

A generated page agrees with the code, because it is made from it: the project file and the settings from their Structs, metrics
from `shared/telemetry/declared/`, the catalogue of connectors from their registry, reasons from `shared/events/outcome.py`, the command from its own help. `tests/meta/test_docs.py` fails when a
page is stale. Pages that people write have the reasons and the advice; they link to the generated ones.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click
import msgspec
from msgspec import inspect

from connector_runner.feeds.contract import FeedRules
from connector_runner.feeds.registry import FEEDS
from connector_runner.registry import SOURCES
from connector_runner.settings import PREFIX as CONNECTOR_PREFIX
from connector_runner.settings import ConnectorSettings
from functions_runtime.settings import PREFIX as FUNCTIONS_PREFIX
from functions_runtime.settings import FunctionsSettings
from ingest import openapi
from ingest.settings import PREFIX as INGEST_PREFIX
from ingest.settings import IngestSettings
from loader import registry
from loader.settings import PREFIX as LOADER_PREFIX
from loader.settings import LoaderSettings
from penstock.command.cli import cli
from penstock.connector_catalogue import catalogue
from penstock.control.project.schema import schema_text
from penstock.metric_pages import metrics, reasons
from penstock.option_words import default_text, description, table, type_text
from penstock.terminal import exits
from router.alerts.contract import AlertRules
from router.alerts.registry import CHANNELS
from router.settings import RouterSettings
from shared.devices.connections import DeviceConnection
from shared.devices.registry import DEVICES
from shared.project.model import Connection, Project, Site
from shared.secrets.reading import PREFIX as SECRETS_PREFIX
from shared.secrets.reading import VAULT_PREFIX, SecretsSettings, VaultSettings
from shared.settings import ServiceSettings

DOCS = Path(__file__).resolve().parents[1] / "docs"
WIDTH = 100
NOTE = "<!-- made by `python -m penstock.reference`; edit the code it is made from, not this page -->"

SETTINGS: tuple[tuple[str, str, type[msgspec.Struct]], ...] = (
    ("Every service", "PENSTOCK_", ServiceSettings),
    ("Secrets, in each service that opens destinations", SECRETS_PREFIX, SecretsSettings),
    ("The vault, in each service that opens destinations", VAULT_PREFIX, VaultSettings),
    ("ingest", INGEST_PREFIX, IngestSettings),
    ("router", "PENSTOCK_ROUTER_", RouterSettings),
    ("functions_runtime", FUNCTIONS_PREFIX, FunctionsSettings),
    ("loader", LOADER_PREFIX, LoaderSettings),
    ("connector_runner", CONNECTOR_PREFIX, ConnectorSettings),
)
"""Title, prefix and Struct of everything that is read from the environment."""

_SPECIAL = {
    (Project, "destinations"): "name to a [destination](#destinations)",
    **dict.fromkeys(((Connection, "where"), (Site, "where")), "[conditions](routing.md#conditions)"),
}
"""What the Structs hold as plain JSON because another module checks it."""


def pages() -> dict[str, str]:
    """Returns every generated file: its path below docs/, and its text."""
    return {
        "configuration.md": "\n".join(_configuration()) + "\n",
        "metrics.md": "\n".join(metrics(NOTE)) + "\n",
        "reasons.md": "\n".join(reasons(NOTE)) + "\n",
        "command.md": "\n".join(_command()) + "\n",
        "connectors/catalogue.md": "\n".join(catalogue(NOTE)) + "\n",
        "project.schema.json": schema_text(),
        "openapi.json": openapi.text(),
    }


def stale(folder: Path = DOCS) -> list[str]:
    """Returns the names of pages in `folder` that are missing or say something else than the code."""
    return [
        name
        for name, text in pages().items()
        if not (folder / name).exists() or (folder / name).read_text(encoding="utf-8") != text
    ]


def write(folder: Path = DOCS) -> list[str]:
    """Writes the pages that are stale; returns their names."""
    names = stale(folder)
    texts = pages()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(texts[name], encoding="utf-8")
    return names


# -- configuration


def _configuration() -> Iterator[str]:
    yield from (
        "# Configuration",
        "",
        NOTE,
        "",
        "Two kinds of configuration exist. The [project file](#project-file) says what happens to events; it is applied with",
        "`penstock apply` while everything runs. [Settings](#settings) say how a process runs; they are environment variables, read",
        "once at its start.",
        "",
        "## Project file",
        "",
        "One YAML (or JSON) file. Unknown keys are refused, and every error names its path and what was expected. A file with any",
        "error changes nothing. [project.schema.json](project.schema.json) is its JSON Schema; an editor with the YAML language",
        "server completes the file when it begins with:",
        "",
        "```yaml",
        "# yaml-language-server: $schema=docs/project.schema.json",
        "```",
        "",
        "[examples/](../examples/README.md) has a minimal project, and one with every key in it.",
        "",
        "Values:",
        "",
        "- `${NAME}` in a text is the environment variable `NAME` in the environment of the command that applies the file, `${NAME:-text}` has a default, and `$$`",
        "  is a dollar sign. A variable that is not set is an error.",
        "- A *duration* is a number of seconds or a text such as `250ms`, `30s`, `5m`, `1h30m`, `7d`.",
        "- A *size* is a number of bytes or a text such as `512KiB`, `64MiB`, `1GB`.",
        "- Only `true` and `false` are booleans: `no`, `off` and `2026-03-01` are texts. A key that stands twice in one mapping is an",
        "  error, and so is an empty file: write `sites: {}` for a project with nothing in it.",
        "- Names of sites, destinations, functions, connections, connectors, syncs, feeds, tracking plans, webhooks and alerts are 1 to 63 of `a-z`, `0-9`, `_` and `-`, and begin with a letter or digit.",
        "",
    )
    structs: dict[type, inspect.StructType] = {}
    _collect(inspect.type_info(Project), structs)
    del structs[DeviceConnection]  # people write it as a connection
    for struct in structs.values():
        yield from _struct(struct, 3)
    yield from (
        "## Destinations",
        "",
        "A destination has a `type`, and the options of that type beside it.",
        "",
    )
    options = [(name, registry.plugin(name).OPTIONS) for name in registry.destination_types()]
    yield from _kinds("", "destinations", options, structs)
    yield from (
        "## Device destinations",
        "",
        "These types of destinations run in the visitor's browser: [devices.md](devices.md). Every visitor can read their options.",
        "",
    )
    yield from _kinds("Device ", "devices", [(name, DEVICES.get(name).OPTIONS) for name in DEVICES.names()], structs)
    yield from ("## Connectors", "", "A connector has a `type`, and the options of that type beside it.", "")
    yield from _kinds("", "connectors", [(name, SOURCES.get(name).OPTIONS) for name in SOURCES.names()], structs)
    yield from ("## Feeds", "", "A feed has a `type`, the options of that type beside it, and those of every feed.", "")
    info = inspect.type_info(FeedRules)
    assert isinstance(info, inspect.StructType)  # noqa: S101  # for the type checker
    yield from ("### Every feed", "", "How records become events: [feeds.md](feeds.md).", "", *_fields(info))
    for name in FEEDS.names():
        info = inspect.type_info(FEEDS.get(name).OPTIONS)
        assert isinstance(info, inspect.StructType)  # noqa: S101  # for the type checker
        yield from (f"### Feed from {name}", "", f"How it works: [feeds/{name}.md](feeds/{name}.md).", "", *_fields(info))
    yield from (
        "## Alerts",
        "",
        "An alert has the `type` of its channel, the options of that type beside it, and those of every alert.",
        "",
    )
    info = inspect.type_info(AlertRules)
    assert isinstance(info, inspect.StructType)  # noqa: S101  # for the type checker
    yield from ("### Every alert", "", "[alerts.md](alerts.md) says what an alert tells, and when.", "", *_fields(info))
    for name in CHANNELS.names():
        info = inspect.type_info(CHANNELS.get(name).OPTIONS)
        assert isinstance(info, inspect.StructType)  # noqa: S101  # for the type checker
        yield from (f"### Alert by {name}", "", f"How it works: [alerts/{name}.md](alerts/{name}.md).", "", *_fields(info))
    yield from (
        "## Settings",
        "",
        "Environment variables; an empty one counts as absent. Lists are separated by commas. A wrong value ends the process with exit",
        "code 78 and a line that names the variable.",
        "",
    )
    for title, prefix, settings in SETTINGS:
        info = inspect.type_info(settings)
        assert isinstance(info, inspect.StructType)  # noqa: S101  # for the type checker
        yield from (f"### {title}", "")
        yield from _fields(info, prefix)
    yield from (
        "### The command",
        "",
        "These stand in for an option of `penstock` that is not given; see [command.md](command.md).",
        "",
        *table(("variable", "option", "commands"), _command_variables()),
        "",
    )


def _kinds(
    word: str, folder: str, kinds: Iterable[tuple[str, type[msgspec.Struct]]], structs: dict[type, inspect.StructType]
) -> Iterator[str]:
    """Yields the options of every plug-in of a kind, and the Structs in them that no part before had."""
    for name, options in kinds:
        info = inspect.type_info(options)
        assert isinstance(info, inspect.StructType)  # noqa: S101  # for the type checker; tests/meta/test_plugins.py holds it
        yield from (f"### {word}{name}", "", f"How it works: [{folder}/{name}.md]({folder}/{name}.md).", "", *_fields(info))
        inner: dict[type, inspect.StructType] = {}
        _collect(info, inner)
        for struct in inner.values():
            if struct.cls not in (info.cls, *structs):
                structs[struct.cls] = struct
                yield from _struct(struct, 4)


def _collect(info: inspect.Type, structs: dict[type, inspect.StructType]) -> None:
    """Finds Structs, outer ones first."""
    if isinstance(info, inspect.StructType):
        if info.cls in structs:
            return
        structs[info.cls] = info
        for field in info.fields:
            _collect(field.type, structs)
    for name in ("type", "item_type", "value_type"):
        inner = getattr(info, name, None)
        if isinstance(inner, inspect.Type):
            _collect(inner, structs)
    for inner in getattr(info, "types", ()):
        _collect(inner, structs)


def _struct(info: inspect.StructType, level: int) -> Iterator[str]:
    yield from (f"{'#' * level} {info.cls.__name__}", "", (info.cls.__doc__ or "").strip(), "")
    yield from _fields(info)


def _fields(info: inspect.StructType, prefix: str | None = None) -> Iterator[str]:
    rows: list[Sequence[str]] = []
    if info.tag is not None:
        rows.append((f"`{info.tag_field}`", f"`{info.tag}`", "**required**", "tells this kind from the others"))
    for field in info.fields:
        if (info.cls, field.name) == (Project, "devices"):
            continue
        name = field.encode_name if prefix is None else prefix + field.encode_name.upper()
        type_words = _SPECIAL.get((info.cls, field.name)) or type_text(field.type)
        rows.append((f"`{name}`", type_words, default_text(field), description(field.type)))
    yield from table(("variable" if prefix else "key", "type", "default", "meaning"), rows)
    yield ""


# -- the command


def _command() -> Iterator[str]:
    yield from (
        "# The command",
        "",
        NOTE,
        "",
        "`penstock` runs the local stack, applies projects, shows what happens and replays what failed. Every command prints for people,",
        "and with `--json` for programs.",
        "",
        "## Exit codes",
        "",
        *table(("code", "meaning"), [(f"{code}", meaning) for code, meaning in exits.MEANINGS.items()]),
        "",
    )
    for path, command in commands():
        context = click.Context(
            command,
            info_name=path,
            terminal_width=WIDTH,
            max_content_width=WIDTH,
            color=False,
            help_option_names=cli.context_settings["help_option_names"],
        )
        yield from (f"{'#' * len(path.split())} {path}", "", "```text", command.get_help(context).rstrip(), "```", "")


def commands(group: click.Group = cli, path: str = "penstock") -> Iterator[tuple[str, click.Command]]:
    """Yields every command below `group` with its whole name, groups before their members."""
    context = click.Context(group, info_name=path)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None:
            continue
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


def _command_variables() -> list[tuple[str, str, str]]:
    found: dict[tuple[str, str], list[str]] = {}
    every = [(path, command) for path, command in commands() if not isinstance(command, click.Group)]
    for path, command in every:
        for parameter in command.params:
            if isinstance(parameter.envvar, str):
                found.setdefault((parameter.envvar, parameter.opts[0]), []).append(path.removeprefix("penstock "))
    return [
        (f"`{variable}`", f"`{option}`", "every command" if len(names) == len(every) else ", ".join(names))
        for (variable, option), names in sorted(found.items())
    ]


def main(arguments: Sequence[str]) -> int:
    """Writes, or with `--check` compares; returns the exit code."""
    if list(arguments) not in ([], ["--check"]):
        sys.stderr.write("usage: python -m penstock.reference [--check]\n")
        return exits.WRONG_INPUT
    names = stale() if arguments else write()
    for name in names:
        sys.stdout.write(f"docs/{name} {'is stale' if arguments else 'written'}\n")
    return exits.NO if arguments and names else exits.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
