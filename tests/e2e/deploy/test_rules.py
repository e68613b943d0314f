"""The alert rules for Prometheus: each fires when it should, and is silent when it should be, as `promtool` plays it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from shared.telemetry.declared import METRICS
from tests.support.compose import combined
from tests.support.prometheus import CONFIG, promtool

ROOT = Path(__file__).parents[3]
RULES = CONFIG.parent / "rules.yml"
C = '{connection="c", instance="a", job="penstock-loader"}'


class Case(NamedTuple):
    """Series, one value a minute in promtool's notation, with which an alert fires at a time, and with which it does not."""

    fires: dict[str, str]
    quiet: dict[str, str]
    at: str = "20m"


def _up(**jobs: str) -> dict[str, str]:
    return {f'up{{job="penstock-{job}", instance="{job}"}}': values for job, values in jobs.items()}


def _one(series: str, fires: str, quiet: str, at: str = "20m") -> Case:
    return Case({series: fires}, {series: quiet}, at)


def _appears(metric: str, **labels: str) -> Case:
    """A counter that appears with its first count, at a process that was there before; it is quiet where Prometheus itself was not."""
    where = ", ".join(f'{name}="{value}"' for name, value in {**labels, "job": "penstock-x", "instance": "a"}.items())
    old = {'process_start_time_seconds{job="penstock-x", instance="a"}': "-86400x60"}
    up = 'up{job="penstock-x", instance="a"}'
    return Case(
        {f"{metric}{{{where}}}": "_x15 1x30", up: "1x60", **old}, {f"{metric}{{{where}}}": "_x15 1x30", up: "_x15 1x30", **old}
    )


