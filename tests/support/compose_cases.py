"""compose.yaml by itself and with each override, for tests that read it: its services with variables put in, as `make-env` makes them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support import compose
from tests.support.compose import OVERRIDES, ROOT

CASES = [(), *((each,) for each in OVERRIDES)]
OURS = {"ingest-1", "ingest-2", "router", "functions-runtime", "loader", "connector-runner"}
"""Services of Penstock."""
ONCE = {"volumes", "bucket", "penstock"}
"""Do their work and end."""


@cache
def made() -> set[str]:
    """Returns the names that `make-env` gives values."""
    return set(re.findall(r"\b[A-Z0-9_]+_(?:PASSWORD|ID|SECRET)\b", (ROOT / "deploy/compose/make-env").read_text()))


def environment() -> dict[str, str]:
    """Returns what `make-env` makes, and what an operator must set beside it."""
    return dict.fromkeys(made(), "p0123456789abcdef") | {"PUBLIC_URL": "https://events.example.com"}


@cache
def project(case: tuple[Path, ...]) -> dict[str, Any]:
    document: dict[str, Any] = compose.interpolated(compose.combined(*case), environment())
    return document


def named(case: tuple[Path, ...]) -> str:
    return "+".join(path.stem for path in case) or "compose"


each_case = pytest.mark.parametrize("case", CASES, ids=named)


def services(case: tuple[Path, ...]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = project(case)["services"]
    return found
