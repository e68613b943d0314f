"""A picture of a dashboard, for the documentation: drawn by us, from the dashboard's JSON and from what Prometheus answers to its queries.

It shows what Grafana would show in the same places, and looks plainer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

COLUMN, ROW, GAP = 50, 24, 3
MOST_SERIES, MOST_LEGENDS = 8, 4
COLOURS = ("#3274d9", "#e0752d", "#3f9142", "#a352cc", "#c4162a", "#0f7f8c", "#b58900", "#6b7280")
NAMED = {"green": "#3f9142", "red": "#c4162a"}
_STYLE = (
    "text{font:11px sans-serif;fill:#24292f}.t{font-weight:600}.s{fill:#6b7280;font-size:10px}.r{font-size:13px;font-weight:600}"
    ".b{fill:#fff;stroke:#d0d7de}.g{stroke:#e6e9ec}.l{fill:none;stroke-width:1.3}"
)
_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BYTES = ((2.0**40, " TiB"), (2.0**30, " GiB"), (2.0**20, " MiB"), (2.0**10, " KiB"))
_TIMES = ((86_400.0, " d"), (3600.0, " h"), (60.0, " min"), (1.0, " s"))
_SUFFIXES = {
    "eps": "/s", "cps": "/s", "ops": "/s", "reqps": "/s", "mps": "/s", "recps": "/s", "rowsps": "/s", "Bps": "/s", "bytes": "", "d": " d",
    "short": "", "none": "",
}  # fmt: skip


class Series(NamedTuple):
    """A line: its legend and its values by time (epoch); None: no value."""

    legend: str
    points: Sequence[tuple[float, float]]


Ask = Callable[[str], Sequence[Any]]
"""Returns Prometheus' answer to a query over the time of the picture."""


def draw(document: Any, ask: Ask, start: float, end: float) -> str:
    """Returns a dashboard as SVG."""
    panels = document["panels"]
    height = max(each["gridPos"]["y"] + each["gridPos"]["h"] for each in panels) * ROW + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{24 * COLUMN}" height="{height}" viewBox="0 0 {24 * COLUMN} {height}">',
        f"<style>{_STYLE}</style>",
        '<rect width="100%" height="100%" fill="#f6f8fa"/>',
        f'<text x="8" y="24" class="r" style="font-size:17px">{escape(document["title"])}</text>',
    ]
    for panel in panels:
        place = panel["gridPos"]
        x, y = place["x"] * COLUMN, place["y"] * ROW + 36
        if panel["type"] == "row":
            parts.append(f'<text x="{x + 8}" y="{y + 17}" class="r">{escape(panel["title"])}</text>')
            continue
        width, tall = place["w"] * COLUMN - GAP, place["h"] * ROW - GAP
        parts.append(f'<g transform="translate({x},{y})"><rect class="b" width="{width}" height="{tall}" rx="3"/>')
        parts.append(f'<text x="8" y="16" class="t">{escape(panel["title"])}</text>')
        found = series_of(panel, ask)
        parts += _KINDS[panel["type"]](panel, found, width, tall, start, end)
        parts.append("</g>")
    return "\n".join((*parts, "</svg>\n"))


def series_of(panel: Any, ask: Ask) -> list[Series]:
    """Returns the lines of a panel."""
    found = []
    for target in panel["targets"]:
        for answer in ask(target["expr"]):
            labels = answer["metric"]
            legend = str(target["legendFormat"])
            for name in re.findall(r"{{(\w+)}}", legend):
                legend = legend.replace(f"{{{{{name}}}}}", labels.get(name, ""))
            points = [(float(at), number) for at, value in answer["values"] if math.isfinite(number := float(value))]
            if points:
                found.append(Series(legend.strip(" :"), points))
    return found


def text_of(value: float, unit: str) -> str:
    """Returns a value with its unit, short."""
    if unit == "percentunit":
        return f"{value * 100:.3g} %"
    if unit == "s":
        if abs(value) < 1:
            return f"{value * 1000:.3g} ms" if value else "0 s"
        return next(f"{value / size:.3g}{name}" for size, name in _TIMES if abs(value) >= size)
    scales = _BYTES if unit in ("bytes", "Bps") else _SCALES
    suffix = _SUFFIXES[unit]
    for size, name in scales:
        if abs(value) >= size:
            return f"{value / size:.3g}{name}{suffix}"
    return f"{value:.3g}{' B' if scales is _BYTES else ''}{suffix}"


def colour_at(panel: Any, value: float) -> str:
    """Returns the colour of a value by the panel's thresholds."""
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    found: list[str] = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return NAMED.get(found[-1], found[-1])


