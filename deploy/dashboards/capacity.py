"""Capacity: what the load costs, and when the room ends."""

from __future__ import annotations

from deploy.dashboards.panel import FILL, Bounds, Dashboard, Panel, number
from deploy.dashboards.promql import INSTANCE, JOB, OF_INSTANCE, OF_SITE, SITE, WINDOW, largest, rate, settled, zero

_CPU = f"rate(process_cpu_seconds_total{{{JOB}, {INSTANCE}}}{WINDOW})"
_ACCEPTED = rate("ingest_events_accepted_total", SITE)

DASHBOARD = Dashboard(
    name="capacity",
    title="Capacity",
    about="What the load costs in CPU, memory and disk, and how far it is to the limits.",
    variables=(OF_SITE, OF_INSTANCE),
    rows={
        "Now": (
            number("Accepted", "Events acknowledged to their senders.", "eps", zero(_ACCEPTED)),
            number("Cores", "Cores that all services keep busy, without the broker and sandboxes.", "short", f"sum({_CPU})"),
            number(
                "CPU seconds a million events",
                "What a million accepted events cost all services. Compare it with the table in docs/scaling.md.",
                "short",
                f"1e6 * sum({_CPU}) / ({_ACCEPTED} > 0)",
            ),
            number(
                "Bytes an event",
                "Bytes of EVENTS for each accepted event.",
                "bytes",
                'sum(max by (stream) (stream_bytes{stream="EVENTS"})) / sum(max by (site) (account_accepted_events) > 0)',
            ),
            number(
                "Until EVENTS is full",
                "At the growth of the dashboard's time. When it is full, delivered frames go first.",
                "s",
                'clamp_max((max(stream_limit_bytes{stream="EVENTS"}) - max(stream_bytes{stream="EVENTS"}))'
                ' / (max(deriv(stream_bytes{stream="EVENTS"}[$__range])) > 0), 10 * 365 * 86400) or on() vector(10 * 365 * 86400)',
                Bounds(warn=7 * 86_400, bad=86_400, low=True),
            ),
            number(
                "Disk of the broker",
                "Part of its room on disk that JetStream takes, on the fullest server.",
                "percentunit",
                "max(broker_storage_bytes / (broker_storage_limit_bytes > 0))",
                FILL,
            ),
        ),
        "Processes": (
            Panel(
                title="Cores by service",
                about="Cores that processes of a service keep busy. A process of Python uses hardly more than one.",
                unit="short",
                queries={"{{job}}": f"sum by (job) ({_CPU})"},
                stacked=True,
            ),
            Panel(
                title="Busiest process of each service",
                about="Near 1 the process is the limit: run another replica, and split sites that one router cannot carry.",
                unit="short",
                queries={"{{job}}": f"max by (job) ({_CPU})"},
                bounds=Bounds(warn=0.8, bad=0.95),
            ),
            Panel(
                title="Memory by instance",
                about="Resident memory of each process.",
                unit="bytes",
                queries={"{{job}} {{instance}}": f"sum by (job, instance) (process_resident_memory_bytes{{{JOB}, {INSTANCE}}})"},
                bounds=Bounds(warn=2 * 2**30, bad=4 * 2**30),
            ),
            Panel(
                title="Open files by instance",
                about="Part of the allowed open files and sockets that is taken.",
                unit="percentunit",
                queries={
                    "{{job}} {{instance}}": f"max by (job, instance) (process_open_fds{{{JOB}, {INSTANCE}}}"
                    f" / process_max_fds{{{JOB}, {INSTANCE}}})"
                },
                bounds=FILL,
                most=1,
            ),
            Panel(
                title="Processes",
                about="Processes that answer, by service.",
                unit="short",
                queries={"{{job}}": f"sum by (job) (up{{{JOB}, {INSTANCE}}})"},
            ),
            Panel(
                title="CPU seconds a million events, by service",
                about="What a million accepted events cost each service.",
                unit="short",
                queries={"{{job}}": f"1e6 * sum by (job) ({_CPU}) / on() group_left() ({_ACCEPTED} > 0)"},
            ),
        ),
        "Limits": (
            Panel(
                title="Frames not routed",
                about="Frames of each site that the router did not handle yet. A site is routed by one process.",
                unit="short",
                queries={"{{site}}": largest("router_lag_frames", SITE, "site")},
                bounds=Bounds(warn=1_000, bad=20_000),
            ),
            Panel(
                title="Age of the frame that is routed",
                about="More than a few seconds: the router does not keep up with the site.",
                unit="s",
                queries={"{{site}}": largest("router_oldest_seconds", SITE, "site")},
                bounds=Bounds(warn=10, bad=60),
            ),
            Panel(
                title="Frames routed",
                about="Frames that routers handle, by site.",
                unit="mps",
                queries={"{{site}}": zero(rate("router_frames_total", SITE, "site"), "site")},
            ),
            Panel(
                title="Message ids remembered",
                about="14 bytes each. At PENSTOCK_ROUTER_DEDUPE_MAX_IDS the window of duplicates gets shorter.",
                unit="short",
                queries={
                    "{{site}}": largest("router_dedupe_ids", SITE, "site"),
                    "windows shortened": zero(f"sum(router_dedupe_shortened_total{{{SITE}}})"),
                },
            ),
            Panel(
                title="Growth of EVENTS",
                about="Bytes a second that EVENTS grows by; 0 in the balance of age.",
                unit="Bps",
                queries={"EVENTS": 'clamp_min(max(deriv(stream_bytes{stream="EVENTS"}[5m])), 0)'},
            ),
            Panel(
                title="Waiting events",
                about="Events that wait at any place, and events that wait for the router.",
                unit="short",
                queries={
                    "for the loader": zero(settled("account_waiting_events", "", "", "connection, place")),
                    "for the router": zero(f"sum(max by (site) (account_unrouted_events{{{SITE}}}))"),
                },
                bounds=Bounds(warn=1e6, bad=1e7),
            ),
        ),
    },
)
