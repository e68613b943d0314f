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
        return [line async for line in program.lines()], await program.ended()
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
        ("import time\nwhile True: print('x'); time.sleep(0.05)", Limits(seconds=0.6), "max_time"),
        ("while True: pass", Limits(cpu_seconds=0.4), "cpu_time"),
        ("x = bytearray(300 << 20); import time; time.sleep(600)", Limits(memory_bytes=100 << 20), "memory"),
        (
            "import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', 'x = bytearray(300 << 20); import time; time.sleep(600)'])\ntime.sleep(600)",
            Limits(memory_bytes=150 << 20),
            "memory",
        ),
    ],
)
async def test_a_program_beyond_a_limit_ends_and_the_error_names_the_option(
    tmp_path: Path, code: str, limits: Limits, words: str
) -> None:
    with pytest.raises(Transient, match=words):
        await run(code, tmp_path, limits)


async def test_our_own_slowness_is_not_its_silence(tmp_path: Path) -> None:
    program = await start("for n in range(200000): print('x' * 100)", tmp_path, Limits(stall_seconds=0.3))
    count = 0
    try:
        async for _ in program.lines():
            count += 1
            if count == 1:
                await asyncio.sleep(1.0)  # as long as a warehouse that is away; its pipe is full meanwhile
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
    child = int(await anext(lines))
    await lines.aclose()
    await program.close()
    gone, alive = psutil.wait_procs([psutil.Process(child)] if psutil.pid_exists(child) else [], timeout=5)
    assert not alive, gone


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
