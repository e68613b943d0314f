"""What a DuckDB file shared with other processes means: readers between loads, holders, kills, broken files."""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from loader import registry
from loader.contract.warehouse import Environment, Kind, Part, Session, TableLoad
from loader.warehouses.duckdb.file import ROW_GROUP_ROWS
from shared.errors import ConfigError, Fenced, NotConnected, Permanent, SetupError, Transient
from shared.scratch import Scratch
from shared.tasks import timeout
from shared.threads import ThreadGate
from tests.support.counted import Counted
from tests.support.destinations.duckdb import DuckDBSubject
from tests.support.destinations.opened import Open, append, arrow, make, merge, opened, plan

ROOT = Path(__file__).parents[3]
SHAPE = {"id": Kind.BIGINT, "text": Kind.TEXT}


@pytest.fixture
async def wh(tmp_path: Path) -> AsyncIterator[Open]:
    """A database file of its own."""
    async with opened(DuckDBSubject(tmp_path)) as one:
        yield one


def other_process(script: str, path: Path) -> subprocess.Popen[str]:
    """Starts Python with `path` as its argument, in the project."""
    return subprocess.Popen(
        [sys.executable, "-c", script, str(path)], cwd=ROOT, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    )


def path_of(wh: Open) -> Path:
    assert isinstance(wh.subject, DuckDBSubject)
    return wh.subject.path


HOLD = """
import duckdb, sys
link = duckdb.connect(sys.argv[1], read_only=len(sys.argv) > 2)
print("held", flush=True)
sys.stdin.readline()
link.close()
print("closed", flush=True)
"""


async def test_a_read_copy_can_be_read_while_the_file_is_loaded_and_ends_with_the_last_load(tmp_path: Path) -> None:
    path, copy = tmp_path / "wh.duckdb", tmp_path / "for" / "readers.duckdb"
    gate = ThreadGate(2, "test")
    document = {"type": "duckdb", "path": str(path), "read_copy": str(copy), "read_copy_every": 3600, "linger": 60}
    destination = await registry.open_destination("wh", document, Environment(gate))
    try:
        session = await destination.open_session("c", 1)
        await make(session, "t", SHAPE)
        for sequence in (1, 2):
            await append(session, sequence, "t", SHAPE, {"id": sequence, "text": "x"})
        assert not copy.exists()  # the file was never closed
        await session.close()
    finally:
        await destination.close()
        gate.close()
    with duckdb.connect(str(copy), read_only=True) as database:
        assert database.sql("SELECT id FROM t ORDER BY id").fetchall() == [(1,), (2,)]
    assert [each.name for each in copy.parent.iterdir()] == [copy.name]


