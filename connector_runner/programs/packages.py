"""Python packages that are connectors: each version in an environment of its own, made with uv, kept and shared.

An environment is made beside its place and renamed, so it is whole or not there. Only wheels are taken: a package that has to be
compiled would take minutes and fail in the end. The interpreter follows the package's Requires-Python. What was
resolved is kept as a lock: the same version is installed the same way again, also if newer dependencies were published meanwhile.
Another `Recipe` is another environment, with a lock of its own.
"""

from __future__ import annotations

import asyncio
import fcntl
import glob
import hashlib
import importlib.metadata
import os
import re
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from connector_runner.contract import Listener, Said
from connector_runner.programs.refusals import explained
from connector_runner.programs.tools import output_of
from shared.errors import SetupError, Transient

INSTALL = "pip install 'penstock[connectors]'"
INSTALL_SECONDS = 900.0
LOCK = "requirements.lock"
NEWEST_INTERPRETER = "3.11"
"""The interpreter tried first: more published connectors work on it than on any other."""
WAIT_SECONDS = 0.2
"""Between two looks at whether another process still makes the same environment; a lock on a file wakes no event loop."""
_KEPT = re.compile(
    r"PATH|HOME|USER|LANG|LC_.*|TMPDIR|XDG_.*|UV_.*|SSL_CERT_.*|REQUESTS_CA_BUNDLE|NETRC|(HTTPS?|ALL|NO)_PROXY", re.IGNORECASE
)
"""Names of our environment that uv sees. The rest holds secrets of ours, and a package that is built runs code of its own."""
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?(\[[A-Za-z0-9._, -]+\])?")
_NEWER = re.compile(r"(?:requires|depends on|does not satisfy) Python ?((?:[<>=!~]+[0-9.]+,?)+)")
_PYTHON = re.compile(r"[0-9]+(\.[0-9]+)*|/\S+")
_NO_INTERPRETER = re.compile(r"No interpreter found|no interpreter|Could not find.*interpreter", re.IGNORECASE)
_NOT_LOADED = re.compile(r"Failed to download .{,200}cpython-")
_AWAY = re.compile(
    r"error sending request|client error \(Connect\)|Failed to fetch|dns error|timed out|connection (refused|reset)|50[0234] ",
    re.IGNORECASE,
)


class Installed(NamedTuple):
    """An installed package. `program`: the command that it brings; `folder`: its environment; `version`: its own."""

    program: Path
    folder: Path
    version: str


class Recipe(NamedTuple):
    """How an environment is made, beside its package.

    `build`: names of packages that may be built, because they have no wheel. `requires`: requirements beside the package's own.
    `python`: a version of Python or the path of an interpreter; empty: the one that the package needs.
    """

    build: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    python: str = ""

    @property
    def mark(self) -> str:
        """What tells environments of one package from each other; empty for the usual one."""
        if self == Recipe():
            return ""
        text = repr((sorted(self.build), sorted(self.requires), self.python))
        return f"-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def check(self) -> None:
        """Raises `SetupError` if a part of it is not as it has to be."""
        for each in self.build:
            if not _NAME.fullmatch(each):
                raise SetupError(f"{each!r} in `build` is no name of a package")
        for each in self.requires:
            try:
                found = Requirement(each)
            except InvalidRequirement as exc:
                raise SetupError(f"{each!r} in `requires` is no requirement, as `setuptools<81` is") from exc
            if found.url:
                raise SetupError(f"{each!r} in `requires` is an address; write a name and its versions, as `setuptools<81`")
        if self.python and not _PYTHON.fullmatch(self.python):
            raise SetupError(f"`python` is {self.python!r}; write a version as 3.10, or the path of an interpreter")


USUAL = Recipe()


def find_uv() -> str:
    """Returns the path of uv: from its wheel in this environment, else from PATH.

    Raises:
        SetupError: there is none; says how to get it.
    """
    beside = Path(sysconfig.get_path("scripts")) / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise SetupError(f"uv: not found; it installs connectors; install it with: {INSTALL}")
    return found


