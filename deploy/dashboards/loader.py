"""The loader: rows into destinations, and what does not go in."""

from __future__ import annotations

from deploy.dashboards.panel import ANY_RATE, NONE_IS_GOOD, Bounds, Dashboard, Panel, number
from deploy.dashboards.promql import CONNECTION, INSTANCE, OF_CONNECTION, OF_INSTANCE, largest, late, quantiles, rate, slow, zero

BOTH = f"{CONNECTION}, {INSTANCE}"
_FAILED = 'result="failed"'

DASHBOARD = Dashboard(
    name="loader",
    title="Loader",
    about="Rows into destinations: how many, how fast, in which phases, and what does not go in.",
    variables=(OF_CONNECTION, OF_INSTANCE),
    rows={
        "Now": (
            number("Events", "Events whose rows are committed.", "eps", zero(rate("loader_events_total", BOTH))),
            number("Rows", "Rows committed.", "rowsps", zero(rate("loader_rows_total", BOTH))),
            number(
                "Failed loads",
                "Loads that failed. They are tried again.",
                "ops",
                zero(rate("loader_loads_total", f"{_FAILED}, {BOTH}")),
                ANY_RATE,
            ),
            number(
                "Oldest event",
                "How much longer than its connection's period the oldest event waits that is not loaded yet.",
                "s",
                late(CONNECTION),
                Bounds(warn=300, bad=900),
            ),
            number(
                "Waiting frames",
                "Frames in all queues.",
                "short",
                f"sum(max by (connection) (loader_waiting_frames{{{CONNECTION}}}))",
            ),
            number(
                "Stopped",
                "Connections that their dead letters stop. Correct the cause, then `penstock resume`.",
                "short",
                zero(f"sum(max by (connection) (loader_stopped{{{CONNECTION}}}))"),
                NONE_IS_GOOD,
            ),
        ),
        "Loads": (
            Panel(
                title="Events by connection",
                about="Events whose rows are committed.",
                unit="eps",
                queries={"{{connection}}": zero(rate("loader_events_total", BOTH, "connection"), "connection")},
            ),
            Panel(
                title="Loads by result",
                about="One load commits many events. `failed` ones are tried again; `penstock status` has the destination's words.",
                unit="ops",
                queries={"{{connection}} {{result}}": zero(rate("loader_loads_total", BOTH, "connection, result"), "result")},
            ),
            Panel(
                title="Phases",
                about="The slow end (95 %) of each phase of a load. The longest is the place to look at.",
                unit="s",
                queries={"{{phase}}": slow("loader_load_seconds", BOTH, "phase")},
                bounds=Bounds(warn=30, bad=120),
            ),
            Panel(
                title="From acceptance to the row",
                about="Time from the edge's acknowledgement to the committed row, of the oldest event of each load.",
                unit="s",
                queries=quantiles("loader_latency_seconds", BOTH),
                bounds=Bounds(warn=900, bad=3600),
            ),
            Panel(
                title="Oldest event by connection",
                about="How much longer than its connection's period the oldest event waits that is not loaded yet.",
                unit="s",
                queries={"{{connection}}": late(CONNECTION, "connection")},
                bounds=Bounds(warn=300, bad=900),
            ),
            Panel(
                title="Waiting frames by connection",
                about="Frames in a connection's queue. At PENSTOCK_DELIVER_MAX_FRAMES (20,000) the router stops and catches up later.",
                unit="short",
                queries={"{{connection}}": largest("loader_waiting_frames", CONNECTION, "connection")},
                bounds=Bounds(warn=16_000, bad=20_000),
            ),
        ),
        "What does not go in": (
            Panel(
                title="Dead letters by reason",
                about="Events that the loader could not shape or load.",
                unit="eps",
                queries={
                    "{{connection}} {{reason}}": zero(rate("loader_events_dead_total", BOTH, "connection, reason"), "reason")
                },
                bounds=ANY_RATE,
            ),
            Panel(
                title="Left out by reason",
                about="Events left out on purpose.",
                unit="eps",
                queries={
                    "{{connection}} {{reason}}": zero(rate("loader_events_dropped_total", BOTH, "connection, reason"), "reason")
                },
            ),
            Panel(
                title="Values",
                about="Values that did not fit their column, and values that no column can hold as they are.",
                unit="cps",
                queries={
                    "unmapped": zero(rate("loader_values_unmapped_total", BOTH)),
                    "{{reason}}": zero(rate("loader_values_changed_total", BOTH, "reason"), "reason"),
                },
                bounds=ANY_RATE,
            ),
            Panel(
                title="Tables",
                about="Tables that fail and the rows set aside for them, tables dropped by hand, and rows beyond `max_tables`.",
                unit="short",
                queries={
                    "failing": zero(f"sum(loader_table_failing{{{CONNECTION}}})"),
                    "rows aside": zero(f"sum(max by (connection) (loader_aside_rows{{{CONNECTION}}}))"),
                    "dropped by hand": zero(f"sum(loader_tables_dropped_total{{{BOTH}}})"),
                    "rows in overflow": zero(f"sum(loader_rows_overflow_total{{{BOTH}}})"),
                },
                bounds=NONE_IS_GOOD,
            ),
            Panel(
                title="Repeats",
                about="Redelivered events that were loaded before, and were left out: after a restart some are normal.",
                unit="eps",
                queries={"{{connection}}": zero(rate("loader_events_repeated_total", BOTH, "connection"), "connection")},
            ),
            Panel(
                title="Errors",
                about="Exceptions of our code, errors of drivers that we do not know, destinations that went back. Please report the first two.",
                unit="short",
                queries={
                    "internal": zero(f"sum(loader_internal_errors_total{{{BOTH}}})"),
                    "unknown of drivers": zero(f"sum(driver_errors_unknown_total{{{INSTANCE}}})"),
                    "went back": zero(f"sum(loader_destination_went_back_total{{{BOTH}}})"),
                },
                bounds=NONE_IS_GOOD,
            ),
        ),
        "Calls": (
            Panel(
                title="Calls by result",
                about="Calls to destinations that take events one by one. Failed calls go into RETRY.",
                unit="ops",
                queries={"{{connection}} {{result}}": zero(rate("loader_calls_total", BOTH, "connection, result"), "result")},
            ),
            Panel(
                title="Duration of calls",
                about="From the start of a call to its answer, or its failure.",
                unit="s",
                queries={name: zero(query) for name, query in quantiles("loader_call_seconds", BOTH).items()},
                bounds=Bounds(warn=5, bad=30),
            ),
            Panel(
                title="Tried again",
                about="Calls and rows put into RETRY, and what plug-ins tried again by themselves.",
                unit="cps",
                queries={
                    "calls": zero(rate("loader_calls_again_total", BOTH)),
                    "rows": zero(rate("loader_retry_rows_total", BOTH)),
                    "plug-ins": zero(rate("destination_retries_total", INSTANCE)),
                },
                bounds=ANY_RATE,
            ),
        ),
    },
)
