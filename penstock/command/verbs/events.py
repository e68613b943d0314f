"""`penstock send`, `tail` and `explain`: events in, events seen, and what would become of one."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from penstock.command.dotenv import with_dotenv
from penstock.command.explained import show_explanation
from penstock.control.data.lines import Lines
from penstock.control.data.send import BATCH_EVENTS, Sent, batches
from penstock.control.data.send import send as send_batches
from penstock.control.data.tail import Tailed
from penstock.control.data.tail import tail as tail_events
from penstock.control.project.projects import DEFAULT_FILE, check_document, read_document
from penstock.control.reach import local_environment, open_broker
from penstock.control.wording import counted, cut
from penstock.terminal import exits
from penstock.terminal.options import Integer, Setting, at_broker, at_home
from penstock.terminal.screen import Screen, harmless
from shared.errors import ConfigError, Problem, SetupError
from shared.events.event import encode_event
from shared.project.model import Project
from shared.project.read import decode_project
from shared.project.shards import connection_of_shard
from shared.project.snapshot import current_snapshot

WHOLE_LINE = 140
"""From this width on a line of `penstock tail` has the date, and usually the messageId."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--key", envvar="PENSTOCK_KEY", help="Write key, `id` or `id:secret`; default: the open key of the only site.")
@click.option(
    "--url", "edge", envvar="PENSTOCK_EDGE_URL", metavar="EDGE", help="Address of the edge; default: the stack in --home."
)
@click.option("--batch", type=Integer(1, 5000), default=BATCH_EVENTS, show_default=True, help="Events a request.")
@click.option(
    "--patience",
    type=click.FloatRange(min=0),
    default=600.0,
    show_default=True,
    help="Seconds to keep trying while the edge is busy or away.",
)
@click.option("--from-line", type=Integer(1), default=1, show_default=True, help="Leave out the lines before it.")
@at_home
def send(
    setting: Setting, file: Path, key: str | None, edge: str | None, batch: int, patience: float, from_line: int
) -> int:  # fmt: skip
    """Sends FILE (one JSON event a line, plain or gzip; `-`: standard input) through the edge, in order.

    Events of a file without a messageId get one from their line and its number: if you send the file again, its events are not
    loaded twice. Events of standard input get a new one each time. While the edge answers 503 or 429, the command waits as long
    as the edge says. After Ctrl-C it says with which line the rest begins.

    A rejected event is one that the edge could read and did not accept: it is a dead letter. A refused event was in a request
    that the edge refused whole (not JSON, too large): only the file has it. Exit code 1 if there is either.

    \b
    Examples:
      penstock send events.ndjson --key shop-web
      penstock send events.ndjson.gz --key shop-api:secret --url https://in.example.com
    """
    if edge is None or key is None:
        try:
            reach = setting.reach()
        except SetupError as exc:
            if edge is None:
                raise
            raise SetupError("no stack is here whose key could be taken; say it with --key ID or --key ID:SECRET") from exc
        edge = edge or (reach.state.ingest_url if reach.state else None)
        if edge is None:
            raise SetupError("the broker is named but the edge is not; say where events go with --url")
        key = key or asyncio.run(_only_key(setting))
    if not edge.startswith(("http://", "https://")):
        raise click.UsageError(f"--url is the address of an edge, such as http://127.0.0.1:8080, got {edge!r}")
    sent = Sent(next_line=from_line)
    try:
        with (
            Lines(file) as lines,
            setting.screen.progress("sending", total=lines.size, in_bytes=True) as advance,
        ):

            def progress(_sent: Sent, note: str) -> None:
                advance(lines.bytes_read, note=note or f"{sent.accepted} accepted, {sent.rejected + sent.refused} not")

            packed = batches(lines, batch, from_line=from_line, repeatable=lines.size is not None)
            asyncio.run(
                send_batches(edge_url=edge, key=key, source=packed, on_progress=progress, patience_seconds=patience, sent=sent)
            )
    except KeyboardInterrupt:
        setting.screen.note(interrupted(sent, file))
        return exits.INTERRUPTED
    setting.screen.result(sent)
    _show(setting.screen, sent)
    return exits.OK if sent.accepted == sent.events else exits.NO


