"""Installed connectors: exact, whole or not there, the same again; uv itself, against an index of small wheels."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from connector_runner.contract import Said
from connector_runner.programs import packages
from connector_runner.programs.packages import USUAL, Installed, Recipe
from shared.errors import PenstockError, SetupError, Transient
from tests.support.index import Index, index


@pytest.fixture
async def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Index, web.AppRunner]]:
    """An index, and a uv that knows no other and keeps nothing of other runs."""
    async with index() as (found, runner):
        monkeypatch.setenv("UV_DEFAULT_INDEX", found.url)
        monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
        monkeypatch.setenv("UV_HTTP_RETRIES", "0")
        monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
        monkeypatch.setattr(packages, "NEWEST_INTERPRETER", sys.executable)
        for name in ("UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_INDEX", "UV_FIND_LINKS"):
            monkeypatch.delenv(name, raising=False)
        yield found, runner


async def install(
    folder: Path, package: str = "tap-small", version: str = "1.0", program: str = "", recipe: Recipe = USUAL
) -> tuple[Installed, list[Said]]:
    heard: list[Said] = []
    found = await packages.install(
        package=package, version=version, cache=folder / "cache", heard=heard.append, program=program, recipe=recipe
    )
    return found, heard


def output(found: Installed) -> str:
    return subprocess.run([found.program], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("tap-small @ http://127.0.0.1:1/x.whl", "1.0"),
        ("tap-small; python_version>'3'", "1.0"),
        ("../../tap", "1.0"),
        ("-r/etc/passwd", "1.0"),
        ("--index-url=http://127.0.0.1:1", "1.0"),
        ("tap small", "1.0"),
        ("", "1.0"),
        ("tap\nsmall", "1.0"),
        ("tap-small", "1.*"),
        ("tap-small", "=x/../../../y"),
        ("tap-small", "1.0,>=0"),
        ("tap-small", ">=1"),
        ("tap-small", "latest"),
        ("tap-small", "1.0 --pre"),
        ("tap-small", ""),
    ],
)
async def test_what_is_no_package_and_exact_version_is_refused_before_anything_runs(
    tmp_path: Path, package: str, version: str
) -> None:
    with pytest.raises(SetupError, match="is no"):
        await install(tmp_path, package, version)
    assert not list(tmp_path.iterdir())


async def test_only_names_versions_and_requirements_change_an_environment(tmp_path: Path) -> None:
    for recipe, words in (
        *((Recipe(build=(name,)), "in `build`") for name in (":all:", "--index-url=x", "../x")),
        *((Recipe(requires=(name,)), "in `requires`") for name in ("--index-url=x", "a b", "a @ http://127.0.0.1:1/a.whl")),
        *((Recipe(python=name), "`python`") for name in ("--help", "3.x", "../python")),
    ):
        with pytest.raises(SetupError, match=words):
            await install(tmp_path, recipe=recipe)


async def test_another_recipe_is_another_environment(wheels: tuple[Index, web.AppRunner], tmp_path: Path) -> None:
    found, _ = wheels
    for version in ("1.0", "2.0"):
        found.wheel("part", version)
    found.wheel("tap-small", "1.0", needs="part")
    first, _ = await install(tmp_path)
    second, heard = await install(tmp_path, recipe=Recipe(requires=("part<2",), python=sys.executable))
    parts = [next(each.folder.glob("lib/python*/site-packages/part-*")).name for each in (first, second)]
    assert parts == ["part-2.0.dist-info", "part-1.0.dist-info"]
    assert len(heard) == 2, "it is made, though the other one is there"
    assert (await install(tmp_path, recipe=Recipe(requires=("part<2",), python=sys.executable)))[1] == []


async def test_a_python_that_does_not_fit_or_is_not_there_is_named(wheels: tuple[Index, web.AppRunner], tmp_path: Path) -> None:
    wheels[0].wheel("tap-small", "1.0", python=">=3.99")
    with pytest.raises(SetupError, match=r"tap-small==1\.0 needs Python >=3\.99, and `python` says /"):
        await install(tmp_path, recipe=Recipe(python=sys.executable))
    with pytest.raises(SetupError, match=r"needs Python 3\.90"):
        await install(tmp_path, recipe=Recipe(python="3.90"))


async def test_a_pre_release_is_not_taken_where_later_releases_have_no_wheel(
    wheels: tuple[Index, web.AppRunner], tmp_path: Path
) -> None:
    found, _ = wheels
    found.source("part", "1.0")
    found.wheel("part", "0.2.dev0")
    found.wheel("tap-small", "1.0", needs="part")
    with pytest.raises(SetupError, match=r"part has no wheel.*`build: \[part\]`"):
        await install(tmp_path)


async def test_two_at_once_install_once_and_the_next_finds_it(wheels: tuple[Index, web.AppRunner], tmp_path: Path) -> None:
    wheels[0].wheel("tap-small", "1.0")
    left = tmp_path / "cache" / "packages" / ".new-tap-small-1.0-killed"
    left.mkdir(parents=True)
    (first, heard), (second, other) = await asyncio.gather(install(tmp_path), install(tmp_path, "Tap_Small"))
    assert first == second
    assert output(first) == "hello of 1.0\n"
    assert sorted([len(heard), len(other)]) == [0, 2], "one of them installed"
    assert not list(left.parent.glob(".new-*")), "what a killed run left is gone"
    assert (await install(tmp_path))[1] == []


async def test_the_same_is_installed_again_also_offline(wheels: tuple[Index, web.AppRunner], tmp_path: Path) -> None:
    found, runner = wheels
    found.wheel("part", "1.0")
    found.wheel("tap-small", "1.0", needs="part>=1")
    installed, _ = await install(tmp_path)
    found.wheel("part", "2.0")
    shutil.rmtree(installed.folder)
    again, _ = await install(tmp_path)
    assert [path.name for path in again.folder.glob("lib/python*/site-packages/part-*")] == ["part-1.0.dist-info"]
    shutil.rmtree(installed.folder)
    await runner.cleanup()
    assert output((await install(tmp_path))[0]) == "hello of 1.0\n"
    found.wheel("tap-small", "3.0")
    with pytest.raises(Transient, match="index of packages does not answer"):
        await install(tmp_path, version="3.0")


async def test_versions_that_others_would_not_choose_are_taken_where_named(
    wheels: tuple[Index, web.AppRunner], tmp_path: Path
) -> None:
    found, _ = wheels
    found.wheel("tap-small", "1.0")
    found.wheel("tap-small", "2.0rc1")
    found.wheel("tap-small", "3.0")
    found.yanked.add("tap_small-3.0-py3-none-any.whl")
    for version in ("2.0rc1", "3.0"):
        assert output((await install(tmp_path, version=version))[0]) == f"hello of {version}\n"


async def test_a_source_alone_is_named_and_not_built(
    wheels: tuple[Index, web.AppRunner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, _ = wheels
    found.source("part", "1.0")
    found.wheel("tap-small", "1.0", needs="part")
    with pytest.raises(SetupError, match=r"part has no wheel.*`build: \[part\]`"):
        await install(tmp_path)
    with pytest.raises(PenstockError, match="99") as failed:
        await install(tmp_path, version="99")
    assert type(failed.value) is SetupError
    assert [path.name for path in (tmp_path / "cache" / "packages").iterdir() if path.is_dir()] == []


async def test_the_interpreter_follows_what_the_package_needs(wheels: tuple[Index, web.AppRunner], tmp_path: Path) -> None:
    found, _ = wheels
    found.wheel("tap-small", "1.0", python=">=3.99")
    found.wheel("tap-small", "2.0", python="<3.1")
    for version, needs in (("1.0", ">=3.99"), ("2.0", "<3.1")):
        with pytest.raises(SetupError, match=f"needs Python {needs}"):
            await install(tmp_path, version=version)


async def test_uv_sees_no_secret_of_ours(
    wheels: tuple[Index, web.AppRunner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "seen"
    fake = tmp_path / "uv-that-tells"
    fake.write_text(f"#!/bin/sh\nenv > {seen}\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setattr(packages, "find_uv", lambda: str(fake))
    monkeypatch.setenv("PENSTOCK_SECRET", "hunter2-hunter2")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2-hunter2")
    with pytest.raises(SetupError):
        await install(tmp_path)
    assert "hunter2" not in seen.read_text()
    assert "UV_DEFAULT_INDEX" in seen.read_text()


async def test_an_installation_that_is_killed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "uv-that-dies"
    fake.write_text("#!/bin/sh\nkill -9 $$\n")
    fake.chmod(0o755)
    monkeypatch.setattr(packages, "find_uv", lambda: str(fake))
    with pytest.raises(Transient, match="signal 9"):
        await install(tmp_path)


async def test_a_program_is_the_one_named_or_the_only_one(wheels: tuple[Index, web.AppRunner], tmp_path: Path) -> None:
    found, _ = wheels
    found.wheel("tap-small", "1.0", scripts="one = tap_small:main\ntwo = tap_small:main")
    with pytest.raises(SetupError, match=r"no program 'tap-small', but: one, two; name it with `program`"):
        await install(tmp_path)
    assert (await install(tmp_path, program="two"))[0].program.name == "two"


async def test_an_environment_whose_interpreter_is_gone_is_made_again(
    wheels: tuple[Index, web.AppRunner], tmp_path: Path
) -> None:
    wheels[0].wheel("tap-small", "1.0")
    found, _ = await install(tmp_path)
    for each in found.folder.glob("bin/python*"):
        each.unlink()
        os.symlink("/nowhere/python", each)
    assert output((await install(tmp_path))[0]) == "hello of 1.0\n"


async def test_a_cancelled_install_leaves_nothing_and_keeps_no_one_waiting(
    wheels: tuple[Index, web.AppRunner], tmp_path: Path
) -> None:
    wheels[0].wheel("tap-small", "1.0")
    first = asyncio.ensure_future(install(tmp_path))
    packages_folder = tmp_path / "cache" / "packages"
    while not (packages_folder.exists() and list(packages_folder.glob(".new-*"))):
        await asyncio.sleep(0.01)
    second = asyncio.ensure_future(install(tmp_path))
    await asyncio.sleep(0.01)
    for each in (first, second):
        each.cancel()
    assert all(isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(first, second, return_exceptions=True))
    assert not list(packages_folder.glob(".new-*"))
    assert output((await install(tmp_path))[0]) == "hello of 1.0\n"


async def test_no_room_is_for_a_person(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(SetupError, match="connectors are installed there"):
        await install(tmp_path)
