"""`penstock deploy`: the files that run Penstock as a cluster, out of an installed package."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import click

from penstock.deployed import NAMES, deployed
from penstock.terminal import exits
from penstock.terminal.options import Setting, at_home
from shared.errors import SetupError

LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc")


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path())
@at_home
def deploy(setting: Setting, folder: Path) -> int:
    """Writes the files of a cluster into FOLDER: compose.yaml, and deploy/ with Kubernetes, NATS, telemetry and dashboards.

    Keeps files that exist: it writes nothing where FOLDER has one of these names.

    \b
    Examples:
      penstock deploy cluster && cd cluster && deploy/compose/make-env && docker compose up --detach
    """
    source = deployed()
    there = [name for name in NAMES if (folder / name).exists() or (folder / name).is_symlink()]
    if there:
        raise SetupError(f"{folder / there[0]} exists already and was kept; name another folder: penstock deploy FOLDER")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            if (source / name).is_dir():
                shutil.copytree(source / name, folder / name, ignore=LEFT_OUT)
            else:
                shutil.copy2(source / name, folder / name)
        for script in ("make-env", "make-certificates", "pin-images"):
            (folder / "deploy" / "compose" / script).chmod(0o755)  # a wheel does not keep it everywhere
    except shutil.Error as exc:  # of many files
        _remove(folder)
        _, path, why = exc.args[0][0]
        raise SetupError(f"{path} cannot be written: {why}") from exc
    except OSError as exc:
        _remove(folder)
        raise SetupError(f"{exc.filename or folder} cannot be written: {exc.strerror}") from exc
    setting.screen.result({"folder": str(folder), "files": list(NAMES)})
    setting.screen.say(f"written to {folder}: compose.yaml and deploy/")
    setting.screen.say(
        "next: deploy/compose/make-env, and an image; docs/compose.md has the steps, docs/kubernetes.md those of Kubernetes"
    )
    return exits.OK


def _remove(folder: Path) -> None:
    """Removes the written files, so the next call begins again."""
    for name in NAMES:
        shutil.rmtree(folder / name, ignore_errors=True)
        with contextlib.suppress(OSError):
            (folder / name).unlink(missing_ok=True)