async def test_a_disk_without_room_is_told_and_the_same_load_arrives_once_when_there_is_room(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE)
    await append(session, 1, "t", SHAPE, {"id": 1})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    rows = [{"id": number, "text": secrets.token_hex(500)} for number in range(2, 1002)]
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, before[1]))
        for _ in range(2):
            with pytest.raises(SetupError, match="free space on its disk"):
                await append(session, 2, "t", SHAPE, *rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    session = await wh.session(epoch=2)
    assert (await session.marks())["t", "live-1"] == 1
    await append(session, 2, "t", SHAPE, *rows)
    assert [row["id"] for row in await wh.rows("t", {"id": Kind.BIGINT})] == sorted(
        range(1, 1002), key=lambda each: str(each).rjust(20)
    )


async def test_other_processes_read_the_file_between_loads(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE)
    for sequence in (1, 2):
        await append(session, sequence, "t", SHAPE, {"id": sequence})
        script = "import duckdb, sys\nprint(duckdb.connect(sys.argv[1], read_only=True).sql('SELECT count(*) FROM t').fetchall()[0][0])"
        with other_process(script, path_of(wh)) as reader:
            out, _ = await asyncio.to_thread(reader.communicate)
        assert out.strip() == str(sequence)


async def test_a_load_waits_for_another_process_to_close_the_file(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE)
    with other_process(HOLD, path_of(wh)) as holder:
        assert holder.stdout is not None
        assert await asyncio.to_thread(holder.stdout.readline) == "held\n"
        counted = wh.environment.telemetry
        assert isinstance(counted, Counted)
        load = asyncio.ensure_future(append(session, 1, "t", SHAPE, {"id": 1}))
        async with timeout(60):
            while not counted.of("destination_retries_total", plugin="duckdb", reason="locked"):
                await asyncio.sleep(0.01)
        assert not load.done()
        await asyncio.to_thread(holder.communicate, "\n")
        await load
    assert len(await wh.rows("t", SHAPE)) == 1


async def test_what_does_not_fit_into_memory_goes_to_the_scratch_space_and_no_further_than_its_bound(
    wh: Open, tmp_path: Path
) -> None:
    gate = ThreadGate(2, "test")
    rows = arrow(SHAPE, [{"id": number, "text": secrets.token_hex(200)} for number in range(50_000)])
    spilled: set[str] = set()
    for most, sequence in ((1024**3, 1), (256 * 1024, 2)):
        scratch = Scratch(tmp_path / "scratch", most)
        environment = Environment(gate, scratch=scratch)
        destination = await registry.open_destination("wh", {**wh.subject.document, "memory_limit": "24MB"}, environment)
        try:
            session = await destination.open_session("c", sequence)
            await make(session, "t", SHAPE)
            loading = asyncio.ensure_future(
                session.load(plan(sequence, connection="c"), [TableLoad("t", rows, "replace", part=Part(sequence, True))])
            )
            while not loading.done():
                spilled.update(*(names for _, _, names in os.walk(tmp_path / "scratch")))  # in folders that come and go
                await asyncio.sleep(0)
            if sequence == 1:
                await loading
            else:
                with pytest.raises(SetupError, match="SCRATCH_MAX_BYTES"):
                    await loading
        finally:
            await destination.close()
            await gate.run(scratch.close)
        assert list((tmp_path / "scratch").iterdir()) == []
    gate.close()
    assert any("temp" in name for name in spilled)
    assert not Path(".tmp").exists()
    assert len(await wh.rows("t", {"id": Kind.BIGINT})) == 50_000


async def test_a_file_held_for_too_long_names_its_holder_and_is_tried_again(wh: Open) -> None:
    session = await wh.session(destination=await wh.another(lock_timeout="100ms"))
    await make(session, "t", SHAPE)
    with other_process(HOLD, path_of(wh)) as holder:
        assert holder.stdout is not None
        await asyncio.to_thread(holder.stdout.readline)
        with pytest.raises(Transient, match=rf"process {holder.pid}\)"):
            await append(session, 1, "t", SHAPE, {"id": 1})
        await asyncio.to_thread(holder.communicate, "\n")
    await append(session, 1, "t", SHAPE, {"id": 1})
    assert len(await wh.rows("t", SHAPE)) == 1


async def test_a_lingering_file_is_closed_when_loads_pause(wh: Open) -> None:
    session = await wh.session(destination=await wh.another(linger="100ms"))
    await make(session, "t", SHAPE)
    await append(session, 1, "t", SHAPE, {"id": 1})
    script = (
        "import duckdb, sys, time\n"
        "deadline = time.monotonic() + 60\n"
        "while time.monotonic() < deadline:\n"
        "    try: print(duckdb.connect(sys.argv[1], read_only=True).sql('SELECT count(*) FROM t').fetchall()[0][0]); break\n"
        "    except duckdb.IOException: time.sleep(0.02)\n"
    )
    with other_process(script, path_of(wh)) as reader:
        out, _ = await asyncio.to_thread(reader.communicate)
    assert out.strip() == "1"


async def test_a_reader_gets_in_where_loads_never_pause(wh: Open) -> None:
    session = await wh.session(destination=await wh.another(linger="10s", share_every="500ms"))
    await make(session, "t", SHAPE)
    script = (
        "import duckdb, sys, time\n"
        "while True:\n"
        "    try: print(duckdb.connect(sys.argv[1], read_only=True).sql('SELECT count(*) > 0 FROM t').fetchall()[0][0]); break\n"
        "    except duckdb.IOException: time.sleep(0.005)\n"
    )
    await append(session, 1, "t", SHAPE, {"id": 1})
    with other_process(script, path_of(wh)) as reader:
        sequence = 1
        while reader.poll() is None:
            sequence += 1
            await append(session, sequence, "t", SHAPE, {"id": sequence})
        out, _ = reader.communicate()
    assert out.strip() == "True"
    assert sequence > 2


async def test_two_destinations_that_name_one_file_take_turns(wh: Open) -> None:
    link = path_of(wh).with_name("alias.duckdb")
    one = await wh.session("one")
    await make(one, "t", SHAPE)
    link.symlink_to(path_of(wh))
    two = await wh.session("two", destination=await wh.another(path=str(link), linger="100ms", threads=2, memory_limit="1GB"))
    rows = arrow(SHAPE, [{"id": n} for n in range(2000)])

    async def load(session: Session, connection: str) -> None:
        for sequence in range(1, 6):
            await session.load(plan(sequence, connection=connection), [TableLoad("t", rows)])

    await asyncio.gather(load(one, "one"), load(two, "two"))
    await asyncio.sleep(0.3)
    assert len(await wh.rows("t", SHAPE)) == 20_000


KILLED = """
import asyncio, sys
from loader.contract.warehouse import Environment, LoadPlan, TableLoad, TablePatch
from loader import registry
from shared.threads import ThreadGate
from tests.support.destinations.opened import arrow
from loader.contract.warehouse import Kind

shape = {"id": Kind.BIGINT, "text": Kind.TEXT}

async def main():
    destination = await registry.open_destination("wh", {"type": "duckdb", "path": sys.argv[1], "linger": 0.05}, Environment(ThreadGate(1)))
    session = await destination.open_session("shop-wh", int(sys.stdin.readline()))
    done = (await session.marks()).get(("t", "live-1"), 0)
    while True:
        done += 1
        rows = arrow(shape, [{"id": done * 10_000 + n, "text": "x" * 50} for n in range(5000)])
        await session.load(LoadPlan("shop-wh", "live-1", done, done), [TableLoad("t", rows, "merge", ("id",))])
        print(done, flush=True)

asyncio.run(main())
"""


@pytest.mark.slow
async def test_a_loader_killed_again_and_again_loses_and_repeats_nothing(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE, ["id"])
    reported = 0
    for epoch, seconds in enumerate([0.1, 0.17, 0.23, 0.31, 0.44], 2):
        with other_process(KILLED, path_of(wh)) as loader:
            assert loader.stdout is not None
            assert loader.stdin is not None
            loader.stdin.write(f"{epoch}\n")
            loader.stdin.flush()
            first = await asyncio.to_thread(loader.stdout.readline)
            await asyncio.sleep(seconds)
            loader.send_signal(signal.SIGKILL)
            lines = [first, *(await asyncio.to_thread(loader.stdout.readlines))]
        reported = max([reported, *[int(line) for line in lines if line.endswith("\n")]])
        marks = await (await wh.session(epoch=epoch)).marks()
        done = marks[("t", "live-1")]
        # one more than was reported may have been committed, never less
        assert reported <= done <= reported + 1
        ids = {row["id"] for row in await wh.rows("t", SHAPE)}
        assert ids == {part * 10_000 + n for part in range(1, done + 1) for n in range(5000)}
        reported = done
    with pytest.raises(Fenced):
        await wh.session(epoch=1)


@pytest.mark.parametrize("path", [":memory:", ":memory:x", "md:shop", "https://example.com/x.duckdb", "s3://bucket/x"])
def test_a_path_that_is_no_lasting_file_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="not a local file"):
        registry.parse_options("wh", {"type": "duckdb", "path": path})


