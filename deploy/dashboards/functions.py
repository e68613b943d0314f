"""Functions: what they take, give, drop and throw, and what they cost."""

from __future__ import annotations

from deploy.dashboards.panel import ANY_RATE, NONE_IS_GOOD, Dashboard, Panel, number
from deploy.dashboards.promql import CONNECTION, INSTANCE, OF_CONNECTION, OF_INSTANCE, WINDOW, largest, rate, settled, zero

_JOB = 'job="penstock-functions_runtime"'
_FUNCTIONS = 'place="functions"'

DASHBOARD = Dashboard(
    name="functions",
    title="Functions",
    about="What functions take, give, drop and throw, what waits for them, and what identity keeps.",
    variables=(OF_CONNECTION, OF_INSTANCE),
    rows={
        "Now": (
            number("Events in", "Events that went into functions.", "eps", zero(rate("functions_events_total", CONNECTION))),
            number(
                "Events out", "Events that came out of functions.", "eps", zero(rate("functions_events_out_total", CONNECTION))
            ),
            number(
                "Errors",
                "Errors that functions threw.",
                "cps",
                zero(rate("functions_errors_total", CONNECTION)),
                ANY_RATE,
            ),
            number(
                "Waiting",
                "Events that wait before functions.",
                "short",
                zero(settled("account_waiting_events", f"{_FUNCTIONS}, {CONNECTION}", "", "connection")),
            ),
            number(
                "To see again",
                "Events that functions want to see again later, by RetryError.",
                "short",
                zero(f"sum(max by (connection) (functions_waiting_again_events{{{CONNECTION}}}))"),
            ),
            number("Sandboxes", "Sandboxes that run now.", "short", f"sum(functions_sandboxes{{{INSTANCE}}})"),
        ),
        "Events": (
            Panel(
                title="In and out",
                about="Events in and out, by connection. Functions may give more events than they take, or fewer.",
                unit="eps",
                queries={
                    "{{connection}} in": zero(rate("functions_events_total", CONNECTION, "connection"), "connection"),
                    "{{connection}} out": zero(rate("functions_events_out_total", CONNECTION, "connection"), "connection"),
                },
            ),
            Panel(
                title="Dropped by reason",
                about="Events that functions left out on purpose.",
                unit="eps",
                queries={
                    "{{connection}} {{reason}}": zero(
                        rate("functions_events_dropped_total", CONNECTION, "connection, reason"), "reason"
                    )
                },
            ),
            Panel(
                title="Dead letters by reason",
                about="Events that became dead letters in functions. `penstock dead list --stage functions` has them.",
                unit="eps",
                queries={
                    "{{connection}} {{reason}}": zero(
                        rate("functions_events_dead_total", CONNECTION, "connection, reason"), "reason"
                    )
                },
                bounds=ANY_RATE,
            ),
        ),
        "Code": (
            Panel(
                title="Errors by function",
                about="`penstock tail CONNECTION --functions` shows the lines that a function logs.",
                unit="cps",
                queries={
                    "{{connection}} {{function}}": zero(
                        rate("functions_errors_total", CONNECTION, "connection, function"), "function"
                    )
                },
                bounds=ANY_RATE,
            ),
            Panel(
                title="Calls by kind",
                about="What functions asked for: `store` and `fetch`, by result. They wait for each answer.",
                unit="ops",
                queries={"{{kind}} {{result}}": zero(rate("functions_calls_total", CONNECTION, "kind, result"), "kind")},
            ),
            Panel(
                title="Sandboxes over time",
                about="Sandboxes that run, and the rate at which they end in the middle of their work: by time, memory or a crash.",
                unit="short",
                queries={
                    "running": f"sum(functions_sandboxes{{{INSTANCE}}})",
                    "ended, a second": zero(rate("functions_sandboxes_ended_total", CONNECTION)),
                },
            ),
            Panel(
                title="Waiting by connection",
                about="Events that wait before functions, and events that functions want to see again.",
                unit="short",
                queries={
                    "{{connection}}": zero(
                        largest("account_waiting_events", f"{_FUNCTIONS}, {CONNECTION}", "connection"), "connection"
                    ),
                    "{{connection}} again": zero(
                        largest("functions_waiting_again_events", CONNECTION, "connection"), "connection"
                    ),
                },
            ),
            Panel(
                title="CPU of the runtime",
                about="Cores that the runtimes keep busy, without their sandboxes, which are processes of their own.",
                unit="short",
                queries={"{{instance}}": f"sum by (instance) (rate(process_cpu_seconds_total{{{_JOB}, {INSTANCE}}}{WINDOW}))"},
            ),
            Panel(
                title="Rules that found nothing",
                about="Privacy rules that found nothing in an event: perhaps a field was renamed.",
                unit="cps",
                queries={"{{connection}}": zero(rate("functions_rules_missed_total", CONNECTION, "connection"), "connection")},
                bounds=ANY_RATE,
            ),
        ),
        "Identity": (
            Panel(
                title="Kept and stitched",
                about="Anonymous events that are kept until their visitor's user is known, and events that got a user id.",
                unit="eps",
                queries={
                    "kept": zero(rate("functions_identity_kept_total", CONNECTION)),
                    "stitched {{how}}": zero(rate("functions_identity_stitched_total", CONNECTION, "how"), "how"),
                },
            ),
            Panel(
                title="Stays anonymous",
                about="Anonymous events that stay without a user id, by reason. `full` wants more room in the bucket.",
                unit="eps",
                queries={"{{reason}}": zero(rate("functions_identity_forgotten_total", CONNECTION, "reason"), "reason")},
                bounds=ANY_RATE,
            ),
            Panel(
                title="Store of visitors lost",
                about="How often the kept events of all visitors were found gone: the bucket was removed.",
                unit="short",
                queries={"times": zero(f"sum(functions_identity_lost_total{{{CONNECTION}}})")},
                bounds=NONE_IS_GOOD,
            ),
        ),
    },
)
