"""Published SDKs, unmodified: installed once into `build/`, and run as programs of their own that print what they delivered."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.ingest.edge import ROOT

PACKAGES = ROOT / "tests" / "e2e" / "node"


def _install(target: Path, command: list[str], *, cwd: Path | None = None) -> Path:
    """Installs into a folder once, for all workers; an install that was cut off is done again."""
    done = target / ".installed"
    target.mkdir(parents=True, exist_ok=True)
    with (target / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            subprocess.run(command, cwd=cwd, check=True, capture_output=True, timeout=300)
            done.touch()
    return target


def python_sdk(requirement: str) -> Path:
    """Returns a folder with a package of PyPI in an exact version, for PYTHONPATH."""
    target = ROOT / "build" / re.sub(r"[^a-z0-9.]+", "-", requirement)
    installer = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade"]
    return _install(target, [*installer, "--target", str(target), requirement])


@pytest.fixture(scope="session")
def node_sdks() -> Path:
    """The folder with the packages of npm that `tests/e2e/node/package.json` names, for NODE_PATH."""
    if shutil.which("npm") is None:
        pytest.fail("npm is not installed, so the SDKs for Node cannot be tested; get it with: make test-servers")
    return npm_packages(PACKAGES, "node")


def npm_packages(folder: Path, name: str) -> Path:
    """Returns the folder with the packages of npm that the lock file of a folder names, for NODE_PATH."""
    version = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()[:12]
    target = ROOT / "build" / f"{name}-{version}"
    files = [str(folder / file) for file in ("package.json", "package-lock.json")]
    _install(target, ["sh", "-c", f'cp "$@" {target} && npm ci --no-audit --no-fund', "sh", *files], cwd=target)
    return target / "node_modules"


async def run(command: list[str], **environment: str) -> dict[str, Any]:
    """Runs a sender and returns what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **environment}
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result