async def test_a_file_that_is_no_database_is_named(wh: Open, tmp_path: Path) -> None:
    broken = tmp_path / "broken.duckdb"
    broken.write_text("this is no database\n" * 1000)
    for path, words in ((broken, "not a valid DuckDB database"), (tmp_path, "path"), (broken / "below", "path")):
        destination = await wh.another(path=str(path))
        with pytest.raises(SetupError, match=words):
            await destination.open_session("c", 1)
        assert [(result.step, result.ok) for result in await destination.check()] == [("reach", False)]


async def test_names_that_differ_in_case_only_are_one_column(wh: Open) -> None:
    session = await wh.session()
    await wh.subject.run('CREATE TABLE "{}"."T" ("ID" BIGINT, "Text" VARCHAR)')
    described = (await session.describe(["t"]))["t"]
    assert described is not None
    assert set(described.columns) == {"id", "text"}
    await append(session, 1, "t", SHAPE, {"id": 1, "text": "a"})
    with duckdb.connect(str(path_of(wh))) as link:
        assert link.execute("SELECT * FROM t").fetchall() == [(1, "a")]


async def test_a_merge_doubles_nothing_where_the_key_was_dropped_by_hand(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE, ["id"])
    await merge(session, 1, "t", SHAPE, {"id": 1, "text": "a"})
    with duckdb.connect(str(path_of(wh))) as link:
        ((index,),) = link.execute("SELECT index_name FROM duckdb_indexes()").fetchall()
        link.execute(f"DROP INDEX {index}")
    with pytest.raises(Permanent, match="conflict target"):
        await merge(session, 2, "t", SHAPE, {"id": 1, "text": "b"})
    assert await wh.rows("t", SHAPE) == [{"id": 1, "text": "a"}]


