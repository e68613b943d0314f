"""What refusals of uv and programs that do not start mean: the remedy is named, and the words behind it stay."""

from __future__ import annotations

import pytest

from connector_runner.programs.program import fault_of
from connector_runner.programs.refusals import explained, remedy
from connector_runner.sources.airbyte import OPTIONS
from shared.errors import ConfigError
from shared.reading.decode import decode

REQUIRE = "and you require airbyte-source-a==1.0.0, we can conclude that your requirements are unsatisfiable."


@pytest.mark.parametrize(
    ("said", "means"),
    [
        (
            f"Because there is no version of airbyte-source-a==1.0.0 {REQUIRE}",
            "airbyte-source-a has no version 1.0.0; https://pypi.org/",
        ),
        (
            f"Because airbyte-source-a was not found in the package registry {REQUIRE}",
            "the index of packages has no airbyte-source-a",
        ),
        (
            f"Because there is no version of part[all]==0.6 and airbyte-source-a>=1 depends on part[all]==0.6, {REQUIRE}",
            "airbyte-source-a 1.0.0 needs part 0.6, which does not exist; take another version of airbyte-source-a",
        ),
        (
            "Because all versions of b have no usable wheels and Because c==1 has no usable wheels",
            "b, c have no wheel for this interpreter; `build: [b, c]` lets uv build it",
        ),
    ],
)
def test_a_refusal_begins_with_what_to_do(said: str, means: str) -> None:
    found = explained(said)
    assert found.startswith(means)
    assert said in found


def test_other_words_stay_as_they_are() -> None:
    assert explained("the disk is full") == "the disk is full"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("ModuleNotFoundError: No module named 'pkg_resources'", 'requires: ["setuptools<81"]'),
        ("ValueError: mutable default <class 'X'> for field y is not allowed: use default_factory", 'python: "3.10"'),
        ("AttributeError: module 'pendulum' has no attribute 'DateTime'", "`requires: [NAME==VERSION]`"),
        ("ImportError: cannot import name 'x' from 'y'", "`requires: [NAME==VERSION]`"),
        ("AttributeError: 'NoneType' object has no attribute 'x'", ""),
        ("KeyError: 'streams'", ""),
    ],
)
def test_an_environment_that_does_not_fit_has_a_remedy(words: str, what: str) -> None:
    found = remedy(words)
    assert what in found
    assert bool(found) == bool(what)


def test_a_traceback_is_its_error_and_its_place() -> None:
    lines = [
        "starting",
        '  File "/x/lib/site-packages/tap/run.py", line 3, in <module>',
        "    import that",
        '  File "/x/lib/site-packages/tap/that.py", line 14, in go',
        "    raise Broken(1)",
        "tap.that.Broken: no account of",
        "this name",
    ]
    assert fault_of(lines) == "tap.that.Broken: no account of this name (tap/that.py, line 14)"
    assert fault_of(lines[:-2]) == "", "cut off before the error"
    assert fault_of(["warning: old", "  it goes on"]) == ""


@pytest.mark.parametrize("version", ["latest", ">=1", "1.*", ""])
def test_a_version_that_is_not_exact_is_refused_by_the_project_file(version: str) -> None:
    with pytest.raises(ConfigError, match="exact"):
        decode({"package": "airbyte-source-a", "version": version}, OPTIONS, "connectors.a")


def test_an_image_has_no_environment_of_its_own() -> None:
    with pytest.raises(ConfigError, match="belong to a `package`"):
        decode({"image": "airbyte/source-faker:7.2.1", "python": "3.10"}, OPTIONS, "connectors.a")