@click.command()
@click.argument("name", required=False, metavar="[SITE|CONNECTION]")
@click.option("--last", type=Integer(0, 100_000), default=10, show_default=True, help="Events to begin with.")
@click.option("--follow", "-f", is_flag=True, help="Go on with new events until Ctrl-C.")
@click.option("--full", is_flag=True, help="Print whole events, indented, not one line of each.")
@click.option("--functions", is_flag=True, help="Print what functions of the connection, or of all, log, instead of events.")
@at_broker
def tail(setting: Setting, name: str | None, last: int, follow: bool, full: bool, functions: bool) -> int:
    """Prints accepted events of a site, of a connection's site, or of all, with the server's facts.

    With --json every event is one line of JSON. Of what functions log, the broker keeps the newest 200 lines of each connection.

    \b
    Examples:
      penstock tail shop --follow
      penstock tail shop-warehouse --functions -f
    """
    if functions:
        asyncio.run(_tail_functions(setting, name, last, follow=follow))
        return exits.OK
    asyncio.run(_tail(setting, name, last, follow=follow, full=full))
    return exits.OK


async def _tail(setting: Setting, name: str | None, last: int, *, follow: bool, full: bool) -> None:
    reach = setting.reach()
    async with open_broker(reach) as broker:
        project = (await current_snapshot(broker)).project
        site = _site_of(project, name) if name else None
        async for found in tail_events(broker, site, last, follow=follow):
            event = found.event
            if setting.screen.json or full:
                text = encode_event({"site": found.site, "seq": found.seq, "event": event})
                sys.stdout.write((text.decode() if setting.screen.json else harmless(msgspec.json.format(text).decode())) + "\n")
                sys.stdout.flush()
                continue
            setting.screen.say(_told(found, setting.screen.out.width if setting.screen.out.is_terminal else None))


async def _tail_functions(setting: Setting, name: str | None, last: int, *, follow: bool) -> None:
    from penstock.control.data.live import live_lines  # brings functions_runtime with it

    async with open_broker(setting.reach()) as broker:
        project = (await current_snapshot(broker)).project
        site = None if name is None or name in project.connections else _site_of(project, name)
        wanted = {
            each for each, of in project.connections.items() if name in (None, each, connection_of_shard(each)) or of.site == site
        }
        async for connection, line in live_lines(broker, wanted, last, follow=follow):
            if setting.screen.json:
                sys.stdout.write(msgspec.json.encode({"connection": connection, **msgspec.to_builtins(line)}).decode() + "\n")
                sys.stdout.flush()
                continue
            at = f"{datetime.fromtimestamp(line.at, UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3]
            setting.screen.say(f"{at}  {connection:<16} {line.level:<5} {line.message}", "red" if line.level == "error" else "")


def _told(found: Tailed, width: int | None) -> str:
    """Returns the line of an event; on a terminal it is cut to the width."""
    event = found.event
    at = f"{event['receivedAt']:%Y-%m-%d %H:%M:%S.%f}"[:-3]
    if width is not None and width < WHOLE_LINE:
        at = f"{event['receivedAt']:%H:%M:%S}"
    who = event.get("userId") or event.get("anonymousId") or "-"
    what = event.get("event") or event.get("name") or ""
    line = f"{at}  {found.site:<12} {event['type']:<9} {what!s:<28} {who!s:<24} {event['messageId']}"
    return line if width is None else cut(line, width)


def _site_of(project: Project, name: str) -> str:
    if name in project.sites:
        return name
    if name in project.connections:
        return project.connections[name].site
    known = ", ".join([*project.sites, *project.connections]) or "none"
    raise ConfigError([Problem("SITE", f"no site or connection is named {name!r}; known: {known}")])


async def _only_key(setting: Setting) -> str:
    async with open_broker(setting.reach()) as broker:
        project = (await current_snapshot(broker)).project
    keys = [key.id for site in project.sites.values() for key in site.keys if key.secret is None]
    if len(project.sites) != 1 or not keys:
        known = (
            ", ".join(f"{key} ({name})" for name, site in project.sites.items() for key in (k.id for k in site.keys)) or "none"
        )
        raise SetupError(f"say which key to send with: --key ID or --key ID:SECRET; keys of the project: {known}")
    return keys[0]


