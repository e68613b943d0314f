"""What every service says of itself, and the metrics of alerts."""

from __future__ import annotations

from shared.telemetry.metric import Metric

OF_SERVICES: tuple[Metric, ...] = (
    Metric("service_ready", "gauge", "1 or 0", "1 while `/ready` answers 200"),
    Metric("service_warnings", "gauge", "warnings", "warnings of `/ready`: faults beside which the service does its work"),
    Metric("config_revision", "gauge", "revision", "revision of the project in force"),
)

OF_ALERTS: tuple[Metric, ...] = (
    Metric(
        "alerts_messages_total",
        "counter",
        "messages",
        "messages of alerts, tests among them, by what became of them: taken by the channel, or failed and sent again later",
        labels=("alert", "outcome"),
    ),
    Metric("alerts_firing", "gauge", "faults", "faults that an alert tells of and that last", labels=("alert",)),
    Metric("alerts_failing", "gauge", "1 or 0", "1 while the messages of an alert cannot be sent", labels=("alert",)),
)