CASES: dict[str, Case] = {
    "PenstockServiceAway": Case(_up(ingest="1x5 0x60"), _up(ingest="1x60")),
    "PenstockServiceMissing": Case(_up(ingest="1x60", loader="1x60"), _up(ingest="1x60", router="1x60", loader="1x60")),
    "PenstockServiceNotReady": _one('service_ready{instance="a"}', "0x60", "1x18 0x1"),
    "PenstockProcessDies": _one('ingest_process_deaths_total{instance="a", process="2"}', "0+1x60", "1x60"),
    "PenstockNoTraffic": _one('account_accepted_events{site="s", instance="a"}', "0+10x60 600x300", "0+10x400", at="140m"),
    "PenstockOldestEvent": Case(
        {f"loader_oldest_seconds{C}": "4501x60", f"loader_period_seconds{C}": "3600x60"},
        {f"loader_oldest_seconds{C}": "4499x60", f"loader_period_seconds{C}": "3600x60"},
    ),
    "PenstockRoutingLate": _one('router_oldest_seconds{site="s"}', "61x60", "59x60"),
    "PenstockLoadsFail": _one('loader_loads_total{connection="c", result="failed"}', "0+1x60", "9x60"),
    "PenstockCallsFail": Case(
        {'loader_calls_total{connection="c", result="5xx"}': "0+5x60", 'loader_calls_total{connection="c", result="2xx"}': "0+9x60"},
        {'loader_calls_total{connection="c", result="5xx"}': "0+1x60", 'loader_calls_total{connection="c", result="2xx"}': "0+9x60"},
    ),
    "PenstockConnectionStopped": _one(f"loader_stopped{C}", "1x60", "0x60"),
    "PenstockConnectionBehind": _one('router_connection_stopped{connection="c"}', "1x60", "0x10 1x60"),
    "PenstockTableFailing": _one('loader_table_failing{connection="c", table="t"}', "1x60", "0x60"),
    "PenstockEventsExpired": _appears("router_events_dropped_total", connection="c", reason="expired"),
    "PenstockDeadLetters": Case(
        {f"loader_events_total{C}": "0+90x60", 'functions_events_dead_total{connection="c", job="f", reason="x"}': "0+2x60"},
        {f"loader_events_total{C}": "0+900x60", 'functions_events_dead_total{connection="c", job="f", reason="x"}': "0+2x60"},
    ),
    "PenstockEventsRejected": Case(
        {'ingest_events_accepted_total{site="s"}': "0+9x60", 'ingest_events_rejected_total{site="s"}': "0+1x60"},
        {'ingest_events_accepted_total{site="s"}': "0+99x60", 'ingest_events_rejected_total{site="s"}': "0+1x60"},
    ),
    "PenstockDeadLettersLost": _appears("dead_letters_evicted_total", stage="ingest", source="s"),
    "PenstockInternalErrors": _appears("driver_errors_unknown_total", plugin="postgres"),
    "PenstockEdgeRefuses": Case(
        {'ingest_requests_total{status="503"}': "0+2x60", 'ingest_requests_total{status="200"}': "0+98x60"},
        {'ingest_requests_total{status="503"}': "2x60", 'ingest_requests_total{status="200"}': "0+98x60"},
    ),
    "PenstockJournalFills": _one('ingest_spool_fill_ratio{instance="a"}', "0.51x60", "0.49x60"),
    "PenstockStreamNearlyFull": _one('stream_fill_ratio{stream="EVENTS"}', "0.81x60", "0.79x60"),
    "PenstockBrokerDisk": Case(
        {'broker_storage_bytes{server="n"}': "81x60", 'broker_storage_limit_bytes{server="n"}': "100x60"},
        {'broker_storage_bytes{server="n"}': "81x60", 'broker_storage_limit_bytes{server="n"}': "0x60"},
    ),
    "PenstockBrokerServerAway": _one('broker_up{server="n"}', "1x5 0x60", "1x60"),
    "PenstockStreamWithoutLeader": _one('stream_replicas_current{stream="EVENTS"}', "3x5 0x60", "1x60"),
    "PenstockStreamCopyBehind": Case(
        {'stream_replicas_current{stream="EVENTS"}': "2x60", 'stream_replicas{stream="EVENTS"}': "3x60"},
        {'stream_replicas_current{stream="EVENTS"}': "3x60", 'stream_replicas{stream="EVENTS"}': "3x60"},
    ),
    "PenstockCertificateEnds": _one('broker_certificate_expires_seconds{server="n"}', f"{13 * 86400}x60", f"{15 * 86400}x60"),
    "PenstockSyncFails": _one('sync_failing{sync="s"}', "1x60", "0x17 1x60"),
    "PenstockSyncHeld": _one('sync_held{sync="s"}', "1x60", "0x10 1x60"),
    "PenstockSyncOverdue": Case(
        {'sync_next_run_seconds{sync="s"}': "60x60", 'sync_running{sync="s"}': "0x60"},
        {'sync_next_run_seconds{sync="s"}': "60x60", 'sync_running{sync="s"}': "1x60"},
    ),
    "PenstockLookupFails": _one('functions_lookup_failing{table="t"}', "1x60", "0x10 1x60"),
    "PenstockFeedFails": _one('feeds_failing{feed="f"}', "1x60", "0x17 1x60"),
    "PenstockFeedBehind": Case(
        {'feeds_lag_records{feed="f", partition="0"}': "1000+100x90"}, {'feeds_lag_records{feed="f", partition="0"}': "9000-10x90"}, "40m"
    ),
    "PenstockArchiveBehind": _one('archive_oldest_seconds{site="s"}', "86401x60", "86399x60"),
    "PenstockArchiveMissed": _appears("archive_missed_frames_total", site="s"),
    "PenstockAlertsFail": _one('alerts_failing{alert="a"}', "1x60", "0x15 1x60"),
    "PenstockTelemetryLost": _one('telemetry_export_failing{job="penstock-x", signal="spans"}', "1x60", "0x10 1x60"),
}  # fmt: skip


