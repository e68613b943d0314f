"""Which errors of a destination make a table's rows wait aside, and which make everything wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from loader.contract.warehouse import LoadPlan, LoadReport, TableLoad, TablePatch, TableSchema
from loader.delivery.deliver import Deliverer, Work
from loader.delivery.live_tables import CREATED_TOGETHER, REFUSED_SECONDS
from loader.queue.aside import DELAYS_SECONDS, Failing, put_aside, read_aside
from loader.rows.hints import HINTS_LEFT_OUT
from shared.errors import NotConnected, PenstockError, Permanent, SetupError, TableBusy, TableSetupError, Transient
from shared.events.dead import decode_dead
from shared.events.frame import Frame
from shared.events.headers import TABLE, Place
from shared.jetstream.publisher import Publisher
from shared.jetstream.reader import Message
from shared.settings import ServiceSettings
from shared.telemetry.metrics import Telemetry
from tests.unit.loader.shaping import Desk, frame_of, patched

PAGE, TRACK = {"type": "page"}, {"type": "track", "event": "Bought"}


class Published:
    """Takes what is published and keeps it."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, bytes, str, dict[str, str]]] = []

    async def publish(self, subject: str, payload: bytes, *, msg_id: str, headers: Mapping[str, str] | None = None) -> None:
        self.messages.append((subject, payload, msg_id, dict(headers or {})))

    @property
    def tables(self) -> list[str]:
        return [headers[TABLE] for *_, headers in self.messages]


class Places:
    """A destination whose tables fail as they are told to."""

    def __init__(self) -> None:
        self.live: dict[str, TableSchema | None] = {}
        self.broken: dict[str, PenstockError] = {}
        self.rows: dict[str, int] = {}
        self.tried: list[str] = []
        self.odd: dict[str, PenstockError] = {}
        """Tables that cannot be made or changed."""
        self.taken: set[str] = set()
        """Tables that another loader makes just now."""
        self.described: list[list[str]] = []
        self.created: list[list[str]] = []
        self.patched: list[str] = []

    async def describe(self, tables: Sequence[str]) -> Mapping[str, TableSchema | None]:
        self.described.append(list(tables))
        return {table: self.live.get(table) for table in tables}

    async def create(self, patches: Sequence[TablePatch]) -> Mapping[str, TableSchema]:
        self.created.append([patch.table for patch in patches])
        for patch in patches:
            if patch.table in self.odd:
                raise self.odd[patch.table]
        return {patch.table: await self._patch(patch) for patch in patches if patch.table not in self.taken}

    async def patch(self, patch: TablePatch) -> TableSchema:
        self.patched.append(patch.table)
        if patch.table in self.odd:
            raise self.odd[patch.table]
        return await self._patch(patch)

    async def _patch(self, patch: TablePatch) -> TableSchema:
        self.live[patch.table] = after = patched(self.live.get(patch.table), patch)
        return after

    async def load(self, plan: LoadPlan, loads: Sequence[TableLoad]) -> LoadReport:
        await self.probe(loads)
        for load in loads:
            self.rows[load.table] = self.rows.get(load.table, 0) + load.rows.num_rows
        return LoadReport({load.table: load.rows.num_rows for load in loads})

    async def probe(self, loads: Sequence[TableLoad]) -> None:
        for load in loads:
            self.tried.append(load.table)
            if load.table in self.broken:
                raise self.broken[load.table]


class Bench:
    """A deliverer between a destination and RETRY, neither of them real."""

    def __init__(self, options: dict[str, Any] | None = None, places: Places | None = None) -> None:
        self.desk = Desk(options or {"layout": "segment"})
        self.telemetry = Telemetry("loader", ServiceSettings())
        self.places, self.published, self.now = places or Places(), Published(), 0.0
        self.failing = Failing(lambda: self.now)
        publisher = cast("Publisher", self.published)
        self.deliverer = Deliverer(
            "shop-wh",
            "shop",
            self.desk.shaper.rules,
            cast("Any", self.places),
            publisher,
            self.telemetry,
            self.failing,
            clock=lambda: self.now,
        )

    async def deliver(self, *events: dict[str, Any] | bytes, aside: bool = False) -> bool:
        batch = self.desk.shape(*events)
        plan = LoadPlan("shop-wh", "live", self.desk.seq, self.desk.seq)
        return await self.deliverer.deliver(Work(plan, batch, aside)) is not None


