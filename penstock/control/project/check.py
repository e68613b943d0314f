"""Tries destinations one after the other, each by its plug-in's check; a failure does not stop the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from loader import registry
from loader.contract.events import EventDestination
from loader.contract.warehouse import Environment
from penstock.control.wording import Advance
from shared.devices.connections import IN_THE_BROWSER
from shared.devices.registry import DEVICES, is_device
from shared.errors import ConfigError, PenstockError, Problem
from shared.tasks import timeout
from shared.threads import ThreadGate

CHECK_SECONDS = 60.0
QUICK_SECONDS = 10.0


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a check: whether it worked, and what to do if not."""

    step: str
    ok: bool
    message: str = ""


class DestinationCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The steps tried on one destination."""

    destination: str
    type: str
    steps: list[Step]


async def check_destinations(
    destinations: Mapping[str, dict[str, Any]], only: str | None, advance: Advance
) -> list[DestinationCheck]:
    """Checks all destinations, or the one named.

    Args:
        destinations: parts of a resolved project, by name.

    Raises:
        ConfigError: no destination has that name.
    """
    if only is not None and only not in destinations:
        known = ", ".join(sorted(destinations)) or "none"
        raise ConfigError([Problem("destinations", f"no destination is named {only!r}; known: {known}")])
    names = [only] if only is not None else list(destinations)
    gate = ThreadGate(2, "check")
    checks: list[DestinationCheck] = []
    try:
        for done, name in enumerate(names, 1):
            steps = await _check(name, destinations[name], Environment(gate))
            checks.append(DestinationCheck(destination=name, type=str(destinations[name].get("type")), steps=steps))
            advance(done, note=name, total=len(names))
    finally:
        gate.close()
    return checks


async def failing_steps(name: str, document: dict[str, Any]) -> list[Step]:
    """Returns the failing steps of a destination, in a short time; none if it works."""
    gate = ThreadGate(1, "check")
    try:
        return [step for step in await _check(name, document, Environment(gate), QUICK_SECONDS) if not step.ok]
    finally:
        gate.close()


async def _check(name: str, document: dict[str, Any], environment: Environment, seconds: float = CHECK_SECONDS) -> list[Step]:
    if is_device(document):
        script = str(document.get("script") or "") if "://" in str(document.get("script")) and document["type"] != "tag" else ""
        own = ("/".join(script.split("/")[:3]),) if script else ()
        hosts = (*DEVICES.get(str(document["type"])).HOSTS, *own)
        allowed = f"; a page's Content-Security-Policy must allow {' '.join(hosts)}" if hosts else ""
        return [Step(step="options", ok=True, message=f"{IN_THE_BROWSER}, so it is not reached from here{allowed}")]
    mask = registry.mask_of(document)
    try:
        async with timeout(seconds):
            plugin, options = registry.parse_options(name, document)
            destination = await plugin.open_destination(name, options, environment)
            try:
                if isinstance(destination, EventDestination):
                    results = await destination.check(mask)
                else:
                    results = await destination.check()
            finally:
                await destination.close()
    except TimeoutError:
        return [Step(step="reach", ok=False, message=f"no answer within {seconds:g} s; check address and network")]
    except PenstockError as exc:
        return [Step(step="open", ok=False, message=mask.text(str(exc)))]
    return [Step(step=result.step, ok=result.ok, message=mask.text(result.message)) for result in results]
