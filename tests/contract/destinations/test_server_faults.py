"""What only a real server and a real network can do to a warehouse: lost connections at every step, hung and killed servers, refused users."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest

from loader.contract.warehouse import Destination, Kind, TableLoad, TablePatch
from shared.errors import Fenced, NotConnected, SetupError
from tests.contract.destinations.servers import KINDS, ROWS, SHAPE, ServerKind, batch, large
from tests.support.destinations.opened import Open, arrow, columns, make, plan
from tests.support.ports import free_port
from tests.support.postgres import PASSWORD
from tests.support.tcp_proxy import TcpProxy

PIECE_OF_ROWS = 8_000
"""Bytes written at once that are rows, and no statement."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> ServerKind:
    """A kind of server, with one that may be killed."""
    make_kind: Callable[[object], ServerKind] = KINDS[request.param]
    return make_kind(request.getfixturevalue(request.param))


@pytest.fixture
async def wh(kind: ServerKind) -> AsyncIterator[Open]:
    """A place of its own."""
    async with kind.place() as one:
        yield one


@asynccontextmanager
async def proxied(kind: ServerKind, wh: Open, **options: Any) -> AsyncIterator[tuple[TcpProxy, Destination]]:
    """The same place, reached through a proxy."""
    async with TcpProxy(kind.server.port) as proxy:
        yield proxy, await wh.another(**kind.by(proxy.port), **options)


