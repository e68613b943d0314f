"""The wheel has the files of a deployment, and `penstock deploy` writes them."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.support.compose import ROOT

LINES = "import sys\nfrom penstock.command.cli import main\nsys.argv[0] = 'penstock'\nmain()\n"


def files_of(folder: Path) -> dict[str, bytes]:
    """Returns the files of a deployment below a folder, without what Python keeps."""
    found = [folder / "compose.yaml", *(folder / "deploy").rglob("*")]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in found
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_an_installed_package_writes_the_files_of_a_cluster(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(pip, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(installed)

    def deploy() -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(installed)}
        command = [sys.executable, "-P", "-c", LINES, "deploy", str(tmp_path / "cluster")]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    done = deploy()
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "cluster") == files_of(ROOT)
    assert os.access(tmp_path / "cluster" / "deploy" / "compose" / "make-env", os.X_OK)
    again = deploy()
    assert again.returncode != 0
    assert "exists already and was kept" in again.stderr
