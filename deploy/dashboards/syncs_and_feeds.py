"""Syncs, which pull rows, and feeds, which follow streams."""

from __future__ import annotations

from deploy.dashboards.panel import ANY_RATE, NONE_IS_GOOD, Bounds, Dashboard, Panel, number
from deploy.dashboards.promql import FEED, OF_FEED, OF_SYNC, SYNC, largest, quantiles, rate, slow, zero

DASHBOARD = Dashboard(
    name="syncs_and_feeds",
    title="Syncs and feeds",
    about="Syncs pull rows into destinations; feeds follow streams of others into sites.",
    variables=(OF_SYNC, OF_FEED),
    rows={
        "Now": (
            number("Syncs that run", "Runs that go on now.", "short", zero(f"sum(max by (sync) (sync_running{{{SYNC}}}))")),
            number(
                "Failing syncs",
                "Syncs whose newest run failed. `penstock sync logs NAME` has the error.",
                "short",
                zero(f"sum(max by (sync) (sync_failing{{{SYNC}}}))"),
                NONE_IS_GOOD,
            ),
            number(
                "Held syncs",
                "Runs that cannot go on because the destination or the broker takes no rows.",
                "short",
                zero(f"sum(max by (sync) (sync_held{{{SYNC}}}))"),
                NONE_IS_GOOD,
            ),
            number("Rows", "Rows of syncs loaded, or merged into others.", "rowsps", zero(rate("loader_sync_rows_total", SYNC))),
            number(
                "Failing feeds",
                "Feeds that cannot be followed, or are held by the broker.",
                "short",
                zero(f"sum(max by (feed) (feeds_failing{{{FEED}}}))"),
                NONE_IS_GOOD,
            ),
            number(
                "Records",
                "Records of feeds that became events or dead letters.",
                "recps",
                zero(rate("feeds_records_total", FEED)),
            ),
        ),
        "Syncs": (
            Panel(
                title="Since the last success",
                about="Time since the newest run that succeeded ended. It should stay below a few intervals of the schedule.",
                unit="s",
                queries={"{{sync}}": f"time() - max by (sync) (sync_last_success_seconds{{{SYNC}}} > 0)"},
                bounds=Bounds(warn=86_400, bad=3 * 86_400),
            ),
            Panel(
                title="Runs by status",
                about="Runs that ended, in the time of the dashboard.",
                unit="short",
                queries={"{{sync}} {{status}}": zero(f"sum by (sync, status) (sync_runs_total{{{SYNC}}})", "status")},
            ),
            Panel(
                title="Duration of runs",
                about="How long runs took: half of them, and the slow end.",
                unit="s",
                queries={name: zero(query) for name, query in quantiles("sync_run_seconds", SYNC).items()},
                bounds=Bounds(warn=3600, bad=6 * 3600),
            ),
            Panel(
                title="Rows read",
                about="Rows that runs which ended read from their connector.",
                unit="short",
                queries={"{{sync}} {{stream}}": zero(f"sum by (sync, stream) (sync_rows_read_total{{{SYNC}}})", "stream")},
            ),
            Panel(
                title="Rows loaded",
                about="Rows loaded, or merged into others, by stream.",
                unit="rowsps",
                queries={"{{sync}} {{stream}}": zero(rate("loader_sync_rows_total", SYNC, "sync, stream"), "stream")},
            ),
            Panel(
                title="Rows that go no further",
                about="Rows that are dead letters, were left out of a run, or did not meet the conditions, by reason.",
                unit="short",
                queries={
                    "dead {{reason}}": zero(f"sum by (reason) (loader_sync_rows_dead_total{{{SYNC}}})", "reason"),
                    "left out {{reason}}": zero(f"sum by (reason) (loader_sync_rows_left_out_total{{{SYNC}}})", "reason"),
                    "dropped {{reason}}": zero(f"sum by (reason) (sync_rows_dropped_total{{{SYNC}}})", "reason"),
                },
                bounds=NONE_IS_GOOD,
            ),
            Panel(
                title="Bytes loaded",
                about="Bytes of the rows, as JSON or Arrow without compression.",
                unit="Bps",
                queries={"{{sync}}": zero(rate("loader_sync_bytes_total", SYNC, "sync"), "sync")},
            ),
            Panel(
                title="Phases of a batch",
                about="The slow end (95 %) of each phase. The longest is the place to look at.",
                unit="s",
                queries={"{{phase}}": zero(slow("loader_sync_load_seconds", SYNC, "phase"), "phase")},
                bounds=Bounds(warn=30, bad=120),
            ),
            Panel(
                title="Batches that wait",
                about="Batches of the newest run that wait for the loader, and loads that failed and are tried again.",
                unit="short",
                queries={
                    "{{sync}} waiting": zero(largest("sync_waiting_batches", SYNC, "sync"), "sync"),
                    "{{sync}} failures": zero(f"sum by (sync) (loader_sync_failures_total{{{SYNC}}})", "sync"),
                },
            ),
            Panel(
                title="Behind the source's log",
                about="Where changes are read from a log: how old the last one read is. 0: no such sync, or none waits.",
                unit="s",
                queries={"{{sync}}": zero(largest("sync_source_behind_seconds", SYNC, "sync"), "sync")},
                bounds=Bounds(warn=300, bad=3600),
            ),
            Panel(
                title="Log kept by the source",
                about="Bytes of its log that the source keeps for a sync. A sync that does not run fills the source's disk.",
                unit="bytes",
                queries={
                    "{{sync}} kept": zero(largest("sync_source_kept_bytes", SYNC, "sync"), "sync"),
                    "{{sync}} behind": zero(largest("sync_source_behind_bytes", SYNC, "sync"), "sync"),
                },
                bounds=Bounds(warn=1e9, bad=1e10),
            ),
            Panel(
                title="Until the next run",
                about="Below 0: it is due and does not begin. Syncs without a schedule have none.",
                unit="s",
                queries={"{{sync}}": zero(f"max by (sync) (sync_next_run_seconds{{{SYNC}}}) - time()", "sync")},
            ),
        ),
        "Feeds": (
            Panel(
                title="Records by feed",
                about="Records whose events, or dead letters, are durable.",
                unit="recps",
                queries={"{{feed}}": zero(rate("feeds_records_total", FEED, "feed"), "feed")},
            ),
            Panel(
                title="Records behind",
                about="Records that are not read yet, over all partitions. A line that rises is a feed that does not keep up.",
                unit="short",
                queries={"{{feed}}": zero(f"sum by (feed) (max by (feed, partition) (feeds_lag_records{{{FEED}}}))", "feed")},
                bounds=Bounds(warn=10_000, bad=1_000_000),
            ),
            Panel(
                title="Time behind",
                about="How far behind its end the latest partition is read, of sources that tell the time.",
                unit="s",
                queries={"{{feed}}": zero(largest("feeds_lag_seconds", FEED, "feed"), "feed")},
                bounds=Bounds(warn=300, bad=3600),
            ),
            Panel(
                title="Dead and lost records",
                about="Records that became dead letters, and records of plain subjects that came faster than they were read.",
                unit="recps",
                queries={
                    "{{feed}} dead {{reason}}": zero(rate("feeds_records_dead_total", FEED, "feed, reason"), "reason"),
                    "{{feed}} lost {{reason}}": zero(rate("feeds_records_lost_total", FEED, "feed, reason"), "reason"),
                },
                bounds=ANY_RATE,
            ),
            Panel(
                title="Opened again",
                about="Failures after which a feed was opened again. `penstock status` has the source's words.",
                unit="short",
                queries={"{{feed}}": zero(f"sum by (feed) (feeds_errors_total{{{FEED}}})", "feed")},
                bounds=NONE_IS_GOOD,
            ),
            Panel(
                title="Since the last record",
                about="Time since the last record came. Long is a silent source, or one that is not followed.",
                unit="s",
                queries={"{{feed}}": zero(f"time() - max by (feed) (feeds_last_record_seconds{{{FEED}}} > 0)", "feed")},
                bounds=Bounds(warn=3600),
            ),
        ),
    },
)
