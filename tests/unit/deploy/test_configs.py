"""The files that compose.yaml mounts are read by the programs that read them there, as far as these are on this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from tests.support.compose import ROOT, combined

DEPLOY = ROOT / "deploy"
HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")


@pytest.mark.parametrize("file", sorted(DEPLOY.rglob("*.y*ml")), ids=lambda file: str(file.relative_to(DEPLOY)))
def test_every_file_of_yaml_can_be_read(file: Path) -> None:
    if file.parent.name not in ("compose", "kubernetes"):  # have tags, or several documents, and tests of their own
        assert isinstance(yaml.safe_load(file.read_text()), dict)


@pytest.mark.parametrize("file", sorted(DEPLOY.rglob("*.xml")), ids=lambda file: str(file.relative_to(DEPLOY)))
def test_every_file_of_xml_can_be_read(file: Path) -> None:
    assert ElementTree.parse(file).getroot().tag == "clickhouse"


@pytest.mark.parametrize("name", ["make-env", "make-certificates", "pin-images"])
def test_scripts_can_be_read_and_run(name: str) -> None:
    assert (DEPLOY / "compose" / name).stat().st_mode & 0o111
    subprocess.run(["sh", "-n", DEPLOY / "compose" / name], check=True)


def test_clickhouse_grants_what_its_page_lists() -> None:
    granted = [query.text for query in ElementTree.parse(DEPLOY / "clickhouse/users.xml").iter("query")]
    page = (ROOT / "docs/destinations/clickhouse.md").read_text()
    listed = re.findall(r"^(GRANT .*) TO penstock;", page.split("## Permissions")[1], re.MULTILINE)
    assert granted == [each.replace("shop.*", "warehouse.*") for each in listed]


def test_the_collector_uses_what_it_declares() -> None:
    config: dict[str, Any] = yaml.safe_load((DEPLOY / "otel/collector.yaml").read_text())
    pipelines = config["service"]["pipelines"]
    assert pipelines.keys() == {"traces", "metrics", "logs"}
    variables = {"${env:PENSTOCK_METRICS_TO:-nop}", "${env:PENSTOCK_LOGS_TO:-nop}"}
    for kind in ("receivers", "processors", "exporters"):
        used = {name for each in pipelines.values() for name in each[kind]} - variables
        assert used <= config[kind].keys()
    # https://github.com/open-telemetry/opentelemetry-collector/tree/main/processor: the limiter goes first
    assert all(each["processors"][0] == "memory_limiter" for each in pipelines.values())
    environment = combined()["services"]["otel-collector"]["environment"]
    assert "PENSTOCK_LOGS_TO" in environment
    assert "otlp_http/loki" in (ROOT / "docs/compose.md").read_text()


def test_grafana_finds_numbers_spans_and_logs() -> None:
    config = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/penstock.yaml").read_text())
    found = {each["uid"]: each["url"] for each in config["datasources"]}
    services = combined()["services"]
    assert found.keys() == {"prometheus", "tempo", "loki"}
    for uid, url in found.items():
        assert re.fullmatch(rf"http://{uid}:\d+", url)
        assert uid in services
    ports = {
        "tempo": yaml.safe_load((DEPLOY / "tempo/tempo.yaml").read_text()),
        "loki": yaml.safe_load((DEPLOY / "loki/loki.yaml").read_text()),
    }
    for uid, settings in ports.items():
        assert found[uid].endswith(f":{settings['server']['http_listen_port']}")
    assert {each["uid"] for each in config["datasources"] if each.get("isDefault")} == {"prometheus"}


@pytest.mark.skipif(HAPROXY is None and "CI" not in os.environ, reason="needs haproxy (Debian: apt-get install haproxy)")
@pytest.mark.parametrize("front", ["plain.cfg", "tls.cfg"])
def test_the_balancer_reads_its_files(front: str, tmp_path: Path) -> None:
    text = (DEPLOY / "haproxy" / front).read_text()
    if front == "tls.cfg":
        key = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=x"]
        subprocess.run(
            [*key, "-keyout", tmp_path / "edge.pem.key", "-out", tmp_path / "edge.pem"], check=True, capture_output=True
        )
        text = text.replace("/etc/certificates/edge.pem", str(tmp_path / "edge.pem"))
    (tmp_path / "front.cfg").write_text(text)
    assert HAPROXY is not None, "no haproxy; .ci/test-servers installs it"
    command = [HAPROXY, "-c", "-f", str(DEPLOY / "haproxy/edge.cfg"), "-f", str(tmp_path / "front.cfg")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all("could not resolve" in line for line in done.stderr.splitlines() if "WARNING" in line), done.stderr


def test_make_certificates_makes_what_brokers_and_services_trust(tmp_path: Path) -> None:
    script = tmp_path / "deploy/compose/make-certificates"
    script.parent.mkdir(parents=True)
    shutil.copy2(DEPLOY / "compose/make-certificates", script)
    for _ in range(2):
        subprocess.run([script], check=True, capture_output=True)
    made = tmp_path / "certificates"
    assert made.stat().st_mode & 0o077 == 0
    assert (made / "authority/key.pem").stat().st_mode & 0o077 == 0
    for node in ("nats-1", "nats-2", "nats-3"):
        assert {each.name for each in (made / node).iterdir()} == {"ca.pem", "cert.pem", "key.pem"}
        # the user of the container reads them
        assert all(each.stat().st_mode & 0o044 == 0o044 for each in (made / node).iterdir())
        assert (made / node).stat().st_mode & 0o055 == 0o055
        for purpose in ("sslserver", "sslclient"):
            subprocess.run(
                [
                    "openssl",
                    "verify",
                    "-purpose",
                    purpose,
                    "-verify_hostname",
                    node,
                    "-CAfile",
                    made / "ca/ca.pem",
                    made / node / "cert.pem",
                ],
                check=True,
                capture_output=True,
                env={"PATH": os.environ["PATH"]},
            )