async def install(
    package: str, version: str, cache: Path, heard: Listener, program: str = "", recipe: Recipe = USUAL
) -> Installed:
    """Returns an installed package; installs it first where it is not.

    Args:
        cache: the folder of all environments.
        program: the command that it brings; empty: the one named as the package, or its only one.

    Raises:
        SetupError: there is no such package or version, no wheel of it, no interpreter for it, or no room.
        Transient: the index does not answer.
    """
    pinned, name = _pinned(package, version)
    recipe.check()
    folder = cache / "packages" / f"{name}{recipe.mark}"
    async with _alone(folder):
        if not await asyncio.to_thread(_whole, folder):
            heard(Said("info", f"installing {pinned}"))
            await _make(package, pinned, folder, recipe)
            heard(Said("info", f"installed {pinned}"))
    return _found(package, version, folder, program)


def _pinned(package: str, version: str) -> tuple[str, str]:
    """Returns the requirement of exactly this version, and the name of its folder."""
    try:
        exact = str(Version(version))
    except InvalidVersion as exc:
        raise SetupError(f"{version!r} is no exact version of {package}, as 1.2.3 is") from exc
    if not _NAME.fullmatch(package):
        raise SetupError(f"{package!r} is no name of a package")
    name, bracket, extras = package.partition("[")
    return f"{package}=={exact}", f"{canonicalize_name(name)}{bracket}{extras}-{exact}"


def _whole(folder: Path) -> bool:
    """Whether an environment is there and its interpreter still is; removes one whose interpreter went, as after an upgrade."""
    if (folder / "pyvenv.cfg").exists() and (folder / "bin" / "python").exists():
        return True
    shutil.rmtree(folder, ignore_errors=True)
    return False


