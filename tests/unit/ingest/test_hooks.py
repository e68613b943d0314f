"""Secrets of webhooks that the project refers to: read, read again, and what is said while they cannot be."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from ingest.intake import hooks as hooks_module
from ingest.intake.hooks import Known, are_same, read_hooks, refers
from ingest.webhooks.hook import BuiltHook
from shared.errors import NotConnected, SetupError
from shared.project.model import Project, Site
from shared.project.webhooks import Token, Webhook
from shared.telemetry.health import Health
from tests.unit.ingest.desks import NOW
from tests.unit.ingest.webhooks.deliveries import delivery


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PENSTOCK_SECRETS_FOLDERS", str(tmp_path))
    return tmp_path


def project(**webhooks: Any) -> Project:
    return Project(sites={"shop": Site()}, webhooks={name: Webhook(site="shop", **options) for name, options in webhooks.items()})


def status(hook: BuiltHook, token: str) -> int:
    unproven = hook.verify(delivery({}, {"Authorization": f"Bearer {token}"}), NOW)
    return 200 if unproven is None else unproven.status


async def test_a_changed_secret_holds_from_the_next_reading(folder: Path) -> None:
    shop = project(hook={"type": "token", "secret": f"${{file:{folder}/s}}"}, plain={"type": "token", "secret": "p"})
    health = Health()
    assert refers(shop)
    assert not refers(project(plain={"type": "token", "secret": "p"}))
    (folder / "s").write_text("first\n")
    hooks = await read_hooks(shop, health, {})
    assert [status(hooks["hook"], each) for each in ("first", "second", "")] == [200, 401, 401]
    (folder / "s").write_text("second\n")
    hooks = await read_hooks(shop, health, {})
    assert [status(hooks["hook"], each) for each in ("first", "second")] == [401, 200]
    assert status(hooks["plain"], "p") == 200
    assert "webhooks" not in health.warnings


async def test_a_webhook_without_its_secret_is_sealed_and_said_once_until_it_is_there(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop = project(hook={"type": "token", "secret": f"${{file:{folder}/s}}"}, plain={"type": "token", "secret": "p"})
    health = Health()
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            hooks = await read_hooks(shop, health, {})
    assert [status(hooks["hook"], "anything"), status(hooks["plain"], "p")] == [503, 200]
    assert "webhooks refuse everybody with 503 because " in health.warnings["webhooks"]
    assert "hook: the secret ${file:" in health.warnings["webhooks"]
    assert [each.message for each in caplog.records].count("webhooks are sealed") == 1
    (folder / "s").write_text("first")
    assert status((await read_hooks(shop, health, {}))["hook"], "first") == 200
    assert "webhooks" not in health.warnings


async def test_a_vault_that_does_not_answer_leaves_the_secret_in_force_that_it_gave_last(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(written: dict[str, str]) -> dict[str, str]:
        return dict.fromkeys(written, "given")

    def away(_: dict[str, str]) -> dict[str, str]:
        raise NotConnected("the vault at VAULT_ADDR does not answer")

    def refuses(_: dict[str, str]) -> dict[str, str]:
        raise SetupError("the vault answers 403")

    shop, health, known = project(hook={"type": "token", "secret": "${vault:kv/hook#t}"}), Health(), Known()
    for reader, status_wanted, warned in (
        (away, 503, "webhooks"), (answers, 200, ""), (away, 200, "secrets of webhooks"), (answers, 200, ""), (refuses, 503, "webhooks")
    ):  # fmt: skip
        monkeypatch.setattr(hooks_module, "reveal", reader)
        hooks = await read_hooks(shop, health, known)
        assert status(hooks["hook"], "given") == status_wanted
        assert set(health.warnings) == ({warned} if warned else set())
    monkeypatch.setattr(hooks_module, "reveal", away)
    other = project(hook={"type": "token", "secret": "${vault:kv/other#t}"})
    assert status((await read_hooks(other, health, known))["hook"], "given") == 503


async def test_the_state_ends_with_a_project_that_has_no_webhook(folder: Path) -> None:
    health = Health()
    await read_hooks(project(hook={"type": "token", "secret": f"${{file:{folder}/s}}"}), health, {})
    assert "webhooks" in health.warnings
    assert await read_hooks(project(), health, {}) == {}
    assert "webhooks" not in health.warnings


@pytest.mark.parametrize(
    "options",
    [
        {"type": "standard", "secret": "whsec_"},
        {"type": "standard", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "previous_secret": "whsec_"},
        {"type": "github", "secret": " "},
        {"type": "token", "secret": ":", "token": Token(carrier="basic")},
        {"type": "sendgrid", "secret": "bm8ga2V5"},
        {"type": "sendgrid", "secret": "MAswBAYCKgMDAwABAg=="},  # a public key of an algorithm that nobody has
    ],
)
async def test_a_secret_that_is_no_key_lets_nobody_in_and_is_said(options: dict[str, Any]) -> None:
    health = Health()
    hooks = await read_hooks(project(hook=options), health, {})
    unproven = hooks["hook"].verify(delivery({}), NOW)
    assert unproven is not None
    assert (unproven.status, unproven.code) == (503, "webhook_sealed")
    assert health.warnings["webhooks"].endswith(hooks["hook"].sealed)
    assert hooks["hook"].sealed
    assert options["secret"].strip() in ("", ":") or options["secret"] not in health.warnings["webhooks"].replace("`whsec_`", "")


async def test_a_blank_secret_behind_a_reference_is_none(folder: Path) -> None:
    (folder / "s").write_text("  \n")
    hooks = await read_hooks(project(hook={"type": "token", "secret": f"${{file:{folder}/s}}"}), Health(), {})
    assert status(hooks["hook"], "") == status(hooks["hook"], "  ") == 503


async def test_webhooks_are_built_anew_only_where_something_changed(folder: Path) -> None:
    shop, known = (
        project(hook={"type": "token", "secret": f"${{file:{folder}/s}}"}, plain={"type": "token", "secret": "p"}),
        Known(),
    )
    sealed = await read_hooks(shop, Health(), known)
    assert are_same(sealed, await read_hooks(shop, Health(), known))
    (folder / "s").write_text("first")
    first = await read_hooks(shop, Health(), known)
    assert first["plain"] is sealed["plain"]
    assert not are_same(sealed, first)
    assert are_same(first, await read_hooks(shop, Health(), known))
    (folder / "s").write_text("second")
    assert not are_same(first, await read_hooks(shop, Health(), known))
    assert not are_same(first, {})