@pytest.mark.parametrize("error", [Permanent("no"), TableSetupError("no"), TableBusy("no")])
async def test_a_table_that_fails_first_of_all_lets_the_others_pass(error: PenstockError) -> None:
    bench = Bench()
    bench.places.broken["pages"] = error
    assert await bench.deliver(PAGE)
    assert bench.published.tables == ["pages"]
    assert await bench.deliver(TRACK, PAGE)
    assert bench.published.tables == ["pages", "pages"]
    assert bench.places.rows == {"tracks": 1, "bought": 1}


@pytest.mark.parametrize("error", [SetupError("disk full"), NotConnected("gone"), Transient("odd")])
async def test_a_destination_that_fails_keeps_its_events_in_the_queue(error: PenstockError) -> None:
    bench = Bench()
    assert await bench.deliver(PAGE)
    bench.places.broken = dict.fromkeys(["pages", "tracks", "bought"], error)
    for events in ([PAGE], [TRACK], [PAGE, TRACK]):
        with pytest.raises(type(error)):
            await bench.deliver(*events)
    assert bench.published.messages == []


async def test_a_failing_table_is_tried_by_the_rows_that_wait_only_and_later_each_time() -> None:
    bench = Bench()
    bench.places.broken["pages"] = Permanent("no")
    await bench.deliver(PAGE)
    waits = []
    for _ in range(8):
        tries = len(bench.places.tried)
        await bench.deliver(PAGE)
        assert len(bench.places.tried) == tries, "newer rows join those that wait, untried"
        began = bench.now
        while not bench.failing.due("pages"):
            bench.now += 1
        waits.append(bench.now - began)
        assert not await bench.deliver(PAGE, aside=True)
    assert waits == [*DELAYS_SECONDS, 3600, 3600]
    assert len(bench.published.messages) == 9, "rows that are aside are not set aside again"
    bench.places.broken.clear()
    bench.now += 3600
    assert await bench.deliver(PAGE, aside=True)
    assert await bench.deliver(PAGE)
    assert bench.places.rows == {"pages": 2}


async def test_an_event_that_is_a_dead_letter_already_is_none_again_when_its_frame_comes_again() -> None:
    bench = Bench()
    batch = bench.desk.shape(b"nonsense", PAGE, b"[1]")
    work = Work(LoadPlan("shop-wh", "live", bench.desk.seq, bench.desk.seq), batch)
    bench.deliverer.buried = {f"live:{bench.desk.seq}:0"}
    outcome = await bench.deliverer.deliver(work)
    assert outcome is not None
    assert set(outcome.dead) == {(bench.desk.seq, 0), (bench.desk.seq, 2)}, "the account holds both"
    letters = [letter for _, payload, *_ in bench.published.messages for letter in decode_dead(payload)]
    assert [letter.origin for letter in letters] == [f"live:{bench.desk.seq}:2"]
    dead = bench.telemetry.value("loader_events_dead_total", connection="shop-wh", reason=letters[0].reason)
    assert dead == 1
    assert bench.places.rows == {"pages": 1}


async def test_a_replayed_event_that_dies_again_is_a_dead_letter_that_names_its_first() -> None:
    bench = Bench()
    frame = frame_of([b"nonsense", b"[1]"])
    frame.origins = ["live:7:3", "live:8:0"]
    bench.desk.shaper.add(frame, 1)
    bench.deliverer.buried = {"live:8:0"}  # as it was before the replay took it out
    await bench.deliverer.deliver(Work(LoadPlan("shop-wh", "replay-x", 1, 1), bench.desk.shaper.take()))
    letters = [letter for _, payload, *_ in bench.published.messages for letter in decode_dead(payload)]
    assert [letter.origins for letter in letters] == [{"replay-x:1:0", "live:7:3"}, {"replay-x:1:1", "live:8:0"}]


async def test_hints_of_clients_are_left_out_and_counted() -> None:
    bench = Bench()
    await bench.deliver({**PAGE, "properties": {"a": 1, "__sql_type_a": "text"}, "JITSU_TABLE_NAME": "theirs"}, PAGE)
    assert bench.places.rows == {"pages": 2}
    counted = bench.telemetry.value("loader_values_changed_total", connection="shop-wh", reason=HINTS_LEFT_OUT)
    assert counted == 2


async def test_a_table_name_of_any_characters_comes_back_as_it_was() -> None:
    published = Published()
    table = " Käufe\r\nNats-Rollup: all; 100% "
    frame: Frame = frame_of([PAGE])
    await put_aside(cast("Publisher", published), "shop-wh", 5, 6, table, Place("live", 7, 1), frame)
    ((subject, payload, msg_id, headers),) = published.messages
    assert all(value.isascii() and value.isprintable() and value == value.strip() for value in (msg_id, *headers.values()))
    aside = read_aside(Message(subject, payload, headers, 3, 0.0, 0))
    assert aside is not None
    assert (aside.table, aside.place, aside.lane) == (table, Place("live", 7, 1), "aside.7.live")
    assert (aside.epoch, aside.run) == (5, 6)
    assert aside._replace(bits=0b1010).origins == ["live:7:1", "live:7:3"]