def _number(panel: Any, found: list[Series], width: int, tall: int, *_: float) -> list[str]:
    if not found:
        return [f'<text x="{width // 2}" y="{tall // 2 + 14}" text-anchor="middle" class="s">no data</text>']
    value = found[0].points[-1][1]
    shown = text_of(value, panel["fieldConfig"]["defaults"]["unit"])
    style = f"font-size:26px;font-weight:600;fill:{colour_at(panel, value)}"
    return [f'<text x="{width // 2}" y="{tall // 2 + 20}" text-anchor="middle" style="{style}">{shown}</text>']


def _bars(panel: Any, found: list[Series], width: int, tall: int, *_: float) -> list[str]:
    defaults = panel["fieldConfig"]["defaults"]
    most = defaults.get("max") or max((each.points[-1][1] for each in found), default=1) or 1
    high = min(24, (tall - 30) // max(1, len(found)))
    parts = []
    for number, each in enumerate(found):
        value, y = each.points[-1][1], 26 + number * high
        long = round(max(0.0, min(1.0, value / most)) * (width - 210))
        parts.append(f'<text x="8" y="{y + 12}">{escape(each.legend)}</text>')
        parts.append(f'<rect x="130" y="{y + 2}" width="{width - 210}" height="{high - 8}" fill="#eef0f2"/>')
        parts.append(f'<rect x="130" y="{y + 2}" width="{long}" height="{high - 8}" fill="{colour_at(panel, value)}"/>')
        parts.append(f'<text x="{width - 8}" y="{y + 12}" text-anchor="end">{text_of(value, defaults["unit"])}</text>')
    return parts


def _lines(panel: Any, found: list[Series], width: int, tall: int, start: float, end: float) -> list[str]:
    defaults = panel["fieldConfig"]["defaults"]
    stacked = defaults["custom"]["stacking"]["mode"] == "normal"
    shown = sorted(found, key=lambda each: -max(value for _, value in each.points))[:MOST_SERIES]
    if stacked:
        shown = _stack(shown)
    most = defaults.get("max") or max((value for each in shown for _, value in each.points), default=0) * 1.1 or 1
    left, top, wide, high = 64, 26, width - 74, tall - 74
    parts = []
    for part in range(5):
        y = top + high - round(high * part / 4)
        parts.append(f'<path class="g" d="M{left} {y}H{left + wide}"/>')
        parts.append(
            f'<text x="{left - 5}" y="{y + 4}" text-anchor="end" class="s">{text_of(most * part / 4, defaults["unit"])}</text>'
        )
    for step in defaults["thresholds"]["steps"][1:]:
        if step["value"] <= most:
            y = top + high - round(high * step["value"] / most)
            colour = NAMED.get(step["color"], step["color"])
            parts.append(f'<path d="M{left} {y}H{left + wide}" stroke="{colour}" stroke-dasharray="4 3"/>')
    for part in range(4):
        x = left + round(wide * part / 3)
        ago = round(start + (end - start) * part / 3 - end)
        anchor = "end" if part == 3 else "middle" if part else "start"
        parts.append(
            f'<text x="{x}" y="{top + high + 14}" text-anchor="{anchor}" class="s">{f"{ago} s" if ago else "now"}</text>'
        )
    for number, each in enumerate(shown):
        path = "L".join(
            f"{left + round(wide * (at - start) / (end - start))} {top + high - round(high * min(most, max(0.0, value)) / most)}"
            for at, value in each.points
        )
        parts.append(f'<path class="l" stroke="{COLOURS[number]}" d="M{path}"/>')
    return [*parts, *_legend(shown, len(found), width, tall)]


def _legend(shown: list[Series], count: int, width: int, tall: int) -> list[str]:
    parts = []
    each_wide = (width - 16) // 2
    for number, each in enumerate(shown[:MOST_LEGENDS]):
        x, y = 8 + number % 2 * each_wide, tall - 22 + number // 2 * 14
        more = f" and {count - MOST_LEGENDS} more" if number == MOST_LEGENDS - 1 and count > MOST_LEGENDS else ""
        most = 14 if more else 24
        name = each.legend if len(each.legend) <= most else f"{each.legend[: most - 1]}…"
        parts.append(f'<path d="M{x} {y - 4}h10" stroke="{COLOURS[number]}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 14}" y="{y}" class="s">{escape(name + more)}</text>')
    return parts


def _stack(series: list[Series]) -> list[Series]:
    """Puts lines on each other; the highest is their sum."""
    below: dict[float, float] = {}
    stacked = []
    for each in reversed(series):
        points = [(at, value + below.get(at, 0.0)) for at, value in each.points]
        below.update(points)
        stacked.append(Series(each.legend, points))
    return stacked[::-1]


_KINDS: dict[str, Callable[..., list[str]]] = {"stat": _number, "bargauge": _bars, "timeseries": _lines}
