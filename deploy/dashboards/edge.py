"""The edge: what clients send, and what they are answered."""

from __future__ import annotations

from deploy.dashboards.panel import ANY_RATE, Bounds, Dashboard, Panel, number
from deploy.dashboards.promql import INSTANCE, OF_INSTANCE, OF_SITE, SITE, WINDOW, quantiles, rate, zero

BOTH = f"{SITE}, {INSTANCE}"
_REQUESTS = f"sum(rate(ingest_requests_total{{{INSTANCE}}}{WINDOW}))"

DASHBOARD = Dashboard(
    name="edge",
    title="Edge",
    about="Requests of clients, the answers they get, and the work on events before they are acknowledged.",
    variables=(OF_SITE, OF_INSTANCE),
    rows={
        "Now": (
            number("Accepted", "Events acknowledged to their senders.", "eps", zero(rate("ingest_events_accepted_total", BOTH))),
            number("Requests", "Answers of any status.", "reqps", zero(rate("ingest_requests_total", INSTANCE))),
            number(
                "Answered with 503",
                "Part of the answers that say: come again. The broker is away, or EVENTS is full.",
                "percentunit",
                zero(f'sum(rate(ingest_requests_total{{status="503", {INSTANCE}}}{WINDOW})) / {_REQUESTS}'),
                Bounds(warn=0.001, bad=0.01),
            ),
            number(
                "Slow answers",
                "99 % of the requests are answered in less than this.",
                "s",
                f"max(histogram_quantile(0.99, sum by (le) (rate(ingest_request_seconds_bucket{{{INSTANCE}}}{WINDOW}))))",
                Bounds(warn=0.5, bad=2),
            ),
            number(
                "Journal",
                "Part of the journal's room that is taken. It fills while the broker is away.",
                "percentunit",
                f"max(ingest_spool_fill_ratio{{{INSTANCE}}})",
                Bounds(warn=0.1, bad=0.5),
            ),
            number("Connections", "Open connections, WebSockets among them.", "short", f"sum(ingest_connections{{{INSTANCE}}})"),
        ),
        "Events": (
            Panel(
                title="Accepted by protocol",
                about="Events acknowledged to their senders.",
                unit="eps",
                queries={
                    "{{site}} {{protocol}}": zero(rate("ingest_events_accepted_total", BOTH, "site, protocol"), "protocol"),
                },
            ),
            Panel(
                title="Rejected by reason",
                about="Events that became dead letters, with their bytes. `penstock dead list --stage ingest` has samples.",
                unit="eps",
                queries={"{{site}} {{reason}}": zero(rate("ingest_events_rejected_total", BOTH, "site, reason"), "reason")},
                bounds=ANY_RATE,
            ),
            Panel(
                title="Left out by reason",
                about="Events left out on purpose by rules of the site, such as bots.",
                unit="eps",
                queries={"{{site}} {{reason}}": zero(rate("ingest_events_dropped_total", BOTH, "site, reason"), "reason")},
            ),
            Panel(
                title="Events of a frame",
                about="Events that travel in one message. Larger frames cost less a piece; load makes them larger.",
                unit="short",
                queries=quantiles("ingest_frame_events", INSTANCE),
            ),
            Panel(
                title="Repaired and odd",
                about="Events whose JSON was read leniently, requests whose times or keys disagree, parts that mean nothing here.",
                unit="cps",
                queries={
                    "repaired events": zero(rate("ingest_events_repaired_total", BOTH)),
                    "keys that disagree": zero(rate("ingest_key_disagreements_total", BOTH)),
                    "times ignored": zero(rate("ingest_skew_ignored_total", BOTH)),
                    "members ignored": zero(rate("ingest_members_ignored_total", BOTH)),
                    "agents not parsed": zero(rate("ingest_agents_unparsed_total", BOTH)),
                },
                bounds=ANY_RATE,
            ),
            Panel(
                title="Acknowledged from the journal",
                about="Events that the journal keeps until the broker is back.",
                unit="eps",
                queries={"{{site}}": zero(rate("ingest_events_spooled_total", BOTH, "site"), "site")},
                bounds=ANY_RATE,
            ),
        ),
        "Requests": (
            Panel(
                title="Answers by status",
                about="2xx is accepted, 4xx is the client's to correct, 429 its rate, 503 ours.",
                unit="reqps",
                queries={"{{protocol}} {{status}}": zero(rate("ingest_requests_total", INSTANCE, "protocol, status"), "status")},
            ),
            Panel(
                title="Time to answer",
                about="From the last byte of a request to its answer; it contains the broker's write to disk.",
                unit="s",
                queries=quantiles("ingest_request_seconds", INSTANCE),
                bounds=Bounds(warn=0.5, bad=2),
            ),
            Panel(
                title="Refused by code",
                about="Requests refused whole. The code says why; site and key are in the metric where they are known.",
                unit="reqps",
                queries={"{{code}}": zero(rate("ingest_requests_refused_total", INSTANCE, "code"), "code")},
                bounds=ANY_RATE,
            ),
        ),
        "Process": (
            Panel(
                title="Bytes held",
                about="Events that wait for their acknowledgement, bodies that are being read, and the journal.",
                unit="bytes",
                queries={
                    "waiting": f"sum(ingest_inflight_bytes{{{INSTANCE}}})",
                    "being read": f"sum(ingest_unfinished_bytes{{{INSTANCE}}})",
                    "journal": f"sum(ingest_spool_bytes{{{INSTANCE}}})",
                },
            ),
            Panel(
                title="Connections and tasks",
                about="Open connections, WebSockets among them, and tasks of the processes.",
                unit="short",
                queries={
                    "connections": f"sum(ingest_connections{{{INSTANCE}}})",
                    "WebSockets": zero(f"sum(ingest_websockets{{{INSTANCE}}})"),
                    "tasks": f"sum(ingest_tasks{{{INSTANCE}}})",
                },
            ),
            Panel(
                title="Connections refused, processes died",
                about="Connections beyond a limit or broken, and deaths of processes of an edge that has several.",
                unit="cps",
                queries={
                    "refused": zero(rate("ingest_connections_refused_total", INSTANCE)),
                    "deaths": zero(rate("ingest_process_deaths_total", INSTANCE)),
                },
                bounds=ANY_RATE,
            ),
        ),
    },
)