def places_to_cut(ends: list[int]) -> list[int]:
    """Returns where to cut a load: in the middle and at the end of every piece of statements, and six times in the rows."""
    pieces = [(start, end) for start, end in pairwise(ends)]
    rows = [piece for piece in pieces if piece[1] - piece[0] > PIECE_OF_ROWS]
    chosen = [piece for piece in pieces if piece not in rows] + rows[:: max(1, len(rows) // 6)]
    return sorted({point for start, end in chosen for point in ((start + end) // 2, end) if point})


async def until_loading(kind: ServerKind, wh: Open) -> None:
    async with asyncio.timeout(60):
        while not await kind.loading(wh):
            await asyncio.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("write", ["append", "merge"])
async def test_a_connection_lost_at_any_byte_of_a_load_is_recovered_without_loss_or_repeat(
    kind: ServerKind, wh: Open, write: str
) -> None:
    async with proxied(kind, wh) as (proxy, destination):
        session = await wh.session(destination=destination)
        await make(session, "t", SHAPE, ["id"] if write == "merge" else None)
        await session.load(plan(1), [batch(write)])
        await wh.subject.run('TRUNCATE "{}".t')  # as below: rows without repeats travel another way
        before, number = proxy.sent, len(proxy.ends)
        await session.load(plan(2), [batch(write)])
        points = places_to_cut([0, *(end - before for end in proxy.ends[number:])])
        sequence, epoch = 2, 1
        lost = 0
        for point in points:
            sequence += 1
            await wh.subject.run('TRUNCATE "{}".t')
            proxy.after(point, proxy.cut)
            try:
                await session.load(plan(sequence), [batch(write)])
            except NotConnected:
                lost += 1
                epoch += 1
                session = await wh.session(epoch=epoch, destination=destination)
                loaded = (await session.marks()).get(("t", "live-1"), 0) >= sequence
                assert await kind.counted(wh) == ((ROWS, ROWS) if loaded else (0, 0)), point
                if not loaded:
                    await session.load(plan(sequence), [batch(write)])
            assert await kind.counted(wh) == (ROWS, ROWS), point
        assert len(points) > 20
        assert lost >= len(points) - 3


@pytest.mark.parametrize("call", ["open", "marks", "describe", "patch"])
async def test_a_connection_lost_in_other_calls_is_told_as_such(kind: ServerKind, wh: Open, call: str) -> None:
    async with proxied(kind, wh) as (proxy, destination):
        session = await wh.session(destination=destination)
        await make(session, "t", SHAPE)
        proxy.after(1, proxy.cut)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "open": lambda: destination.open_session("shop-wh", 2),
            "marks": session.marks,
            "describe": lambda: session.describe(["t"]),
            "patch": lambda: session.patch(TablePatch("t", add=columns({"more": Kind.TEXT}))),
        }
        with pytest.raises(NotConnected):
            await calls[call]()
        again = await wh.session(epoch=2)
        assert (await again.describe(["t"]))["t"] is not None


async def test_a_network_that_swallows_bytes_ends_in_a_timeout_and_nothing_is_loaded(kind: ServerKind, wh: Open) -> None:
    async with proxied(kind, wh, stall_timeout="2s", statement_timeout="2s") as (proxy, destination):
        session = await wh.session(destination=destination)
        await make(session, "t", SHAPE)
        for point in (100_000, 50):
            proxy.after(point, proxy.vanish)
            with pytest.raises(NotConnected):
                await session.load(plan(1), [batch()])
            proxy.flow()
            proxy.cut()
            session = await wh.session(epoch=2, destination=destination)
        assert await kind.counted(wh) == (0, 0)


async def test_a_server_that_answers_nobody_during_a_long_statement_is_given_up_long_before_the_statement_timeout(
    kind: ServerKind, wh: Open
) -> None:
    limits = {"stall_timeout": "2s", "connect_timeout": "2s", "statement_timeout": "10m"}
    async with proxied(kind, wh, **limits) as (proxy, destination):
        session = await wh.session(destination=destination)
        await make(session, "t", SHAPE)
        proxy.after(100_000, proxy.vanish)
        async with asyncio.timeout(60):
            with pytest.raises(NotConnected):
                await session.load(plan(1), [batch()])


async def test_a_long_statement_of_a_server_that_answers_is_waited_for(kind: ServerKind, wh: Open) -> None:
    patient = await wh.another(stall_timeout="300ms", connect_timeout="60s")
    session = await wh.session(destination=patient)
    await make(session, "t", SHAPE)
    for statement in kind.slow:
        await wh.subject.run(statement)
    await session.load(plan(1), [batch()])
    assert await kind.counted(wh) == (ROWS, ROWS)


async def test_a_loader_frozen_in_the_middle_of_its_rows_holds_nothing_from_its_successor(kind: ServerKind, wh: Open) -> None:
    async with proxied(kind, wh, stall_timeout="15s") as (proxy, destination):
        frozen = await wh.session(destination=destination)
        await make(frozen, "t", SHAPE, ["id"])
        proxy.after(100_000, proxy.vanish)
        load = asyncio.ensure_future(frozen.load(plan(1), [batch("merge")]))
        # the successor comes by another way, while the frozen one is in a transaction that writes to the table
        await until_loading(kind, wh)
        successor = await wh.session(epoch=2)
        await successor.patch(TablePatch("t", add=columns({"more": Kind.TEXT})))
        await successor.load(plan(1), [batch("merge")])
        proxy.flow()
        with pytest.raises((Fenced, NotConnected)):
            await load
        assert await kind.counted(wh) == (ROWS, ROWS)


async def test_the_epoch_can_be_raised_while_rows_travel_and_the_load_that_was_under_way_is_fenced(
    kind: ServerKind, wh: Open
) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE)
    load = asyncio.ensure_future(session.load(plan(1), [large()]))
    await until_loading(kind, wh)
    # a ledger locked for as long as the rows travel would hold this up until the load is done, and then the load would win
    await wh.subject.run("UPDATE \"{}\"._penstock_loads SET epoch = 2 WHERE table_name = ''")
    with pytest.raises(Fenced):
        await load
    assert await kind.counted(wh) == (0, 0)


@pytest.mark.parametrize("when", ["idle", "loading"])
async def test_a_connection_that_an_administrator_ends_is_lost_at_once(kind: ServerKind, wh: Open, when: str) -> None:
    # a lost connection that is not seen at once counts as stalled much later
    session = await wh.session(destination=await wh.another(stall_timeout="10m"))
    await make(session, "t", SHAPE)
    if when == "idle":
        await kind.end_sessions(wh)
    load = asyncio.ensure_future(session.load(plan(1), [large()]))
    if when == "loading":
        await until_loading(kind, wh)
        await kind.end_sessions(wh)
    async with asyncio.timeout(60):
        with pytest.raises(NotConnected):
            await load
    again = await wh.session(epoch=2)
    assert await kind.counted(wh) == (0, 0)
    await again.load(plan(1), [batch()])
    assert await kind.counted(wh) == (ROWS, ROWS)


@pytest.mark.slow
async def test_a_server_killed_in_the_middle_of_loads_loses_and_repeats_nothing(kind: ServerKind, wh: Open) -> None:
    size = 20_000
    delays = [0.0, 0.01, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3]
    session = await wh.session()
    await make(session, "t", SHAPE)
    for part, delay in enumerate(delays):
        rows = TableLoad("t", arrow(SHAPE, [{"id": part * size + n, "text": "x" * 200} for n in range(size)]))
        load = asyncio.ensure_future(session.load(plan(part + 1), [rows]))
        await asyncio.sleep(delay)
        await asyncio.to_thread(kind.server.kill)
        outcome = (await asyncio.gather(load, return_exceptions=True))[0]
        assert not isinstance(outcome, BaseException) or isinstance(outcome, NotConnected), outcome
        with pytest.raises(NotConnected):
            await wh.destination.open_session("shop-wh", part + 2)
        await asyncio.to_thread(kind.server.start)
        session = await wh.session(epoch=part + 2)
        loaded = (await session.marks()).get(("t", "live-1"), 0) > part
        assert loaded or isinstance(outcome, NotConnected), "what was reported as committed is there after the crash"
        if not loaded:
            await session.load(plan(part + 1), [rows])
    assert await kind.counted(wh) == (len(delays) * size, len(delays) * size)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("password", "wrong-and-secret"),
        ("user", "nobody-of-that-name"),
        ("database", "nowhere"),
        ("host", "no-such-host.invalid"),
        ("ssl", "require"),
    ],
)
async def test_what_a_person_must_mend_is_said_without_the_password(kind: ServerKind, wh: Open, option: str, value: str) -> None:
    wrong = await wh.another(**{option: value})
    with pytest.raises((SetupError, NotConnected), match=kind.words.get(option, "host name is unknown")) as refused:
        await wrong.open_session("shop-wh", 1)
    results = await wrong.check()
    assert [(result.step, result.ok) for result in results] == [("reach", False)]
    for text in (str(refused.value), results[0].message):
        assert PASSWORD not in text
        assert "wrong-and-secret" not in text


async def test_a_server_that_is_not_there_is_not_connected(wh: Open) -> None:
    away = await wh.another(host="127.0.0.1", port=free_port())
    with pytest.raises(NotConnected, match="connection is refused"):
        await away.open_session("shop-wh", 1)


async def test_sessions_of_two_places_do_not_end_each_other(kind: ServerKind, wh: Open) -> None:
    async with kind.place() as second:
        one = await wh.session(epoch=1)
        await second.session(epoch=2)
        assert await one.marks() == {}
