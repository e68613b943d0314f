"""`.ci/image`: builds the image of the Dockerfile in a bare Debian root, and tries it with the rights that compose.yaml gives.

python -m tests.support.image [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from tests.support.compose import ROOT
from tests.support.dockerfile import Builder, Stage, inside, read_dockerfile

SUITE = "bookworm"
"""What the base image of the Dockerfile is made from."""
CASES = ((), ("one-node.yaml",), ("tls.yaml",), ("own-warehouse.yaml",))
"""Overrides in deploy/compose that are tried, each by itself."""
MODULES = ("ingest", "router", "functions_runtime", "loader", "connector_runner", "penstock")


def bare_root(folder: Path) -> Path:
    """Returns a bare Debian root, made if it is not there."""
    root = folder / "bare"
    if not (root / "etc/debian_version").exists():
        print(f"debootstrap {SUITE}", flush=True)
        subprocess.run(["debootstrap", "--variant=minbase", SUITE, root], check=True, stdout=subprocess.DEVNULL)
    return root


def built(folder: Path) -> Stage:
    """Returns the image."""
    outside = {name: value for name, value in os.environ.items() if name == "PIP_DEFAULT_TIMEOUT"} | {"PIP_CERT": "/run/ca.crt"}
    return Builder(ROOT, bare_root(folder), folder, outside).build(read_dockerfile((ROOT / "Dockerfile").read_text()))


def said(image: Stage, command: list[str], mounts: Mapping[str, Path] | None = None) -> str:
    """Runs a command in the image as a container would, and returns its output."""
    done = subprocess.run(
        inside(image.root, command, user=image.user, mounts=mounts),
        check=False,
        capture_output=True,
        text=True,
        env=image.environment,
        timeout=120,
    )
    if done.returncode:
        raise SystemExit(f"{command} ends with {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def look_at(image: Stage, bare: Path) -> None:
    """Tries what every container of the image relies on."""
    version = said(image, ["penstock", "--version"]).strip()
    for module in MODULES:
        said(image, ["python", "-c", f"import {module}.__main__"])
    said(image, ["deno", "--version"])
    said(image, ["uv", "--version"])
    with tempfile.TemporaryDirectory(prefix="penstock-volume-", dir="/var/tmp") as volume:
        os.chown(volume, *(int(each) for each in image.user.split(":")))
        place = "/var/lib/penstock/connectors"
        said(image, ["uv", "venv", "--quiet", "--offline", f"{place}/tried"], {place: Path(volume)})
    tried = 'cat > /tmp/f.js; echo \'{"type": "track", "event": "A"}\' > /tmp/e.json; exec penstock fn run /tmp/f.js --event /tmp/e.json'
    function = "export default function (event) { event.properties = {seen: true}; return event }"
    assert "seen" in said(image, ["sh", "-ec", tried.replace("cat", f"echo '{function}'")]), "functions do not run"
    assert said(image, ["id", "-u"]).strip() == image.user.partition(":")[0]
    refused = "try:\n open('/etc/x', 'w')\nexcept OSError as e: print(e.errno)"
    assert said(image, ["python", "-c", refused]).strip() == "30", "the root file system can be written"
    stray = said(
        image, ["python", "-c", "import sys; sys.path[:] = [p for p in sys.path if p]; import shared; print(shared.__file__)"]
    )
    assert stray.startswith("/opt/penstock/"), stray
    listed = json.loads((image.root / "opt/penstock/sbom.json").read_text())
    found = {re.sub(r"[-_.]+", "-", each["name"]).lower() for each in listed["components"]}
    installed = (each.name.split("-")[0] for each in (image.root / "opt/penstock/lib").glob("python3*/site-packages/*.dist-info"))
    missing = {re.sub(r"[-_.]+", "-", each).lower() for each in installed} - found
    assert not missing, f"sbom.json lacks {', '.join(sorted(missing))}"
    sizes = {
        name: subprocess.run(["du", "-sm", place], check=True, capture_output=True, text=True)
        for name, place in (("whole", image.root), ("packages", image.root / "opt"), ("bare", bare))
    }
    whole, packages, base = (int(sizes[name].stdout.split()[0]) for name in ("whole", "packages", "bare"))
    print(f"{version}: {whole} MB, {packages} of them Python packages; the bare root has {base} MB", flush=True)


def main() -> None:
    """Builds and tries."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="folder for the roots, kept for the next run")
    given = parser.parse_args()
    started = time.monotonic()
    with ExitStack() as stack:
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-image-", dir="/var/tmp")))
        folder.mkdir(parents=True, exist_ok=True)
        image = built(folder)
        print(f"built in {time.monotonic() - started:.0f} s", flush=True)
        look_at(image, folder / "bare")
        for case in CASES:
            print(f"trial: compose.yaml {' '.join(case)}", flush=True)
            overrides = [ROOT / "deploy/compose" / name for name in case]
            subprocess.run([sys.executable, "-m", "tests.support.trial", image.root, *overrides], check=True)
        print(f"all done in {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