async def test_what_shaping_left_out_or_changed_is_counted_once_however_often_the_load_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted: list[tuple[str, int, str]] = []
    bench = Bench({"layout": "segment", "table": "{{ event.properties.table }}"})

    def count(name: str, amount: int = 1, **labels: str) -> None:
        if "reason" in labels:
            counted.append((name, amount, labels["reason"]))

    monkeypatch.setattr(bench.telemetry, "count", count)
    batch = bench.desk.shape(
        {"properties": {"table": "t", "x": "a\0b"}}, b'{"properties": {"table": "t", "y": NaN}}', {"properties": {"table": ""}}
    )
    bench.places.broken["t"] = SetupError("disk full")
    for _ in range(3):
        with pytest.raises(SetupError):
            await bench.deliverer.deliver(Work(LoadPlan("shop-wh", "live", 1, 1), batch))
    assert counted == []
    bench.places.broken.clear()
    assert await bench.deliverer.deliver(Work(LoadPlan("shop-wh", "live", 1, 1), batch))
    assert sorted(counted) == [
        ("loader_events_dropped_total", 1, "table_template_empty"),
        ("loader_values_changed_total", 1, "nul_characters_replaced"),
        ("loader_values_changed_total", 1, "numbers_not_finite"),
    ]


async def test_a_column_that_cannot_be_added_is_tried_again_in_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench({"layout": "passthrough", "deduplicate": False})
    await bench.deliver({"messageId": "0"})
    asked: list[tuple[str, ...]] = []

    async def patch(wanted: TablePatch) -> TableSchema:
        asked.append(tuple(column.name for column in wanted.add))
        live = bench.places.live[wanted.table]
        assert live is not None
        # all but `in_the_way`, as where a view needs what is there
        rest = tuple(column for column in wanted.add if column.name != "in_the_way")
        after = bench.places.live[wanted.table] = patched(live, replace(wanted, add=rest))
        return replace(after, refused=frozenset({"in_the_way"}) & {column.name for column in wanted.add})

    monkeypatch.setattr(bench.places, "patch", patch)
    for number in range(1, 4):
        await bench.deliver({"messageId": str(number), "in_the_way": number})
    assert [names for names in asked if "in_the_way" in names] == [("in_the_way",)]
    bench.now += REFUSED_SECONDS
    await bench.deliver({"messageId": "4", "in_the_way": 4})
    assert len([names for names in asked if "in_the_way" in names]) == 2


async def test_new_tables_are_described_at_once_and_created_some_in_a_transaction() -> None:
    bench = Bench({"layout": "segment", "deduplicate": False})
    tracks = [{"type": "track", "event": f"E {number:03}"} for number in range(CREATED_TOGETHER)]
    bench.places.taken = {"e_007"}
    assert await bench.deliver(*tracks)
    names = [f"e_{number:03}" for number in range(CREATED_TOGETHER)]
    assert [sorted(asked) for asked in bench.places.described] == [[*names, "tracks"]]
    assert bench.places.created == [names], "one is left over, and made by itself"
    assert sorted(bench.places.patched) == ["e_007", "tracks"]
    assert bench.places.rows == {"tracks": CREATED_TOGETHER, **dict.fromkeys(names, 1)}


@pytest.mark.parametrize("error", [Permanent("no"), TableSetupError("no"), TableBusy("no")])
async def test_a_new_table_that_cannot_be_made_holds_back_only_its_own_rows(error: PenstockError) -> None:
    bench = Bench({"layout": "segment", "deduplicate": False})
    bench.places.odd = {"e_1": error}
    assert await bench.deliver(*({"type": "track", "event": f"E {number}"} for number in range(3)))
    assert bench.places.created[0] == ["e_0", "e_1", "e_2", "tracks"]
    assert bench.published.tables == ["e_1"]
    assert bench.places.rows == {"tracks": 3, "e_0": 1, "e_2": 1}


async def test_the_log_says_that_events_became_dead_letters(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench({"layout": "segment", "on_conflict": "dead_letter"})
    await bench.deliver({"type": "page", "properties": {"v": 1}})
    await bench.deliver(*({"type": "page", "properties": {"v": "x"}} for _ in range(3)))
    (line,) = caplog.records
    assert (line.levelname, vars(line)["connection"], vars(line)["reason"], vars(line)["events"]) == (
        "ERROR",
        "shop-wh",
        "type_conflict",
        3,
    )
