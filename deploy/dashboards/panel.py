"""What dashboards are made of. Every panel has a unit, a description and thresholds, and looks like its neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["timeseries", "stat", "bargauge"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """From which value on a panel is yellow, and red; None: never. `low`: it is the smaller values that are bad."""

    warn: float | None = None
    bad: float | None = None
    low: bool = False


NO_BOUNDS = Bounds()
"""No value is bad by itself."""
NONE_IS_GOOD = Bounds(bad=1)
"""One is bad already."""
ANY_RATE = Bounds(warn=0.001)
"""A rate that is not zero wants a look."""
FILL = Bounds(warn=0.8, bad=0.9)
"""Parts of a room, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One panel.

    Args:
        title: what it shows; unique in its dashboard.
        about: what a reader learns from it, and what to do.
        unit: Grafana's name of the unit.
        queries: PromQL by legend; `{{label}}` in a legend is the label's value.
        kind: lines over time, one number, or a bar for each value.
        most: the end of the scale, where there is one.
        stacked: areas on top of each other, of parts of one sum.
        width: of 24 columns.
    """

    title: str
    about: str
    unit: str
    queries: Mapping[str, str]
    bounds: Bounds = NO_BOUNDS
    kind: Kind = "timeseries"
    most: float | None = None
    stacked: bool = False
    width: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A choice at the top of a dashboard: the values of a label. `many`: several at once, or all."""

    name: str
    title: str
    values_of: str
    many: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """One dashboard: panels in rows that have titles."""

    name: str
    title: str
    about: str
    variables: Sequence[Variable]
    rows: Mapping[str, Sequence[Panel]]

    @property
    def panels(self) -> list[Panel]:
        """All panels, in order."""
        return [panel for row in self.rows.values() for panel in row]


def number(title: str, about: str, unit: str, query: str, bounds: Bounds = NO_BOUNDS) -> Panel:
    """Returns a panel with one number."""
    return Panel(title=title, about=about, unit=unit, queries={title: query}, bounds=bounds, kind="stat", width=4)