def alerts() -> dict[str, dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def test_the_configuration_is_one() -> None:
    code, said = promtool("check", "config", CONFIG)
    assert code == 0, said


def test_it_scrapes_every_process_of_the_cluster_and_the_router_measures_every_broker() -> None:
    config = yaml.safe_load(CONFIG.read_text())
    jobs = {job["job_name"]: job["dns_sd_configs"][0] for job in config["scrape_configs"]}
    for overrides in ((), (ROOT / "deploy" / "compose" / "one-node.yaml",)):
        services = combined(*overrides)["services"]
        ours = {name: service for name, service in services.items() if "PENSTOCK_ADMIN_PORT" in service.get("environment", {})}
        scraped = [name for job in jobs.values() for name in job["names"]]
        assert set(ours) <= {*scraped, "penstock"}
        for service in ours.values():
            port = int(service["environment"]["PENSTOCK_ADMIN_PORT"])
            assert {job["port"] for job in jobs.values()} == {port}
        brokers = [name for name in services if name.startswith("nats-")]
        measured = services["router"]["environment"]["PENSTOCK_ROUTER_NATS_MONITOR"]
        assert measured.split(",") == [f"http://{name}:8222" for name in brokers]


def test_every_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    assert list(CASES) == list(alerts())
    tests = []
    for name, case in CASES.items():
        for series, firing in ((case.fires, 1), (case.quiet, 0)):
            tests.append(
                {
                    "name": f"{name} {'fires' if firing else 'is quiet'}",
                    "interval": "1m",
                    "input_series": [{"series": each, "values": values} for each, values in series.items()],
                    "promql_expr_test": [
                        {
                            "expr": f'count(ALERTS{{alertname="{name}", alertstate="firing"}})',
                            "eval_time": case.at,
                            "exp_samples": [{"labels": "{}", "value": 1}] if firing else [],
                        }
                    ],
                }
            )
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    code, said = promtool("test", "rules", path)
    assert code == 0, said


def test_a_missing_service_is_named_each_in_an_alert_of_its_own(tmp_path: Path) -> None:
    summary = "no penstock-{} runs, so events are refused or wait"
    notes = {name: value for name, value in alerts()["PenstockServiceMissing"]["annotations"].items() if name != "summary"}
    test = {
        "interval": "1m",
        "input_series": [{"series": 'up{job="penstock-ingest", instance="a"}', "values": "1x60"}],
        "alert_rule_test": [
            {
                "eval_time": "20m",
                "alertname": "PenstockServiceMissing",
                "exp_alerts": [
                    {
                        "exp_labels": {"severity": "critical", "job": f"penstock-{name}"},
                        "exp_annotations": {**notes, "summary": summary.format(name)},
                    }
                    for name in ("router", "loader")
                ],
            }
        ],
    }
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}))
    code, said = promtool("test", "rules", path)
    assert code == 0, said


def test_every_alert_uses_metrics_that_exist_and_says_what_to_do_with_a_page_that_exists() -> None:
    known = {metric.name for metric in METRICS} | {"up", "penstock_watched"}
    for name, alert in alerts().items():
        used = set(re.findall(r"\b(?:[a-z]+_){1,}[a-z]+\b(?=\)|\[|\{| )", alert["expr"])) - {"job", "unless"}
        assert used <= known, f"{name} uses {used - known}"
        assert alert["labels"]["severity"] in ("critical", "warning")
        notes = alert["annotations"]
        assert set(notes) == {"summary", "action", "docs"}, name
        page, _, anchor = notes["docs"].partition("#")
        text = (ROOT / page).read_text()
        titles = {
            re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
            for line in text.splitlines()
            if line.startswith("#")
        }
        assert not anchor or anchor in titles, f"{name}: {notes['docs']}"


def test_the_page_lists_every_alert() -> None:
    listed = re.findall(r"^\| `(Penstock\w+)`", (ROOT / "docs" / "dashboards.md").read_text(), re.MULTILINE)
    assert listed == list(alerts())
