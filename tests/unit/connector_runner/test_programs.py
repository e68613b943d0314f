"""Programs of others within limits: real processes that flood, hang, grow, leave children behind and will not end."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import psutil
import pytest

from connector_runner.contract import Said
from connector_runner.programs.lines import Lines
from connector_runner.programs.program import Limits, Program
from shared.errors import Permanent, SetupError, Transient
from shared.reading.mask import Mask

SECRET = "hunter2-hunter2"
NONE = Limits()


FORK = "import os, time\ndef fork(work):\n    if os.fork() == 0:\n        os.setsid(); work(); os._exit(0)"
"""A process that leaves the process group."""


async def start(code: str, folder: Path, limits: Limits = NONE, heard: list[Said] | None = None) -> Program:
    lines: list[Said] = [] if heard is None else heard
    return await Program.start(
        [sys.executable, "-c", code],
        folder=folder,
        environment={"PYTHONUNBUFFERED": "1"},
        limits=limits,
        mask=Mask([SECRET]),
        heard=lines.append,
    )


async def run(code: str, folder: Path, limits: Limits = NONE, heard: list[Said] | None = None) -> tuple[list[bytes], int]:
    program = await start(code, folder, limits, heard)
    try:
        return [line async for lines in program.lines() for line in lines], await program.ended()
    finally:
        await program.close()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_lines_are_cut_the_same_wherever_chunks_end(size: int) -> None:
    text, lines = b"one\n\ntwo and more\nthree", Lines(100)
    found = [line for start in range(0, len(text), size) for line in lines.add(text[start : start + size])]
    assert [*found, lines.rest()] == [b"one", b"", b"two and more", b"three"]


def test_a_line_without_an_end_costs_bounded_memory() -> None:
    lines = Lines(1000)
    with pytest.raises(Permanent, match="max_line"):
        for _ in range(100):
            lines.add(b"x" * 64)


async def test_a_program_sees_a_few_names_of_our_environment_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_SECRET", SECRET)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    lines, code = await run("import os; print(sorted(os.environ)); print(os.environ['HOME'], os.getcwd())", tmp_path)
    assert code == 0
    assert b"SECRET" not in lines[0]
    assert lines[1].split() == [str(tmp_path).encode()] * 2


async def test_its_error_output_is_heard_masked_and_bounded(tmp_path: Path) -> None:
    heard: list[Said] = []
    code = f"import sys\nfor n in range(20000): print('password {SECRET}', n, file=sys.stderr)\nprint('done')"
    lines, _ = await run(code, tmp_path, heard=heard)
    assert lines == [b"done"]
    assert len(heard) < 5000
    assert not any(SECRET in said.text for said in heard)


async def test_a_line_that_was_cut_off_is_no_message(tmp_path: Path) -> None:
    assert await run("import os; os.write(1, b'whole\\nhalf'); os._exit(3)", tmp_path) == ([b"whole"], 3)
    assert await run("import os; os.write(1, b'whole\\nlast'); os._exit(0)", tmp_path) == ([b"whole", b"last"], 0)


@pytest.mark.parametrize(
    ("code", "limits", "words"),
    [
        ("import time; time.sleep(600)", Limits(stall_seconds=0.3), "stall_timeout"),
        ("import os, time; os.close(1); time.sleep(600)", Limits(stall_seconds=0.3), "stall_timeout"),
        ("import time\nwhile True: print('x'); time.sleep(0.05)", Limits(seconds=0.6), "max_time"),
        ("while True: pass", Limits(cpu_seconds=0.4), "cpu_time"),
        ("x = bytearray(300 << 20); import time; time.sleep(600)", Limits(memory_bytes=100 << 20), "memory"),
        (
            "import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', 'x = bytearray(300 << 20); import time; time.sleep(600)'])\ntime.sleep(600)",
            Limits(memory_bytes=150 << 20),
            "memory",
        ),
        (
            "import subprocess\nwhile True: subprocess.run(['sh', '-c', 'i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done'])",
            Limits(cpu_seconds=0.4),
            "cpu_time",
        ),
        (f"{FORK}\nwhile True: fork(lambda: time.sleep(600)) or time.sleep(0.005)", Limits(processes=20), "20 processes"),
        (
            "f = open('big', 'wb')\nwhile True: f.write(bytes(1 << 20)); f.flush(); import time; time.sleep(0.05)",
            Limits(disk_bytes=4 << 20),
            "disk",
        ),
    ],
)
async def test_a_program_beyond_a_limit_ends_and_the_error_names_the_option(
    tmp_path: Path, code: str, limits: Limits, words: str
) -> None:
    with pytest.raises(Transient, match=words):
        await run(code, tmp_path, limits)


async def test_our_own_slowness_is_not_its_silence(tmp_path: Path) -> None:
    program = await start("for n in range(200000): print('x' * 100)", tmp_path)
    count = 0
    try:
        async for lines in program.lines():
            first, count = not count, count + len(lines)
            if first:
                program._limits = Limits(stall_seconds=0.3)
                await asyncio.sleep(1.0)  # as long as a warehouse that is away; its pipe is full meanwhile
                program._limits = NONE
    finally:
        await program.close()
    assert count == 200_000


async def test_closing_ends_the_whole_group_also_where_it_will_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connector_runner.programs.program.TERM_SECONDS", 0.3)
    code = (
        "import signal, subprocess, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)'])\n"
        "print(child.pid)\ntime.sleep(600)"
    )
    program = await start(code, tmp_path)
    lines = program.lines()
    child = int((await anext(lines))[0])
    await lines.aclose()
    await program.close()
    gone, alive = psutil.wait_procs([psutil.Process(child)] if psutil.pid_exists(child) else [], timeout=60)
    assert not alive, gone


ORPHAN = f"""
{FORK}
import signal
def stay():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    open("orphan", "w").write(str(os.getpid()))
    os.rename("orphan", os.path.join(os.environ["OUT"], "orphan"))
    time.sleep(600)