def interrupted(sent: Sent, file: Path) -> str:
    """Says how far the command came, and how to go on."""
    done = f"interrupted: {sent.accepted} accepted, {sent.rejected} rejected, {sent.refused} refused"
    if str(file) == "-":
        return f"{done}; what became of line {sent.next_line} and those after it is not known"
    return f"{done}; the rest begins with line {sent.next_line}: go on with --from-line {sent.next_line}, nothing is loaded twice"


def _show(screen: Screen, sent: Sent) -> None:
    screen.say(f"{counted(sent.events, 'event')}: {sent.accepted} accepted, {sent.rejected} rejected, {sent.refused} refused")
    if sent.rejects:
        rows = [(reject["line"], reject["reason"], reject["detail"]) for reject in sent.rejects]
        screen.table(("line", "reason", "detail"), rows, title="The first that were not accepted")
    if sent.rejected:
        screen.say("rejected events are kept: penstock dead list --stage ingest")
    if sent.refused:
        screen.say(
            "refused events are not kept: their request was refused whole; correct the lines and send them again", "yellow"
        )


@click.command()
@click.argument("event", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option("--site", help="Site that gets the event; default: the only one.")
@click.option(
    "--file", type=click.Path(path_type=Path, dir_okay=False), default=DEFAULT_FILE, show_default=True, help="Project file."
)
@click.option("--key", metavar="ID", help="Key that it is sent with; default: the first of the site.")
@click.option("--webhook", metavar="NAME", help="EVENT is a delivery to this webhook.")
@click.option("--fetch", is_flag=True, help="Send the requests of `fetch` and `hydrate`; else they fail.")
@at_home
def explain(
    setting: Setting, event: Path, site: str | None, file: Path, key: str | None, webhook: str | None, fetch: bool
) -> int:  # fmt: skip
    """Shows what every connection of a site would do with EVENT (one event as JSON; `-`: standard input), step by step.

    The edge judges it, the router asks the conditions, privacy rules and functions run here, and the destination's rows or calls
    are shown, secrets hidden. It needs no stack and changes nothing: what functions keep is forgotten. It does not ask whether
    the event came before, and takes all tables as new.

    A payload of another system needs --webhook, which judges it by the rules of that webhook; of an array it takes the first item.
    It verifies no signature, and knows no header and no query: a name or id that stands there is missing.

    Exit code 1 if the edge rejects the event, or if it becomes a dead letter of a connection.

    \b
    Examples:
      penstock explain order.json --site shop
      penstock explain order.json --file examples/shop/penstock.yaml --json
      penstock explain push.json --webhook github
    """
    from penstock.control.explain.explain import explain as explain_event  # brings the loader with it

    body = _one_event(event)
    environment = with_dotenv(local_environment(setting.home), file.parent)
    project = decode_project(check_document(read_document(file), environment, file.parent))
    hook = project.webhooks.get(webhook or "")
    chosen = site or (hook.site if hook is not None else _only_site(project))
    found = asyncio.run(explain_event(body, project, chosen, key=key, webhook=webhook, fetch=fetch))
    setting.screen.result(found)
    show_explanation(setting.screen, found)
    if not found.edge.accepted and webhook is None and any(each.site == chosen for each in project.webhooks.values()):
        setting.screen.say("if it is a delivery to a webhook, name that: --webhook NAME")
    dead = not found.edge.accepted or any(way.result == "dead_letter" for way in found.connections)
    return exits.NO if dead else exits.OK


def _one_event(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as exc:
        raise SetupError(f"{file} cannot be read: {exc.strerror}") from exc


def _only_site(project: Project) -> str:
    if len(project.sites) == 1:
        return next(iter(project.sites))
    known = ", ".join(sorted(project.sites)) or "none"
    raise ConfigError([Problem("--site", f"say which site gets the event: {known}")])
