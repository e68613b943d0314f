"""Checks that functions can be loaded, by loading them as the runtime does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from shared.errors import PenstockError, Problem


def compile_functions(functions: Mapping[str, Mapping[str, Any]]) -> list[Problem]:
    """Returns what is wrong with the code of functions, with line and column; starts one sandbox for all of them.

    Args:
        functions: of a project file, with their code.
    """
    from functions_runtime.sandbox.guest import Code  # brings what --help does not need

    known = [Code(name, str(each["code"])) for name, each in functions.items() if isinstance(each.get("code"), str)]
    if not known:
        return []
    with ThreadPoolExecutor(1) as pool:  # the caller may have a loop already
        found = pool.submit(asyncio.run, _load(known)).result()
    return [Problem(f"functions.{name}", _words(functions[name], what, line, column)) for name, what, line, column in found]


async def _load(code: Sequence[Any]) -> list[tuple[str, str, int, int]]:
    from functions_runtime.sandbox.guest import BrokenError, Guest, Spec

    try:
        guest = await Guest.start(Spec(tuple(code), {"props": {}}))
    except BrokenError as exc:
        if all(name in {each.name for each in code} for name, *_ in exc.problems):
            return list(exc.problems)
        # one of them ended the sandbox of all: each gets one of its own
        return [problem for each in code for problem in await _load([each])] if len(code) > 1 else list(exc.problems)
    except PenstockError as exc:
        return [(each.name, f"it cannot be checked: {exc}", 0, 0) for each in code]
    await guest.close()
    return []


def _words(function: Mapping[str, Any], what: str, line: int, column: int) -> str:
    place = str(function.get("file") or "the code")
    return f"{place}, line {line}, column {column}: {what}" if line else f"{place}: {what}"
