"""`penstock alerts`: what the alerts of the project tell of, test messages, and silences."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from penstock.command.verbs.resume import Period
from penstock.control.reach import open_broker
from penstock.terminal import exits
from penstock.terminal.options import Setting, at_broker
from shared.errors import ConfigError, Problem, SetupError
from shared.reading.decode import meant
from shared.reading.moments import shown

if TYPE_CHECKING:
    from router.alerts.judge.ledger import Ledger
    from router.alerts.store import Silence
    from shared.jetstream.broker import Broker
    from shared.project.model import Project

ANSWER_SECONDS = 90.0
POLL_SECONDS = 0.2
MOST_NAMES = 30
COLUMNS = ("alert", "fault", "since", "told", "why")


@click.group()
def alerts() -> None:
    """List what alerts tell of, send test messages, silence.

    \b
    Example:
      penstock alerts list
      penstock alerts test oncall
    """


@alerts.command("list")
@at_broker
def list_(setting: Setting) -> int:
    """Lists the faults that alerts tell of, alerts that cannot be sent, and silences. Ends with code 1 if there is a fault, if messages cannot be
    sent, or if no router evaluates.

    \b
    Example:
      penstock alerts list
      penstock alerts list --json
    """
    found = asyncio.run(_read(setting))
    ledgers, silences = found.ledgers, found.silences
    screen = setting.screen
    screen.result(
        {
            "alerts": [_result(name, ledger) for name, ledger in ledgers.items()],
            "silences": silences,
            "evaluated_by": found.evaluator,
        }
    )
    rows = [
        (name, key, shown(kept.since), shown(kept.told) if kept.told else "not yet", kept.why)
        for name, ledger in ledgers.items()
        for key, kept in ledger.firing.items()
    ]
    if rows:
        screen.table(COLUMNS, rows)
    troubled = {name: ledger.trouble for name, ledger in ledgers.items() if ledger.trouble}
    for name, why in troubled.items():
        screen.say(f"{name} cannot be sent: {why}; when it is mended, try: penstock alerts test {name}", "red")
    unwatched = bool(ledgers) and not found.evaluator
    if unwatched:
        screen.say("no router evaluates them now, so nothing is told: is the service router up?", "red")
    for name, some in silences.items():
        for each in some:
            of = "every alert" if name == _all() else name
            screen.say(f"{of} is silent about {each.about or 'everything'} until {shown(each.until)} UTC", "yellow")
    if not ledgers:
        screen.say("no alerts; write `alerts:` in the project file: docs/alerts.md")
    elif not rows and not troubled and not unwatched:
        screen.say("nothing is wrong", "green")
    return exits.NO if rows or troubled or unwatched else exits.OK


@alerts.command()
@click.argument("alert")
@at_broker
def test(setting: Setting, alert: str) -> int:
    """Sends a test message by ALERT, from the router that would send its messages, and says what its channel answers.

    \b
    Example:
      penstock alerts test oncall
    """
    why = asyncio.run(_test(setting, alert))
    setting.screen.result({"alert": alert, "taken": not why, "why": why})
    if why:
        setting.screen.say(f"{alert}: {why}", "red")
        return exits.NO
    setting.screen.say(f"{alert}: the test message was taken", "green")
    return exits.OK


@alerts.command()
@click.argument("alert", required=False)
@click.option("--for", "period", type=Period(), default=3600.0, help="How long; 0 ends a silence.  [default: 1h]")
@click.option(
    "--about",
    default="",
    help="Name of a connection, site, destination and so on, or a fault as `list` names it; default: everything.",
)
@at_broker
def silence(setting: Setting, alert: str | None, period: float, about: str) -> int:
    """Lets ALERT, or every alert, tell nothing for a time. Faults that last are told after it.

    \b
    Example:
      penstock alerts silence oncall --for 2h
      penstock alerts silence --about shop-wh --for 30m
      penstock alerts silence oncall --for 0s
    """
    until, other = asyncio.run(_silence(setting, alert, period, about))
    setting.screen.result({"alert": alert, "about": about, "until": until, "also_silent_until": other or None})
    of, what = alert or "every alert", about or "everything"
    if period:
        setting.screen.say(f"{of} is silent about {what} until {shown(until)} UTC", "green")
    elif other:
        setting.screen.say(f"another silence still covers {what} until {shown(other)} UTC: penstock alerts list", "yellow")
    else:
        setting.screen.say(f"{of} tells of {what} again", "green")
    return exits.OK


class _Found(NamedTuple):
    """What alerts know. `evaluator`: the process that evaluates them; empty: none."""

    ledgers: dict[str, Ledger]
    silences: dict[str, list[Silence]]
    evaluator: str


async def _read(setting: Setting) -> _Found:
    from router.alerts.keeper import LEASE  # brings what --help does not need
    from router.alerts.store import read_ledgers, read_silences
    from shared.jetstream.lease import holder

    async with open_broker(setting.reach()) as broker:
        ledgers = await read_ledgers(broker, sorted((await _project(broker)).alerts))
        return _Found(ledgers, await read_silences(broker, time.time()), await holder(broker, LEASE) or "")


async def _test(setting: Setting, alert: str) -> str:
    from router.alerts.store import ask_test, read_answer

    async with open_broker(setting.reach()) as broker:
        await _check(broker, alert)
        asked, loop = uuid.uuid4().hex, asyncio.get_running_loop()
        await ask_test(broker, alert, asked)
        ends_at = loop.time() + ANSWER_SECONDS
        while loop.time() < ends_at:
            answer = await read_answer(broker, alert, asked)
            if answer is not None:
                return answer.why
            await asyncio.sleep(POLL_SECONDS)
    raise SetupError(f"no router sent the test message within {ANSWER_SECONDS:.0f} s; is the service router up?")


async def _silence(setting: Setting, alert: str | None, period: float, about: str) -> tuple[float, float]:
    """Returns until when the silence holds, and until when another one covers the same; 0: none does."""
    from router.alerts.store import ALL, Silence, read_silences, write_silence

    async with open_broker(setting.reach()) as broker:
        if alert is not None:
            await _check(broker, alert)
        if about and period:
            await _check_about(broker, about)
        now = time.time()
        await write_silence(broker, alert or ALL, Silence(until=now + period, about=about), now)
        others = await read_silences(broker, now)
        of_both = [*others.get(ALL, ()), *(others.get(alert, ()) if alert else ())]
        covering = [each.until for each in of_both if each.about in ("", about)]
        return now + period, max(covering, default=0.0)


async def _project(broker: Broker) -> Project:
    from shared.project.snapshot import current_snapshot

    return (await current_snapshot(broker)).project


async def _check_about(broker: Broker, about: str) -> None:
    """Refuses a name that nothing has: a silence about it would hold back nothing."""
    from router.alerts.contract import KINDS
    from router.alerts.store import read_ledgers

    project = await _project(broker)
    groups = (project.connections, project.sites, project.destinations, project.syncs, project.feeds)
    known = {name for group in groups for name in group}
    for ledger in (await read_ledgers(broker, list(project.alerts))).values():
        known |= {each for key, kept in ledger.faults.items() for each in (key, key.partition(" ")[2], *kept.names)}
    kind, _, name = about.partition(" ")
    if about not in known and not (kind in KINDS and name):
        names = ", ".join(sorted(known)[:MOST_NAMES]) or "none"
        raise ConfigError([Problem("", f"--about: nothing is named {about!r};{meant(about, known)} known: {names}")])


async def _check(broker: Broker, alert: str) -> None:
    known = sorted((await _project(broker)).alerts)
    if alert not in known:
        names = ", ".join(known) or "none"
        raise ConfigError([Problem("", f"no alert is named {alert!r};{meant(alert, known)} known: {names}")])


def _all() -> str:
    from router.alerts.store import ALL

    return ALL


def _result(name: str, ledger: Ledger) -> dict[str, Any]:
    return {"alert": name, "trouble": ledger.trouble, "sent_at": ledger.sent_at or None, "firing": ledger.firing}
