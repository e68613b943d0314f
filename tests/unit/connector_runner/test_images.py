"""Images: the exact command line, and how a run behaves, with a stand-in for podman that really runs the program.

Where Docker runs, `test_the_engine_takes_the_command_line` shows the same to Docker itself.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest

from connector_runner import registry
from connector_runner.contract import Checkpoint, Ended, Environment, JsonRows, Message, Said, Selected, Source, Stream
from connector_runner.programs.images import Image
from connector_runner.programs.options import read_image
from connector_runner.programs.program import Limits
from shared.errors import ConfigError, SetupError
from tests.support import podman
from tests.support.scripts import AIRBYTE

NAME = "docker.io/airbyte/source-small:1.2.3"
SECRET = "hunter2-hunter2"


class Engine:
    """The stand-in's home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.heard: list[Said] = []
        for each in ("images", "registry", "containers", "bin", "private"):
            (home / each).mkdir()
        program = home / "bin" / "podman"
        program.write_text(f"#!{sys.executable}\n{Path(podman.__file__).read_text()}")
        program.chmod(0o755)

    def publish(self, code: str, name: str = NAME) -> None:
        """Puts an image that runs `code` into the registry."""
        (self.home / "program.py").write_text(AIRBYTE + code)
        command = f"{sys.executable}\n-I\n-S\n{self.home / 'program.py'}"
        (self.home / "registry" / name.replace("/", "_")).write_text(command)

    async def open(self, **options: Any) -> Source:
        document = {"type": "airbyte", "image": "airbyte/source-small:1.2.3", "config": {"token": SECRET}, **options}
        plugin, parsed = registry.parse_options("crm", document)
        return await plugin.open_source("crm", parsed, Environment(self.home, self.home / "private", self.heard.append))

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.home / "calls").read_text().splitlines()]

    @property
    def containers(self) -> list[str]:
        return [each.name for each in (self.home / "containers").iterdir()]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """A stand-in for podman on PATH, and no other engine."""
    found = Engine(tmp_path)
    monkeypatch.setenv("PATH", str(found.home / "bin"))
    monkeypatch.setenv("HOME", str(found.home))
    monkeypatch.setenv("PENSTOCK_SECRET", SECRET)
    return found


async def read(source: Source) -> list[Message]:
    async with aclosing(source.read([Selected(Stream(name="a"), "full_refresh")], {})) as coming:
        return [each async for each in coming]


async def test_an_image_is_pulled_once_and_read(engine: Engine) -> None:
    engine.publish(
        "row('a', {'config': option('--config'), 'env': sorted(os.environ)}); state('a', {}, 1); status('a', 'COMPLETE')"
    )
    source = await engine.open()
    for _ in range(2):
        messages = await read(source)
        assert [type(each) for each in messages] == [JsonRows, Checkpoint, Ended]
    assert isinstance(messages[0], JsonRows)
    row = json.loads(messages[0].rows[0])
    assert row["config"] == {"token": SECRET}
    assert row["env"] == sorted(
        [
            "DO_NOT_TRACK",
            "HOME",
            "LANG",
            "PYTHONFAULTHANDLER",
            "PYTHONUNBUFFERED",
            "TMPDIR",
            "TZ",
            *({"LC_CTYPE"} & {*row["env"]}),
        ]
    )
    assert [call[:2] for call in engine.calls].count(["pull", "--quiet"]) == 1
    assert engine.containers == []
    assert not list((engine.home / "private").iterdir())


async def test_the_command_line_gives_a_container_its_files_and_nothing_else(tmp_path: Path, engine: Engine) -> None:
    (engine.home / "images" / NAME.replace("/", "_")).touch()
    folder = tmp_path / "private" / "run-abc"
    limits = Limits(cpu_seconds=60, memory_bytes=1 << 30, disk_bytes=1 << 20, processes=9)
    image = Image(NAME, limits, Environment(tmp_path, tmp_path, engine.heard.append), network="none")
    command = await image.command(["read", "--config", folder / "files" / "config.json"], folder)
    assert command == [
        str(engine.home / "bin" / "podman"), "run", "--rm", "--name", "penstock-run-abc",
        "--label", f"penstock.run={folder}", "--label", f"penstock.host={socket.gethostname()}",
        "--pull", "never", "--log-driver", "none", "--network", "none",
        "--read-only", "--tmpfs", "/tmp:rw,mode=1777,size=1048576", "--volume", f"{folder}/files:/penstock:ro,Z",
        "--memory", "1073741824", "--memory-swap", "1073741824", "--pids-limit", "9", "--ulimit", "cpu=60",
        "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
        "--env", "PYTHONUNBUFFERED=1", "--env", "PYTHONFAULTHANDLER=1", "--env", "DO_NOT_TRACK=1", "--env", "LANG=C.UTF-8",
        "--env", "TZ=UTC", "--env", "HOME=/tmp", "--env", "TMPDIR=/tmp",
        NAME, "read", "--config", "/penstock/config.json",
    ]  # fmt: skip


