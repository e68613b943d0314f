"""The first page: is it well, and how much flows."""

from __future__ import annotations

from deploy.dashboards.panel import ANY_RATE, FILL, NONE_IS_GOOD, Bounds, Dashboard, Panel, number
from deploy.dashboards.promql import (
    CONNECTION,
    INSTANCE,
    JOB,
    OF_CONNECTION,
    OF_INSTANCE,
    OF_SITE,
    SITE,
    late,
    quantiles,
    rate,
    settled,
    zero,
)

_WAITING = settled("account_waiting_events", CONNECTION, "place", "connection, place")

DASHBOARD = Dashboard(
    name="overview",
    title="Overview",
    about="Whether Penstock is well, and how much flows. The other dashboards say why.",
    variables=(OF_SITE, OF_CONNECTION, OF_INSTANCE),
    rows={
        "Is it well?": (
            number(
                "Processes away",
                "Processes that Prometheus knows and that do not answer. Look at their logs.",
                "short",
                f"sum(1 - up{{{JOB}, {INSTANCE}}})",
                NONE_IS_GOOD,
            ),
            number(
                "Not ready",
                "Processes whose `/ready` says no. It names the part, the reason and the next step.",
                "short",
                f"sum(1 - service_ready{{{INSTANCE}}})",
                NONE_IS_GOOD,
            ),
            number(
                "Warnings",
                "Faults beside which the services do their work. `penstock status` lists them.",
                "short",
                f"sum(service_warnings{{{INSTANCE}}})",
                Bounds(warn=1),
            ),
            number(
                "Oldest event",
                "How much longer than its connection's period the oldest event waits that is not loaded yet.",
                "s",
                late(CONNECTION),
                Bounds(warn=300, bad=900),
            ),
            number(
                "Dead letters held",
                "Dead letters of all stages. `penstock dead list` has their reasons.",
                "short",
                'max(stream_messages{stream="DEAD"})',
                Bounds(warn=1),
            ),
            number(
                "Fullest stream",
                "The part of its room that the fullest stream, or queue, takes. See the dashboard JetStream.",
                "percentunit",
                "max(stream_fill_ratio)",
                FILL,
            ),
        ),
        "Flow": (
            Panel(
                title="Accepted events",
                about="Events that the edge acknowledged, by site. Zero is a silent site, or one whose senders are refused.",
                unit="eps",
                queries={"{{site}}": zero(rate("ingest_events_accepted_total", f"{SITE}, {INSTANCE}", "site"), "site")},
            ),
            Panel(
                title="Delivered events",
                about="Events whose rows are committed, or whose calls were answered, by connection.",
                unit="eps",
                queries={"{{connection}}": zero(rate("loader_events_total", CONNECTION, "connection"), "connection")},
            ),
            Panel(
                title="Events that go no further",
                about="Dead letters by stage, and events left out on purpose. Dead letters want a look; drops are rules of the project.",
                unit="eps",
                queries={
                    "dead at the edge": zero(rate("ingest_events_rejected_total", SITE)),
                    "dead in the router": zero(rate("router_events_dead_total", SITE)),
                    "dead in functions": zero(rate("functions_events_dead_total", CONNECTION)),
                    "dead in the loader": zero(rate("loader_events_dead_total", CONNECTION)),
                    "left out at the edge": zero(rate("ingest_events_dropped_total", SITE)),
                    "left out by the router": zero(rate("router_events_dropped_total", CONNECTION)),
                    "left out by functions": zero(rate("functions_events_dropped_total", CONNECTION)),
                    "left out by the loader": zero(rate("loader_events_dropped_total", CONNECTION)),
                },
                bounds=ANY_RATE,
            ),
            Panel(
                title="From acceptance to the row",
                about="Time from the edge's acknowledgement to the committed row, of the oldest event of each load. It contains the period.",
                unit="s",
                queries=quantiles("loader_latency_seconds", CONNECTION),
                bounds=Bounds(warn=900, bad=3600),
            ),
            Panel(
                title="Oldest event by connection",
                about="How much longer than the period the oldest event waits. A line that rises steadily is a connection that does not load.",
                unit="s",
                queries={"{{connection}}": late(CONNECTION, "connection")},
                bounds=Bounds(warn=300, bad=900),
            ),
            Panel(
                title="Waiting events by place",
                about="Events in EVENTS for connections that are behind, before functions, in queues, and set aside for a failing table.",
                unit="short",
                queries={"{{place}}": _WAITING},
                stacked=True,
            ),
        ),
        "State": (
            Panel(
                title="Streams",
                about="The part of its room that each stream takes; of queues the fullest. A full one stops what fills it.",
                unit="percentunit",
                queries={"{{stream}}": "max by (stream) (stream_fill_ratio)"},
                bounds=FILL,
                kind="bargauge",
                most=1,
            ),
            Panel(
                title="Stopped and failing",
                about="Connections stopped by their dead letters or behind, and syncs and feeds that fail or are held.",
                unit="short",
                queries={
                    "stopped connections": zero(f"sum(max by (connection) (loader_stopped{{{CONNECTION}}}))"),
                    "connections behind": zero(f"sum(max by (connection) (router_connection_stopped{{{CONNECTION}}}))"),
                    "failing syncs": zero("sum(max by (sync) (sync_failing))"),
                    "held syncs": zero("sum(max by (sync) (sync_held))"),
                    "failing feeds": zero("sum(max by (feed) (feeds_failing))"),
                },
                bounds=NONE_IS_GOOD,
            ),
            Panel(
                title="Beside the path",
                about="The oldest event that is not archived, in days; alerts whose messages cannot be sent; signals that are not exported.",
                unit="short",
                queries={
                    "days behind in the archive": zero("max(archive_oldest_seconds) / 86400"),
                    "alerts that cannot be sent": zero("sum(max by (alert) (alerts_failing))"),
                    "signals not exported": zero("sum(telemetry_export_failing)"),
                },
                bounds=NONE_IS_GOOD,
            ),
            Panel(
                title="Revision of the project",
                about="The revision in force, by instance. Two lines that stay apart are a process that cannot read the newest.",
                unit="none",
                queries={"{{instance}}": f"max by (instance) (config_revision{{{INSTANCE}}})"},
            ),
        ),
    },
)
