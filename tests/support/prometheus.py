"""A real Prometheus for tests, from Debian's package, and `promtool`, which checks its files."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml

from tests.support.own_server import OwnServer

CONFIG = Path(__file__).parents[2] / "deploy" / "prometheus" / "prometheus.yml"


def find(program: str) -> str:
    """Returns the path of `prometheus` or `promtool`.

    Raises:
        RuntimeError: it is not installed.
    """
    found = shutil.which(program)
    if found is None:
        raise RuntimeError(f"the tests need {program}; run .ci/test-servers, or install it (Debian: apt-get install prometheus)")
    return found


def promtool(*arguments: str | Path) -> tuple[int, str]:
    """Runs `promtool` to its end; returns its exit code and what it said."""
    done = subprocess.run([find("promtool"), *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


class Prometheus(OwnServer):
    """One server with the configuration of `deploy/`, each second, whose targets are given by hand instead of by DNS.

    Args:
        targets: the addresses of each service.
    """

    name: ClassVar[str] = "prometheus"

    def __init__(self, folder: Path, targets: Mapping[str, Sequence[str]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder)
        self._targets = targets

    def command(self) -> Sequence[str | Path]:
        """See `OwnServer.command`."""
        config = yaml.safe_load(CONFIG.read_text())
        config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(CONFIG.parent / name) for name in config["rule_files"]]
        for job in config["scrape_configs"]:
            del job["dns_sd_configs"]
            job["static_configs"] = [{"targets": list(self._targets.get(job["job_name"].removeprefix("penstock-"), ()))}]
        path = self.directory / "prometheus.yml"
        path.write_text(yaml.safe_dump(config))
        return [
            find("prometheus"),
            f"--config.file={path}",
            f"--storage.tsdb.path={self.directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]

    def answers(self) -> bool:
        """See `OwnServer.answers`."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=1) as answer:
            return bool(answer.status == 200)

    def ask(self, path: str, **parameters: object) -> Any:
        """Asks the API; returns its `data`.

        Raises:
            ValueError: it refuses; with its words.
        """
        query = urllib.parse.urlencode(parameters)
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}"
        try:
            with urllib.request.urlopen(url, data=query.encode(), timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as exc:
            raise ValueError(exc.read().decode()) from exc

    def query(self, expression: str) -> list[Any]:
        """Returns the answer to a query now: a list of series, each with its `metric` and `value`."""
        found: list[Any] = self.ask("query", query=expression)["result"]
        return found

    def series(self, expression: str, start: float, end: float, step: float) -> list[Any]:
        """Returns the answer to a query over a time: a list of series, each with its `metric` and `values`."""
        found: list[Any] = self.ask("query_range", query=expression, start=start, end=end, step=step)["result"]
        return found