fork(lambda: fork(stay))
while not os.path.exists(os.path.join(os.environ["OUT"], "orphan")): time.sleep(0.01)
print("started", flush=True)
"""
"""Leaves a process behind that is no child, in no group of the program, holds its output open and does not hear SIGTERM."""


async def orphan_of(folder: Path, after: str) -> tuple[Program, psutil.Process]:
    """Starts a program that leaves an orphan and then runs `after`."""
    (folder / "out").mkdir()
    code = ORPHAN.replace('os.environ["OUT"]', repr(str(folder / "out")))
    program = await start(code + after, folder)
    assert await anext(program.lines()) == [b"started"]
    return program, psutil.Process(int((folder / "out" / "orphan").read_text()))


async def test_nothing_outlives_a_program_that_ended_well(tmp_path: Path) -> None:
    program, orphan = await orphan_of(tmp_path, "raise SystemExit(7)")
    assert [lines async for lines in program.lines()] == []
    assert await program.ended() == 7
    assert not psutil.wait_procs([orphan], timeout=60)[1]
    await program.close()


async def test_nothing_outlives_a_killed_program(tmp_path: Path) -> None:
    program, orphan = await orphan_of(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert await program.ended() == -9
    assert not psutil.wait_procs([orphan], timeout=60)[1]
    await program.close()


@pytest.mark.parametrize("times", [1, 2])
async def test_a_cancelled_close_still_ends_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    monkeypatch.setattr("connector_runner.programs.program.TERM_SECONDS", 0.5)
    program, orphan = await orphan_of(tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)")
    closing = asyncio.ensure_future(program.close())
    for _ in range(times):
        await asyncio.sleep(0.01)
        closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert not await asyncio.to_thread(lambda: psutil.wait_procs([orphan], timeout=60)[1])


async def test_a_silent_program_says_where_it_is(tmp_path: Path) -> None:
    code = "import faulthandler, time\nfaulthandler.enable()\ndef waits_for_the_system(): print('here'); time.sleep(600)\nwaits_for_the_system()"
    program = await start(code, tmp_path)
    try:
        with pytest.raises(Transient, match=r"stall_timeout.*waits_for_the_system"):
            async for _ in program.lines():
                program._limits = Limits(stall_seconds=0.3)
            await program.ended()
    finally:
        await program.close()


async def test_when_the_runner_is_killed_its_programs_and_their_files_go(tmp_path: Path) -> None:
    """The runner is a process of its own here; the program would not end for SIGTERM, and left an orphan."""
    folder, secret = tmp_path / "run", tmp_path / "secret"
    for each in (folder, secret):
        each.mkdir()
        (each / "config.json").write_text(SECRET)
    (tmp_path / "out").mkdir()
    after = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint(os.getpid(), flush=True)\ntime.sleep(600)"
    code = ORPHAN.replace('os.environ["OUT"]', repr(str(tmp_path / "out"))) + after
    runner = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import asyncio, sys\nfrom pathlib import Path\nimport connector_runner.programs.program as p\n"
        "from shared.reading.mask import Mask\np.TERM_SECONDS = 0.3\n"
        "async def main():\n"
        "    it = await p.Program.start([sys.executable, '-c', sys.argv[1]], folder=Path(sys.argv[2]), environment={},"
        " secret=Path(sys.argv[3]), limits=p.Limits(), mask=Mask([]), heard=print)\n"
        "    async for lines in it.lines():\n        [print(line.decode(), flush=True) for line in lines]\n"
        "asyncio.run(main())",
        code,
        str(folder),
        str(secret),
        stdout=asyncio.subprocess.PIPE,
    )
    assert runner.stdout is not None
    assert (await runner.stdout.readline()).strip() == b"started"
    running = [
        psutil.Process(int(await runner.stdout.readline())),
        psutil.Process(int((tmp_path / "out" / "orphan").read_text())),
    ]
    running += running[0].parents()[:1]  # its keeper
    runner.kill()
    await runner.wait()
    assert not (await asyncio.to_thread(psutil.wait_procs, running, 60))[1]
    assert not folder.exists()
    assert not secret.exists()


async def test_a_reader_that_stops_holds_little(tmp_path: Path) -> None:
    program = await start("while True: print('x' * 1000)", tmp_path)
    lines = program.lines()
    await anext(lines)
    before = psutil.Process().memory_info().rss
    await asyncio.sleep(0.5)  # time for 100 MB and more to come, if they were taken
    assert psutil.Process().memory_info().rss - before < 8 << 20
    await lines.aclose()
    await program.close()


async def test_a_flood_without_line_ends_on_the_error_output_is_read_and_bounded(tmp_path: Path) -> None:
    heard: list[Said] = []
    lines, code = await run("import os\nfor n in range(400): os.write(2, b'x' * 65536)\nprint('done')", tmp_path, heard=heard)
    assert (lines, code) == ([b"done"], 0)
    assert sum(len(said.text) for said in heard) < 1 << 20


@pytest.mark.parametrize(("program", "folder"), [("/nowhere/source-x", "."), (sys.executable, "gone")])
async def test_a_program_that_cannot_start_is_for_a_person(tmp_path: Path, program: str, folder: str) -> None:
    with pytest.raises(SetupError, match=program):
        await Program.start(
            [program],
            folder=tmp_path / folder,
            environment={},
            limits=Limits(),
            mask=Mask([]),
            heard=lambda said: None,
        )
