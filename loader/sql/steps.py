"""The steps of work on a database (`shared/driving/steps.py`): the kit says which statement comes next, the plug-in's driver runs
it.

A plug-in adds more steps for its bulk path. Errors are the driver's own; `Dialect.trouble` says what they mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from shared.driving.steps import Step, Steps

__all__ = ["Ask", "Commit", "Hold", "Moment", "Rollback", "Run", "Step", "Steps"]


@dataclass(frozen=True, slots=True)
class Ask(Step):
    """One statement; its rows come back.

    `values`: its parameters. `long`: the server may work on it for as long as a statement may take.
    """

    sql: str
    values: Sequence[Any] = ()
    long: bool = False


@dataclass(frozen=True, slots=True)
class Run(Step):
    """One or several statements without parameters, which may take long; nothing comes back."""

    sql: str


@dataclass(frozen=True, slots=True)
class Hold(Step):
    """Takes what a transaction does not give back by itself, such as a lock of the server; the rows of `taking` come back.

    `giving_back` runs before the next `Commit` or `Rollback`, the last taken first.
    """

    taking: str
    giving_back: str


@dataclass(frozen=True, slots=True)
class Commit(Step):
    """Commits the transaction, and waits for the answer even if cancelled."""


@dataclass(frozen=True, slots=True)
class Rollback(Step):
    """Rolls the transaction back; does nothing if none is open."""


@dataclass(frozen=True, slots=True)
class Moment(Step):
    """Asks for the seconds of a clock that only goes forward."""
