"""One run of a program: its private folder with the files that it gets, the program, and the end of both."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Protocol

from connector_runner.contract import Environment
from connector_runner.programs.packages import USUAL, Installed, Recipe, install
from connector_runner.programs.program import Limits, Program
from shared.errors import PenstockError, SetupError
from shared.reading.mask import Mask

PYTHON = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "DO_NOT_TRACK": "1", "LANG": "C.UTF-8"}
FILES = "files"
"""Folder of the files that a program gets."""


class Launcher(Protocol):
    """A way to run a connector's program."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that what `command` returns gets."""
        ...

    async def command(self, arguments: Sequence[str | Path], folder: Path) -> list[str]:
        """Returns what to run; brings what is missing for it first.

        Args:
            arguments: of the program; a path is one of a file that it gets, all in one folder.
            folder: the private folder of the run.

        Raises:
            SetupError, Transient
        """
        ...

    async def ended(self, folder: Path) -> None:
        """Removes what the run may have left. Never raises."""
        ...


class Package:
    """Runs a program of a Python package; see `install` for the arguments."""

    environment = PYTHON

    def __init__(self, package: str, version: str, environment: Environment, program: str = "", recipe: Recipe = USUAL) -> None:
        self._package = package
        self._version = version
        self._environment = environment
        self._program = program
        self._recipe = recipe
        self._installed: Installed | None = None

    async def command(self, arguments: Sequence[str | Path], folder: Path) -> list[str]:  # noqa: ARG002  # it needs none
        """Installs the package before the first run."""
        if self._installed is None:
            self._installed = await install(
                package=self._package,
                version=self._version,
                cache=self._environment.cache,
                heard=self._environment.heard,
                program=self._program,
                recipe=self._recipe,
            )
        return [str(self._installed.program), *map(str, arguments)]

    async def ended(self, folder: Path) -> None:
        """Leaves nothing to remove."""


@asynccontextmanager
async def running(
    launcher: Launcher,
    arguments: Sequence[str],
    files: Mapping[str, bytes],
    *,
    limits: Limits,
    mask: Mask,
    environment: Environment,
) -> AsyncGenerator[Program, None]:
    """Runs a program; ends it, and removes its folder, when the body ends.

    Args:
        arguments: the first ones.
        files: content of a file by the option that names it; they follow.

    Raises:
        SetupError, Transient: it cannot be run. Errors of the body have the secrets hidden.
    """
    folder, given, secret = _prepare(environment, files)
    try:
        command = await launcher.command([*arguments, *given], folder)
        program = await Program.start(
            command,
            folder=folder,
            secret=secret,
            environment=launcher.environment,
            limits=limits,
            mask=mask,
            heard=environment.heard,
        )
        try:
            yield program
        finally:
            try:
                await launcher.ended(folder)  # first: a container does not end with what we started
            finally:
                await program.close()
    except PenstockError as exc:
        mask.error(exc)
        raise
    finally:
        for each in (secret, folder):
            await asyncio.to_thread(shutil.rmtree, each, ignore_errors=True)


def _prepare(environment: Environment, files: Mapping[str, bytes]) -> tuple[Path, list[str | Path], Path]:
    """Returns the folder of a run, its options with their files, and the folder in which these are."""
    private, folder = environment.private, None
    try:
        folder = Path(mkdtemp(prefix="run-", dir=private))  # for this user alone, with all that is in it
        if environment.secret is not None:
            secret = None
            try:
                secret = Path(mkdtemp(prefix="run-", dir=environment.secret))
                return folder, _write(secret, files), secret
            except OSError:  # no room in memory
                if secret is not None:
                    shutil.rmtree(secret, ignore_errors=True)
        return folder, _write(folder, files), folder
    except OSError as exc:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        raise SetupError(f"{private}: {exc.strerror}; the files of a run are written there; give it room") from exc


def _write(folder: Path, files: Mapping[str, bytes]) -> list[str | Path]:
    """Writes files into `folder / FILES`, which any user of a container can read; others here do not come through `folder`."""
    given: list[str | Path] = []
    (folder / FILES).mkdir()
    (folder / FILES).chmod(0o755)
    for option, content in files.items():
        file = folder / FILES / f"{option.lstrip('-')}.json"
        file.write_bytes(content)
        file.chmod(0o644)
        given += [option, file]
    return given