@asynccontextmanager
async def _alone(folder: Path) -> AsyncIterator[None]:
    """Lets one process at a time make an environment."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        file = open(folder.with_name(f".{folder.name}.lock"), "w")  # noqa: SIM115, ASYNC230  # held over the body
    except OSError as exc:
        raise SetupError(f"{folder.parent}: {exc.strerror}; connectors are installed there") from exc
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(WAIT_SECONDS)
        yield


async def _make(package: str, pinned: str, folder: Path, recipe: Recipe) -> None:
    lock = folder.parent / "locks" / f"{folder.name}.lock"
    begun = f".new-{folder.name}-"
    for left in folder.parent.glob(f"{glob.escape(begun)}*"):  # of a process that was killed
        await asyncio.to_thread(shutil.rmtree, left, ignore_errors=True)
    wanted = recipe.python or NEWEST_INTERPRETER
    for _ in range(1 if recipe.python else 3):
        beside = Path(tempfile.mkdtemp(prefix=begun, dir=folder.parent))
        try:
            found = await _environment(wanted, beside / "env")
            try:
                await _fill(beside / "env", pinned, lock, recipe)
            except SetupError as exc:
                if (newer := _NEWER.search(str(exc))) is None or newer[1] == wanted:
                    raise
                if recipe.python:
                    raise SetupError(f"{pinned} needs Python {newer[1].rstrip(',')}, and `python` says {recipe.python}") from exc
                wanted = newer[1].rstrip(",")
                continue
            needs = _requires_python(package, beside / "env")
            if found in needs or recipe.python:
                os.replace(beside / "env", folder)
                return
            wanted = str(needs)
        except OSError as exc:
            raise SetupError(f"{folder}: {exc.strerror}; connectors are installed there") from exc
        finally:
            await asyncio.to_thread(shutil.rmtree, beside, ignore_errors=True)
    raise _no_interpreter(pinned, wanted)


async def _environment(wanted: str, folder: Path) -> str:
    """Makes an environment; returns the version of its interpreter. Without the usual one it takes ours."""
    arguments = ["venv", "--quiet", "--relocatable", "--python"]
    try:
        await _uv(*arguments, wanted, str(folder))
    except SetupError as exc:
        if not _NO_INTERPRETER.search(str(exc)):
            raise
        if wanted != NEWEST_INTERPRETER:
            raise _no_interpreter("the connector", wanted) from exc
        await _uv(*arguments, sys.executable, str(folder))
    return _interpreter_of(folder)


def _no_interpreter(what: str, wanted: str) -> SetupError:
    return SetupError(f"{what} needs Python {wanted}; install one, or let uv load it: uv python install '{wanted}'")


async def _fill(environment: Path, pinned: str, lock: Path, recipe: Recipe) -> None:
    python = str(environment / "bin" / "python")
    built = [option for name in recipe.build for option in ("--no-binary", name)]
    arguments = ["pip", "install", "--quiet", "--compile-bytecode", "--only-binary", ":all:", *built, "--python", python]
    if lock.exists():  # noqa: ASYNC240  # a moment
        locked = [*arguments, "--no-deps", "--requirement", str(lock)]
        try:
            await _uv(*locked)
        except Transient as away:
            try:
                await _uv(*locked, "--offline")  # uv keeps what it loaded once
            except (SetupError, Transient):
                raise away from None
        return
    # without `explicit`, uv takes pre-releases of years ago where all later releases of a part have no wheel
    await _uv(*arguments, "--prerelease", "explicit", pinned, *recipe.requires)
    lock.parent.mkdir(exist_ok=True)
    written = lock.with_name(f"{lock.name}.new")
    written.write_text(await _uv("pip", "freeze", "--python", python))
    os.replace(written, lock)


async def _uv(*arguments: str) -> str:
    """Runs uv; returns its output.

    Raises:
        SetupError, Transient: as `install`.
    """
    environment = {name: value for name, value in os.environ.items() if _KEPT.fullmatch(name)}
    trust = {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"}  # what the system trusts
    seen = {**trust, **environment, "UV_NO_PROGRESS": "1"}
    code, out, errors = await output_of([find_uv(), *arguments], seen, INSTALL_SECONDS, f"uv {arguments[0]}")
    if code == 0:
        return out
    if code < 0:  # the machine ran out of memory, or a person ended it
        raise Transient(f"uv {arguments[0]} was ended by signal {-code}")
    words = " ".join(line for line in errors.split("\n") if not line.startswith("warning:"))
    said = " ".join(words.split())
    if _NOT_LOADED.search(said):
        raise SetupError(
            f"this Python is not here, and uv cannot load it: install it, or name its path as `python` ({said[-1000:]})"
        )
    if _AWAY.search(said[-1000:]):
        raise Transient(f"the index of packages does not answer: {said[-1000:]}")
    raise SetupError(f"a connector cannot be installed: {explained(said)}")


def _distribution(package: str, environment: Path) -> importlib.metadata.Distribution | None:
    package = package.partition("[")[0]
    paths = [str(path) for path in environment.glob("lib/python*/site-packages")]
    return next(iter(importlib.metadata.distributions(name=package, path=paths)), None)


def _requires_python(package: str, environment: Path) -> SpecifierSet:
    found = _distribution(package, environment)
    return SpecifierSet(found.metadata["Requires-Python"] or "") if found else SpecifierSet()


def _interpreter_of(environment: Path) -> str:
    written = re.search(r"^version_info\s*=\s*(\S+)", (environment / "pyvenv.cfg").read_text(), re.MULTILINE)
    return written[1] if written else ""


def _found(package: str, version: str, folder: Path, program: str) -> Installed:
    distribution = _distribution(package, folder)
    if distribution is None:
        raise SetupError(f"{folder} does not hold {package} {version}; remove the folder, and it is installed again")
    offered = sorted(point.name for point in distribution.entry_points if point.group == "console_scripts")
    named = program or package.partition("[")[0].removeprefix("airbyte-")
    chosen = named if named in offered else offered[0] if len(offered) == 1 and not program else None
    if chosen is None:
        raise SetupError(
            f"{package} {version} brings no program {named!r}, but: {', '.join(offered) or 'none'}; name it with `program`"
        )
    return Installed(folder / "bin" / chosen, folder, distribution.version)
