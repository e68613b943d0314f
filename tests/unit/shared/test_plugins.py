"""Plug-ins of a kind: listed without being imported, checked when they are asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated

import msgspec
import pytest

from shared.plugins import Plugins, secret_options


@pytest.fixture
def animals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Plugins[ModuleType]]:
    folder = tmp_path / "animals"
    (folder / "dog").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "cat.py").write_text("NAME = 'cat'\ndef speak(): return 'meow'\n")
    (folder / "dog" / "__init__.py").write_text("def speak(): return 'woof'\n")
    (folder / "fish.py").write_text("")
    (folder / "cow.py").write_text("NAME = 'ox'\ndef speak(): return 'moo'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Plugins("animal", [importlib.import_module("animals")], ("speak",), "zoo.py")
    for name in [name for name in sys.modules if name.split(".")[0] == "animals"]:
        del sys.modules[name]


def test_plugins_are_listed_without_being_imported(animals: Plugins[ModuleType]) -> None:
    assert animals.names() == ["cat", "cow", "dog", "fish"]
    assert "animals.cat" not in sys.modules
    assert animals.get("dog").speak() == "woof"


@pytest.mark.parametrize(("name", "words"), [("fish", "lacks speak; see zoo.py"), ("cow", "calls itself 'ox'")])
def test_a_plugin_that_breaks_its_contract_is_refused(animals: Plugins[ModuleType], name: str, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        animals.get(name)


def test_a_test_may_hide_plugins(animals: Plugins[ModuleType]) -> None:
    with animals.without("fish", "cow"):
        assert animals.names() == ["cat", "dog"]
        assert [each.speak() for each in animals.all()] == ["meow", "woof"]
    with animals.only("cat"), pytest.raises(KeyError):
        animals.get("dog")
    assert "dog" in animals.names()


def test_an_unknown_name_is_told_the_known_ones(animals: Plugins[ModuleType]) -> None:
    assert animals.unknown("catt") == "expected one of cat, cow, dog, fish, got 'catt'; did you mean `cat`?"


class _Options(msgspec.Struct):
    user: Annotated[str, msgspec.Meta(description="name")] = ""
    token: Annotated[str | None, msgspec.Meta(description="secret", extra={"secret": True})] = None


def test_options_say_which_of_them_are_secret() -> None:
    assert secret_options(_Options) == {"token"}
