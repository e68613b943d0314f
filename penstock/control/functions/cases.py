"""Golden cases of a function: `clean.cases.json` beside `clean.ts`.

A list of objects: `event`, and `expect`: the event that goes on, a list of them, `null` for none, `"unchanged"`, or `"dead_letter"`.
In place of `event` a case may have `events`, which go as one batch; `expect` then holds all that goes on, in their order.
Beside them `name`, `env`, `context` (members of `ctx`: geo, ua, headers, retries), `store` (what is kept before), `keeps` (what is kept
afterwards), and `error`, a part of what the function throws.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from functions_runtime.sandbox.guest import Code
from penstock.control.functions.tried import Bench, Together
from shared.errors import ConfigError, Problem
from shared.reading.decode import decode

ENDING = ".cases.json"


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One case."""

    expect: Any
    event: dict[str, Any] | None = None
    events: list[dict[str, Any]] = []
    name: str = ""
    env: dict[str, Any] = {}
    context: dict[str, Any] = {}
    store: dict[str, Any] = {}
    keeps: dict[str, Any] | None = None
    error: str = ""

    def __post_init__(self) -> None:
        if (self.event is None) is not bool(self.events):
            raise ValueError("a case has one `event`, or several `events`")

    @property
    def bodies(self) -> list[bytes]:
        """Its events as JSON."""
        return list(map(msgspec.json.encode, self.events if self.event is None else [self.event]))


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a case holds, and what is different."""

    file: str
    case: str
    ok: bool
    difference: str = ""


def cases_of(file: Path) -> Path:
    """Returns where the cases of a function's file are."""
    return file.with_suffix(ENDING)


def read_cases(file: Path) -> list[Case]:
    """Reads a file of cases.

    Raises:
        ConfigError: it is none; says where.
    """
    try:
        given = msgspec.json.decode(file.read_bytes())
    except FileNotFoundError as exc:
        raise ConfigError([Problem(str(file), "there are no cases; `penstock fn new NAME` writes some to begin with")]) from exc
    except (OSError, msgspec.DecodeError) as exc:
        raise ConfigError([Problem(str(file), f"cannot be read: {exc}")]) from exc
    if not isinstance(given, list):
        raise ConfigError([Problem(str(file), "expected a list of cases")])
    return [decode(case, Case, f"{file}[{number}]") for number, case in enumerate(given)]


async def try_cases(file: Path, code: Code) -> list[Verdict]:
    """Runs the cases of one function; those with the same `env` share a sandbox.

    Raises:
        ConfigError: the function or its cases cannot be read.
    """
    verdicts: list[Verdict] = []
    groups: dict[bytes, list[tuple[int, Case]]] = {}
    for number, case in enumerate(read_cases(cases_of(file)), 1):
        groups.setdefault(msgspec.json.encode(case.env, order="sorted"), []).append((number, case))
    for group in groups.values():
        async with Bench((code,), shared={"props": group[0][1].env}) as bench:
            for number, case in group:
                tried = await bench.run_all(case.bodies, store=case.store, context=case.context)
                difference = _difference(case, tried)
                verdicts.append(
                    Verdict(file=str(file), case=case.name or f"case {number}", ok=not difference, difference=difference)
                )
    return verdicts


def _difference(case: Case, tried: Together) -> str:
    errors = [error for each in tried.events for error in each.errors]
    if case.error:
        said = [*errors, *(each.reason for each in tried.events)]
        if not any(case.error in each for each in said):
            return f"expected an error with {case.error!r}, got {'; '.join(filter(None, said)) or 'none'}"
    elif errors:
        return f"it threw: {'; '.join(errors)}"
    if case.keeps is not None and tried.store != case.keeps:
        return f"expected it to keep {_shown(case.keeps)}, got {_shown(tried.store)}"
    going = [event for each in tried.events for event in each.events]
    if case.expect in ("unchanged", "dead_letter"):
        results = list(dict.fromkeys(each.result for each in tried.events))
        return "" if results == [case.expect] else f"expected {case.expect}, got {', '.join(results)}: {_shown(going)}"
    expected = case.expect if isinstance(case.expect, list) else [] if case.expect is None else [case.expect]
    return "" if going == expected else f"expected {_shown(expected)}, got {_shown(going)}"


def _shown(value: object) -> str:
    return msgspec.json.encode(value).decode()