async def test_a_schema_may_be_called_as_the_file(tmp_path: Path) -> None:
    subject = DuckDBSubject(tmp_path)
    subject.document["schema"] = subject.path.stem
    async with opened(subject) as wh:
        session = await wh.session()
        await make(session, "t", SHAPE)
        await append(session, 1, "t", SHAPE, {"id": 1})
        described = (await session.describe(["t"]))["t"]
    assert described is not None


async def test_row_groups_are_small_so_that_few_rows_are_in_memory_before_they_are_compressed(wh: Open) -> None:
    session = await wh.session()
    await make(session, "t", {"id": Kind.BIGINT})
    rows = ROW_GROUP_ROWS * 2
    await session.load(plan(1), [TableLoad("t", pa.table({"id": pa.array(range(rows), pa.int64())}))])
    with duckdb.connect(str(path_of(wh)), read_only=True) as link:
        ((largest,),) = link.sql("SELECT max(count) FROM pragma_storage_info('t')").fetchall()
    assert largest <= ROW_GROUP_ROWS


@pytest.mark.parametrize("linger", ["0s", "30s"])
@pytest.mark.parametrize("replaced", [False, True])
async def test_nothing_counts_as_loaded_into_a_file_that_was_removed_or_replaced(wh: Open, linger: str, replaced: bool) -> None:
    destination = await wh.another(linger=linger)
    session = await wh.session(destination=destination)
    await make(session, "t", SHAPE)
    await append(session, 1, "t", SHAPE, {"id": 1})
    path = path_of(wh)
    path.unlink()
    if replaced:
        with duckdb.connect(str(path.with_name("other.duckdb"))) as link:
            link.execute("CREATE TABLE x (i int)")
        path.with_name("other.duckdb").rename(path)
    with pytest.raises(NotConnected):
        await append(session, 2, "t", SHAPE, {"id": 2})
    again = await wh.session(epoch=2, destination=destination)
    await make(again, "t", SHAPE)
    await append(again, 2, "t", SHAPE, {"id": 2})
    await destination.close()
    assert [row["id"] for row in await wh.rows("t", SHAPE)] == [2]


@pytest.mark.parametrize("copy", [shutil.copyfile, os.replace])
async def test_an_older_copy_put_back_while_the_file_is_closed_is_noticed(wh: Open, copy: Callable[[Path, Path], object]) -> None:
    session = await wh.session()
    await make(session, "t", SHAPE)
    await append(session, 1, "t", SHAPE, {"id": 1})
    older = path_of(wh).with_name("older")
    shutil.copyfile(path_of(wh), older)
    await append(session, 2, "t", SHAPE, {"id": 2})
    copy(older, path_of(wh))
    with pytest.raises(NotConnected, match="older copy"):
        await append(session, 3, "t", SHAPE, {"id": 3})
    again = await wh.session(epoch=2)
    assert await again.marks() == {("t", "live-1"): 1}
    await append(again, 3, "t", SHAPE, {"id": 3})
