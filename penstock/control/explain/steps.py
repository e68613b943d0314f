"""What `penstock explain` says, as data: the edge's verdict, and each connection's steps."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from penstock.control.functions.tried import Tried

Result = Literal["disabled", "dropped", "dead_letter", "again_later", "loaded", "sent", "page", "unknown"]


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """The edge's verdict: the id of an accepted event, or the reason of a dead letter."""

    accepted: bool
    message_id: str = ""
    type: str = ""
    event: str | None = None
    mended: bool = False
    """It was no JSON, and the edge could mend it."""
    reason: str = ""
    detail: str = ""


class RouteStep(msgspec.Struct, frozen=True, kw_only=True):
    """One question of the router. `passes`, `drops` or `buries` (a dead letter) with the reason and its detail, or `unasked`: an earlier
    question ended the event, or only a running stack can tell. A tracking plan that lets an event pass may have details too."""

    step: str
    verdict: Literal["passes", "drops", "buries", "unasked"]
    reason: str = ""
    detail: str = ""


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """A field that a privacy rule changed. Without `after` the field is gone, without `before` it is new."""

    field: str
    before: Any = msgspec.UNSET
    after: Any = msgspec.UNSET


class RuleStep(msgspec.Struct, frozen=True, kw_only=True):
    """One privacy rule. `missed`: it found nothing."""

    field: str
    do: str
    missed: bool
    changed: list[Changed] = []


class LookupStep(msgspec.Struct, frozen=True, kw_only=True):
    """What the lookups of a connection add. `missed`: the tables without a row for the event."""

    tables: list[str]
    missed: list[str] = []
    changed: list[Changed] = []


class HydrationStep(msgspec.Struct, frozen=True, kw_only=True):
    """The GET for what a delivery only names. `address`: without its query. `result`: ok, missing, again, failed; `unasked`: no request is sent here."""

    webhook: str
    address: str
    result: Literal["ok", "missing", "again", "failed", "unasked"]
    detail: str = ""
    changed: list[Changed] = []


class FunctionStep(msgspec.Struct, frozen=True, kw_only=True):
    """One function, and what became of the event in it."""

    function: str
    tried: Tried


class IdentityStep(msgspec.Struct, frozen=True, kw_only=True):
    """What stitching does with an event that goes on.

    `learns`: it tells the user of its anonymous id. `keeps`: it has no user, and is kept until one is known. `none`: it has no
    anonymous id.
    """

    message_id: str
    does: Literal["learns", "keeps", "none"]
    anonymous_id: str = ""
    user_id: str = ""
    look_back_seconds: float = 0


class ColumnStep(msgspec.Struct, frozen=True, kw_only=True):
    """A column of a table: its type, and the values of the rows, in their order."""

    column: str
    type: str
    values: list[Any]


class TableStep(msgspec.Struct, frozen=True, kw_only=True):
    """A table that gets rows. `write`: append or merge, with the columns of the `key`."""

    table: str
    rows: int
    write: str
    key: list[str]
    columns: list[ColumnStep]


class CallStep(msgspec.Struct, frozen=True, kw_only=True):
    """A request to a service, its secrets hidden. `body`: as data where it is JSON, else as text."""

    method: str
    url: str
    headers: dict[str, str]
    body: Any
    events: int


class Way(msgspec.Struct, kw_only=True):
    """What one connection does with the event.

    `result` is where the event ends. `page`: in the visitor's browser, which no service sees. `unknown`: something is missing here that the step needs, such as a driver; `detail` says what.
    """

    connection: str
    destination: str
    type: str
    result: Result = "unknown"
    reason: str = ""
    detail: str = ""
    route: list[RouteStep] = []
    """The questions of the router that this project asks, in their order."""
    hydration: list[HydrationStep] = []
    lookups: list[LookupStep] = []
    rules: list[RuleStep] = []
    functions: list[FunctionStep] = []
    identity: list[IdentityStep] = []
    tables: list[TableStep] = []
    calls: list[CallStep] = []


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What a site does with an event: the edge's verdict, and every connection's way if it is accepted."""

    site: str
    edge: Judged
    connections: list[Way]
