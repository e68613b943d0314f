"""The generated pages of metrics and reasons (`penstock/reference.py`)."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.option_words import table
from shared.events.outcome import DeadReason, DropReason
from shared.telemetry.declared import METRICS
from shared.telemetry.metric import Metric
from shared.warnings.declared import WARNED

_AREAS = {
    "ingest": "ingest",
    "router": "router",
    "functions": "functions_runtime",
    "loader": "loader",
    "feeds": "connector_runner",
    "account": "accounting",
    "stream": "the broker",
    "broker": "the broker",
    "alerts": "router",
}


def metrics(note: str) -> Iterator[str]:
    """Yields the lines of docs/metrics.md."""
    yield from (
        "# Metrics",
        "",
        note,
        "",
        "Every service serves these at `/metrics` of its admin address in Prometheus' text form, and sends them by OTLP when",
        "`PENSTOCK_OTLP_ENDPOINT` is set. Counters count from the start of the process. Histograms have the usual `_bucket`, `_sum` and",
        "`_count`. The `account_` gauges count from the beginning of a site or connection and are stored: see",
        "[operations.md](operations.md#accounting). Every label has a bounded set of values: names out of the project file, and the [reasons](reasons.md).",
        "",
    )
    groups: dict[str, list[Metric]] = {}
    for metric in METRICS:
        groups.setdefault(_AREAS.get(metric.name.split("_")[0], "every service"), []).append(metric)
    for area, metrics in groups.items():
        rows = [
            (f"`{each.name}`", each.kind, each.unit, ", ".join(f"`{label}`" for label in each.labels), each.meaning)
            for each in metrics
        ]
        yield from (f"## {area}", "", *table(("name", "kind", "unit", "labels", "meaning"), rows), "")


def reasons(note: str) -> Iterator[str]:
    """Yields the lines of docs/reasons.md."""
    yield from (
        "# Reasons",
        "",
        note,
        "",
        "What may happen to an event, and what to do. Nothing leaves the path without a reason.\n",
        "## Dead letters",
        "",
        "The event could not be processed. It is kept whole, with its original bytes, the reason and a detail, and can be replayed:",
        "[operations.md](operations.md#dead-letters). The reason is a label of the stage's `..._events_dead_total` or `ingest_events_rejected_total`,",
        "and a column of [`dead_letters`](problems.md#dead-letters-as-rows).\n",
    )
    for reason in DeadReason:
        yield from (
            f"### Dead letter `{reason}`",
            "",
            f"{reason.meaning[0].upper()}{reason.meaning[1:]}. What to do: {reason.advice}.",
            "",
        )
    yield from (
        "## Drops",
        "",
        "The event was left out on purpose, counted and not stored. The reason is a label of the stage's `..._events_dropped_total`.",
        "",
        *table(("reason", "meaning"), [(f"`{reason}`", reason.meaning) for reason in DropReason]),
        "\n## Warnings\n",
        "What [`penstock warnings`](problems.md#warnings) shows, and connections with `from: warnings` get. The counter is a metric of every service.",
        "",
    )
    for each in WARNED:
        labels = "".join(f", `{name}` is `{value}`" for name, value in each.labels.items())
        yield from (
            f"### Warning `{each.reason}`\n",
            f"{each.meaning[0].upper()}{each.meaning[1:]}. What to do: {each.advice}.",
            "",
            f"Counted in {each.unit}: `{each.counter}`{labels}.",
            "",
        )
