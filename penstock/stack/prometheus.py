"""Prometheus beside a local cluster: the configuration and the rules of `deploy/prometheus`, with targets on this machine instead of DNS."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence

import yaml

from penstock.deployed import deployed
from penstock.stack.home import Home
from penstock.stack.processes import Program

NAME = "prometheus"
KEPT = "7d"
STOP_SECONDS = 10.0


def program(home: Home, port: int, targets: Mapping[str, Sequence[str]]) -> Program | None:
    """Returns the program, and writes its configuration; None if Prometheus is not on PATH.

    Args:
        port: of its page, on this machine only.
        targets: of each service, as `host:port`.

    Raises:
        OSError: the home cannot be written.
    """
    found = shutil.which(NAME)
    if found is None:
        return None
    folder = home.folder / NAME
    folder.mkdir(exist_ok=True)
    rules = deployed() / "deploy" / "prometheus"
    config = yaml.safe_load((rules / "prometheus.yml").read_text(encoding="utf-8"))
    config["rule_files"] = [str(rules / name) for name in config["rule_files"]]
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": list(targets.get(job["job_name"].removeprefix("penstock-"), ()))}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    options = {
        "config.file": path, "storage.tsdb.path": folder / "data", "storage.tsdb.retention.time": KEPT,
        "web.listen-address": f"127.0.0.1:{port}",
    }  # fmt: skip
    return Program(
        name=NAME,
        command=(found, *(f"--{name}={value}" for name, value in options.items())),
        environment=dict(os.environ),
        log=home.logs / f"{NAME}.log",
        ready_url=f"http://127.0.0.1:{port}/-/ready",
        stop_seconds=STOP_SECONDS,
    )
