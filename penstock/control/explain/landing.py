"""What a destination gets of an event: rows by table, or calls. Reaches nothing.

Tables are taken as new, so every column is shown as it would be made. Refusals of tables that exist do not show.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from loader import registry
from loader.contract.events import Call, EventDestination
from loader.contract.warehouse import Capabilities, Environment
from loader.delivery.sending.job import Item, Source
from loader.fitting.fit import Ready, fit_batch
from loader.rows.rules import Stamp
from loader.rows.shape import Shaper
from penstock.control.explain.steps import CallStep, ColumnStep, TableStep, Way
from shared.events.frame import Frame
from shared.events.outcome import Dead
from shared.project.model import Connection
from shared.reading.mask import FEWEST, HIDDEN
from shared.threads import ThreadGate

LANE = "explain"
CREDENTIALS = frozenset({"authorization", "proxy-authorization", "cookie"})
"""Headers whose values are credentials in every form."""


def land(way: Way, connection: Connection, capabilities: Capabilities, frame: Frame) -> None:
    """Adds the tables of a frame's events to a connection's way, and its result."""
    shaper = Shaper(way.connection, connection, capabilities, connection.site)
    shaper.add(frame, 1)
    batch = shaper.take()
    fitted = fit_batch(batch, {}, shaper.rules, Stamp(datetime.now(UTC), LANE))
    finished = fitted.finish({})
    kinds = {
        name: {column.name: column.native or str(column.kind) for column in each.settled.columns.values()}
        for name, each in fitted.tables.items()
    }
    way.tables = [_table(ready, kinds[ready.load.table]) for ready in finished.ready]
    dead = [*batch.dead, *finished.dead]
    if way.tables:
        way.result = "loaded"
    elif dead:
        way.result, way.reason, way.detail = "dead_letter", dead[0].reason, dead[0].detail
    else:
        way.result, way.reason = "dropped", next(iter(batch.dropped), "")


def _table(ready: Ready, kinds: Mapping[str, str]) -> TableStep:
    load = ready.load
    columns = [
        ColumnStep(column=name, type=kinds.get(name, ""), values=load.rows.column(name).to_pylist())
        for name in load.rows.column_names
    ]
    return TableStep(table=load.table, rows=load.rows.num_rows, write=load.write, key=list(load.key), columns=columns)


async def call(way: Way, document: Mapping[str, Any], frame: Frame) -> None:
    """Adds the calls of a frame's events to a connection's way, and its result.

    Raises:
        PenstockError: the destination cannot be opened.
    """
    plugin, options = registry.parse_options(way.destination, document)
    gate = ThreadGate(1, LANE)
    try:
        destination = await plugin.open_destination(way.destination, options, Environment(gate))
        try:
            if isinstance(destination, EventDestination):
                _calls(way, destination, document, frame)
        finally:
            await destination.close()
    finally:
        gate.close()


def _calls(way: Way, destination: EventDestination, document: Mapping[str, Any], frame: Frame) -> None:
    source = Source(LANE, frame)
    events = [Item(source, index, 1, index, user="").event() for index in range(len(frame))]
    most = destination.limits.events_per_call
    for start in range(0, len(events), most):
        made = destination.calls(events[start : start + most], time.time())
        way.calls += [_call(shown, document) for each in made.calls for shown in each.shown()]
        for ended in made.ended.values():
            way.result = "dead_letter" if isinstance(ended, Dead) else "dropped"
            way.reason, way.detail = ended.reason, ended.detail if isinstance(ended, Dead) else ""
    if way.calls:
        way.result, way.reason, way.detail = "sent", "", ""


def _call(call: Call, document: Mapping[str, Any]) -> CallStep:
    mask = registry.mask_of(document)
    secrets = [value for name in registry.secrets_of(document.get("type")) if isinstance(value := document.get(name), str)]

    def hide(text: str) -> str:
        for secret in secrets:  # an address can be a secret as a whole
            if len(secret) >= FEWEST:
                text = text.replace(secret, HIDDEN)
        return mask.text(text)

    headers = {name: HIDDEN if name.lower() in CREDENTIALS else hide(value) for name, value in call.headers.items()}
    return CallStep(method=call.method, url=hide(call.url), headers=headers, body=_body(call.body, hide), events=len(call.events))


def _body(body: bytes, hide: Any) -> Any:
    text = hide(body.decode("utf-8", "replace"))
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return text
