"""Connectors that are container images, run by podman or docker.

A container gets the files of its run and nothing else of this machine: a root that it cannot write, `/tmp` in memory, no capabilities,
bounds of memory, processes and CPU by the kernel. It is named as its run, so a run that ends removes it at once, and what a killed
runner left is removed before the next run: its folder is gone, and the label names that.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from connector_runner.contract import Environment, Said
from connector_runner.programs.program import Limits
from connector_runner.programs.running import PYTHON
from connector_runner.programs.tools import output_of
from shared.errors import PenstockError, SetupError, Transient
from shared.tasks import to_the_end

Engine = Literal["podman", "docker"]

ENGINES: tuple[Engine, ...] = ("podman", "docker")
INSIDE = "/penstock"
"""Where the files of a run are in its container."""
LABEL, HOST = "penstock.run", "penstock.host"
PULL_SECONDS = 1800.0
CALL_SECONDS = 60.0
_KEPT = (
    "HOME",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "DOCKER_HOST",
    "DOCKER_CONFIG",
    "DOCKER_CONTEXT",
    "CONTAINER_HOST",
)
"""Names of our environment that an engine needs to find its storage, its daemon and its logins. The container sees none of them."""
_OF_A_PERSON = re.compile(
    r"cannot connect to the docker daemon|manifest unknown|not found|denied|unauthorized|no space left|permission", re.IGNORECASE
)


class Image:
    """Runs an image; see `Launcher`.

    Args:
        image: as `read_image` of `options.py` returns it.
        engine: None: podman where it is, else docker.
        network: as the engine names it; empty: its usual one.
    """

    def __init__(
        self, image: str, limits: Limits, environment: Environment, engine: Engine | None = None, network: str = ""
    ) -> None:
        self._image = image
        self._limits = limits
        self._heard = environment.heard
        self._engine = engine
        self._network = network
        self._ready = False
        self.environment = {name: os.environ[name] for name in _KEPT if name in os.environ}

    async def command(self, arguments: Sequence[str | Path], folder: Path) -> list[str]:
        """Pulls the image before the first run, and removes what killed runs left."""
        program = self._program()
        if not self._ready:
            await self._pull(program)
            await self._remove_left(program)
            self._ready = True
        limits = self._limits
        network = ["--network", self._network] if self._network else []
        files = next((each.parent for each in arguments if isinstance(each, Path)), None)
        inside = [f"{INSIDE}/{each.name}" if isinstance(each, Path) else each for each in arguments]
        return [
            program, "run", "--rm", "--name", _name(folder),
            "--label", f"{LABEL}={folder}", "--label", f"{HOST}={socket.gethostname()}",
            "--pull", "never", "--log-driver", "none", *network,
            "--read-only", "--tmpfs", f"/tmp:rw,mode=1777,size={limits.disk_bytes}",  # noqa: S108  # of the container
            *(("--volume", f"{files}:{INSIDE}:ro,Z") if files is not None else ()),
            "--memory", str(limits.memory_bytes), "--memory-swap", str(limits.memory_bytes),
            "--pids-limit", str(limits.processes), "--ulimit", f"cpu={max(1, int(limits.cpu_seconds))}",
            "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
            *(part for name, value in {**PYTHON, "TZ": "UTC", "HOME": "/tmp", "TMPDIR": "/tmp"}.items() for part in ("--env", f"{name}={value}")),  # noqa: S108
            self._image, *inside,
        ]  # fmt: skip

    async def ended(self, folder: Path) -> None:
        """Removes the container, which may outlive the engine's client. Never raises."""
        try:
            await to_the_end(self._call([self._program(), "rm", "--force", _name(folder)], seconds=CALL_SECONDS), CALL_SECONDS)
        except PenstockError:
            return  # it is gone already, as usual

    def _program(self) -> str:
        for engine in (self._engine,) if self._engine else ENGINES:
            if found := shutil.which(engine):
                return found
        wanted = self._engine or " nor ".join(ENGINES)
        raise SetupError(f"{self._image} is a container image, and {wanted} is not found here; install it, or take a package")

    async def _pull(self, program: str) -> None:
        try:
            await self._call([program, "image", "inspect", self._image], seconds=CALL_SECONDS)
        except PenstockError:
            self._heard(Said("info", f"pulling {self._image}"))
            await self._call([program, "pull", "--quiet", self._image], seconds=PULL_SECONDS)

    async def _remove_left(self, program: str) -> None:
        ours = f"label={HOST}={socket.gethostname()}"
        names = await self._call([program, "ps", "--all", "--filter", ours, "--format", "{{.Names}}"], seconds=CALL_SECONDS)
        label = "{{index .Config.Labels " + f'"{LABEL}"' + "}}"
        for name in names.split():
            try:
                folder = await self._call([program, "inspect", "--format", label, name], seconds=CALL_SECONDS)
                if folder.strip() and not Path(folder.strip()).exists():  # noqa: ASYNC240  # a moment
                    await self._call([program, "rm", "--force", name], seconds=CALL_SECONDS)
                    self._heard(Said("warn", f"the container {name} of a run that was killed is removed"))
            except PenstockError:  # it ended meanwhile
                continue

    async def _call(self, command: Sequence[str], seconds: float) -> str:
        """Calls the engine; returns its output.

        Raises:
            SetupError, Transient: it failed; the message has its last words.
        """
        words = f"{Path(command[0]).name} {command[1]}"
        environment = {**self.environment, "PATH": os.environ.get("PATH", os.defpath)}
        try:
            code, out, errors = await output_of(command, environment, seconds, words)
        except OSError as exc:
            raise SetupError(f"{words}: {exc.strerror}") from exc
        if code == 0:
            return out
        said = " ".join(errors.split())[-500:] or "it wrote no error"
        failed: type[PenstockError] = SetupError if _OF_A_PERSON.search(said) else Transient
        raise failed(f"{words} {self._image} failed: {said}")


def _name(folder: Path) -> str:
    return f"penstock-{folder.name}"
