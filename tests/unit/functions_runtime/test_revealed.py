"""Secrets of functions and privacy rules by reference: read again without a restart, and their last value while they cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from functions_runtime import revealed
from functions_runtime.definition import Definition
from functions_runtime.revealed import Revealed
from functions_runtime.settings import FunctionsSettings
from shared.errors import SetupError
from shared.project.functions import PrivacyRule
from shared.project.model import Connection


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PENSTOCK_SECRETS_FOLDERS", str(tmp_path))
    monkeypatch.setattr(revealed, "AGAIN_SECONDS", -1.0)
    return tmp_path


def definition(folder: Path) -> Definition:
    secret = f"${{file:{folder}/s}}"
    connection = Connection(
        site="shop",
        destination="wh",
        functions_env={"TOKEN": f"Bearer {secret}", "N": 1},
        privacy=[PrivacyRule(field="userId", do="hash", secret=secret)],
    )
    return Definition("c", "c", connection, (), "duckdb")


def hashed(found: Definition) -> object:
    event: dict[str, object] = {"userId": "jane"}
    rules = found.rules()
    assert rules is not None
    rules(event)
    return event["userId"]


async def test_a_changed_secret_is_in_force_and_hidden_without_a_restart(folder: Path) -> None:
    written, holder = definition(folder), Revealed()
    (folder / "s").write_text("first-secret\n")
    first = await holder.of(written)
    assert first.spec(FunctionsSettings()).shared["props"] == {"TOKEN": "Bearer first-secret", "N": 1}
    assert first.secrets() == ["Bearer first-secret"]
    (folder / "s").write_text("second-secret\n")
    second = await holder.of(written)
    assert second.spec(FunctionsSettings()).shared["props"]["TOKEN"] == "Bearer second-secret"
    assert hashed(first) != hashed(second)
    (folder / "s").unlink()
    assert await holder.of(written) == second


async def test_events_wait_while_a_secret_was_never_read(folder: Path) -> None:
    with pytest.raises(SetupError, match="No such file"):
        await Revealed().of(definition(folder))


async def test_without_references_a_definition_is_itself() -> None:
    connection = Connection(site="shop", destination="wh", functions_env={"A": "plain"})
    written = Definition("c", "c", connection, (), "duckdb")
    assert await Revealed().of(written) is written
