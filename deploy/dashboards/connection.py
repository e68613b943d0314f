"""One connection: all about it, from its site to its destination."""

from __future__ import annotations

from deploy.dashboards.panel import ANY_RATE, NONE_IS_GOOD, Bounds, Dashboard, Panel, number
from deploy.dashboards.promql import CONNECTION, ONE_CONNECTION, largest, quantiles, rate, settled, slow, zero


def _total(metric: str, each: str) -> str:
    return zero(settled(metric, CONNECTION, "", each))


DASHBOARD = Dashboard(
    name="connection",
    title="One connection",
    about="All about one connection. The totals are stored: they count from its beginning, over restarts.",
    variables=(ONE_CONNECTION,),
    rows={
        "Totals": (
            number(
                "Received",
                "Events accepted for the connection since it began.",
                "short",
                _total("account_received_events", "connection"),
            ),
            number(
                "Delivered", "Events whose rows are all committed.", "short", _total("account_delivered_events", "connection")
            ),
            number(
                "Dropped",
                "Events left out on purpose, by rules of the project.",
                "short",
                _total("account_dropped_events", "connection, stage, reason"),
            ),
            number(
                "Dead",
                "Events that became dead letters. `penstock dead list --connection NAME` has them.",
                "short",
                _total("account_dead_events", "connection, stage, reason"),
                Bounds(warn=1),
            ),
            number("Waiting", "Events that wait at any place.", "short", _total("account_waiting_events", "connection, place")),
            number(
                "Stopped",
                "1: its dead letters stop it, and it waits for `penstock resume`.",
                "short",
                zero(f"max(loader_stopped{{{CONNECTION}}})"),
                NONE_IS_GOOD,
            ),
        ),
        "Flow": (
            Panel(
                title="Routed and delivered",
                about="Events that the router put into the queue, and events that the loader committed. The second follows the first.",
                unit="eps",
                queries={
                    "routed": zero(rate("router_events_forwarded_total", CONNECTION)),
                    "delivered": zero(rate("loader_events_total", CONNECTION)),
                },
            ),
            Panel(
                title="Age and latency",
                about="The oldest event that waits, and the time from acceptance to the row.",
                unit="s",
                queries={
                    "oldest": f"max(loader_oldest_seconds{{{CONNECTION}}})",
                    **quantiles("loader_latency_seconds", CONNECTION),
                },
                bounds=Bounds(warn=300, bad=900),
            ),
            Panel(
                title="Waiting by place",
                about="Events in EVENTS because the connection is behind, before functions, in its queue, and set aside.",
                unit="short",
                queries={"{{place}}": settled("account_waiting_events", CONNECTION, "place", "connection, place")},
                stacked=True,
            ),
            Panel(
                title="Dead letters by reason",
                about="Events that could not be processed. Each reason has a line in the documentation.",
                unit="short",
                queries={
                    "{{stage}}: {{reason}}": zero(
                        settled("account_dead_events", CONNECTION, "stage, reason", "connection, stage, reason"), "reason"
                    )
                },
                bounds=Bounds(warn=1),
            ),
            Panel(
                title="Drops by reason",
                about="Events left out on purpose: filtered, sampled, without consent, repeated. Reason `expired` is a loss.",
                unit="short",
                queries={
                    "{{stage}}: {{reason}}": zero(
                        settled("account_dropped_events", CONNECTION, "stage, reason", "connection, stage, reason"), "reason"
                    )
                },
            ),
            Panel(
                title="Functions",
                about="Events into and out of its functions, and the errors that they threw.",
                unit="eps",
                queries={
                    "in": zero(rate("functions_events_total", CONNECTION)),
                    "out": zero(rate("functions_events_out_total", CONNECTION)),
                    "errors": zero(rate("functions_errors_total", CONNECTION)),
                },
            ),
        ),
        "Destination": (
            Panel(
                title="Loads",
                about="Loads by result. Failed ones are tried again; `penstock status` has the destination's words.",
                unit="ops",
                queries={"{{result}}": zero(rate("loader_loads_total", CONNECTION, "result"), "result")},
            ),
            Panel(
                title="Phases of a load",
                about="The slow end (95 %) of each phase. The longest phase is the place to look at.",
                unit="s",
                queries={"{{phase}}": zero(slow("loader_load_seconds", CONNECTION, "phase"), "phase")},
                bounds=Bounds(warn=30, bad=120),
            ),
            Panel(
                title="Rows",
                about="Rows committed, and rows set aside because their table fails.",
                unit="rowsps",
                queries={
                    "committed": zero(rate("loader_rows_total", CONNECTION)),
                    "set aside": zero(rate("loader_retry_rows_total", CONNECTION)),
                },
            ),
            Panel(
                title="Calls by result",
                about="Calls to a destination that takes events one by one, by the answer's status.",
                unit="ops",
                queries={"{{result}}": zero(rate("loader_calls_total", CONNECTION, "result"), "result")},
            ),
            Panel(
                title="Duration of calls",
                about="From the start of a call to its answer. 0: it is a destination with tables.",
                unit="s",
                queries={name: zero(query) for name, query in quantiles("loader_call_seconds", CONNECTION).items()},
                bounds=Bounds(warn=5, bad=30),
            ),
            Panel(
                title="What does not fit",
                about="Values that did not fit their column, and events that were loaded before and came again.",
                unit="cps",
                queries={
                    "unmapped values": zero(rate("loader_values_unmapped_total", CONNECTION)),
                    "changed values": zero(rate("loader_values_changed_total", CONNECTION)),
                    "repeated events": zero(rate("loader_events_repeated_total", CONNECTION)),
                },
                bounds=ANY_RATE,
            ),
            Panel(
                title="Set aside and failing",
                about="Rows that wait because their table fails, and the number of such tables.",
                unit="short",
                queries={
                    "rows": f"max(loader_aside_rows{{{CONNECTION}}})",
                    "tables": zero(f"sum(loader_table_failing{{{CONNECTION}}})"),
                },
                bounds=NONE_IS_GOOD,
            ),
            Panel(
                title="Frames in the queue",
                about="Frames that wait for the loader. At PENSTOCK_DELIVER_MAX_FRAMES the router stops and catches up later.",
                unit="short",
                queries={"frames": largest("loader_waiting_frames", CONNECTION)},
                bounds=Bounds(warn=16_000, bad=20_000),
            ),
            Panel(
                title="Since the last load",
                about="Time since the last load was committed.",
                unit="s",
                queries={"since": f"time() - max(loader_last_load_seconds{{{CONNECTION}}} > 0)"},
                bounds=Bounds(warn=900, bad=3600),
            ),
        ),
    },
)