async def test_a_read_that_is_left_removes_its_container_at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connector_runner.programs.program.TERM_SECONDS", 3600.0)  # it is not asked first: it would not hear
    engine.publish("row('a', {'pid': os.getpid()}); time.sleep(600)")
    source = await engine.open()
    async with aclosing(source.read([Selected(Stream(name="a"), "full_refresh")], {})) as coming:
        rows = await anext(coming)
    assert isinstance(rows, JsonRows)
    assert not psutil.pid_exists(json.loads(rows.rows[0])["pid"])
    assert engine.containers == []


async def test_what_a_killed_runner_left_is_removed_and_what_runs_is_not(engine: Engine) -> None:
    engine.publish("status('a', 'COMPLETE')")
    alive = engine.home / "private" / "run-alive"
    alive.mkdir()
    sleepers = [subprocess.Popen(["/bin/sleep", "600"]) for _ in range(3)]
    try:
        for sleeper, name, folder, host in zip(
            sleepers, ("gone", "alive", "elsewhere"), ("/gone", str(alive), "/gone"), (socket.gethostname(), socket.gethostname(), "x"), strict=True
        ):  # fmt: skip
            labels = {"penstock.run": folder, "penstock.host": host}
            (engine.home / "containers" / name).write_text(json.dumps({"pid": sleeper.pid, "labels": labels}))
        await read(await engine.open())
        assert sorted(engine.containers) == ["alive", "elsewhere"]
        assert sleepers[0].wait(60) == -9
        assert sleepers[1].poll() is None
        assert any("gone" in each.text for each in engine.heard)
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()


async def test_a_cancelled_read_removes_its_container(engine: Engine) -> None:
    engine.publish("row('a', {}); time.sleep(600)")
    source = await engine.open()
    reading = asyncio.ensure_future(read(source))
    while not engine.containers:
        await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert engine.containers == []
    assert not list((engine.home / "private").iterdir())


async def test_an_image_that_is_not_there_is_for_a_person(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SetupError, match=r"podman pull .*source-small:1.2.3 failed: .*manifest unknown"):
        await (await engine.open()).check()
    with pytest.raises(SetupError, match="docker is not found"):
        await (await engine.open(engine="docker")).check()
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SetupError, match="podman nor docker is not found"):
        await (await engine.open()).check()


@pytest.mark.parametrize(
    ("written", "whole"),
    [
        ("airbyte/source-x:1.2.3", "docker.io/airbyte/source-x:1.2.3"),
        ("source-x:1", "docker.io/library/source-x:1"),
        ("ghcr.io/us/source-x:v1", "ghcr.io/us/source-x:v1"),
        ("localhost:5000/source-x:1", "localhost:5000/source-x:1"),
        ("us/source-x@sha256:" + "a" * 64, "docker.io/us/source-x@sha256:" + "a" * 64),
    ],
)
def test_an_image_has_one_whole_name(written: str, whole: str) -> None:
    assert read_image(written) == whole


@pytest.mark.parametrize(
    "options",
    [
        {"image": "airbyte/source-x"},
        {"image": "airbyte/source-x:latest"},
        {"image": "--privileged"},
        {"image": "-v/:/x:1"},
        {"image": "a b:1"},
        {"image": "airbyte/source-x:1\n"},
        {"image": "airbyte/source-x:1", "version": "1"},
        {"image": "airbyte/source-x:1", "package": "x"},
        {"image": "airbyte/source-x:1", "engine": "runc"},
        {"package": "x", "version": "1", "network": "host"},
        {},
    ],
)
def test_what_is_no_exact_image_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"connectors\.crm"):
        registry.parse_options("crm", {"type": "airbyte", **options})


def docker_runs() -> bool:
    return shutil.which("docker") is not None and subprocess.run(["docker", "info"], capture_output=True).returncode == 0


async def test_the_engine_takes_the_command_line(tmp_path: Path) -> None:
    """Runs a small published image with Docker itself."""
    if not docker_runs():
        pytest.skip("Docker does not run here")
    heard: list[Said] = []
    image = Image(
        read_image("alpine:3.20"), Limits(disk_bytes=1 << 20), Environment(tmp_path, tmp_path, heard.append), engine="docker"
    )
    folder = tmp_path / "run-docker"
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "config.json").write_text("{}")
    command = await image.command(["cat", folder / "files" / "config.json"], folder)
    assert (await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)).stdout == "{}"
    await image.ended(folder)
