"""compose.yaml and its overrides fit our code: what they start exists, reads its settings, finds its files and reaches its neighbours.

No Docker is needed: the files are read as Docker reads them (tests/support/compose.py).
"""

from __future__ import annotations

import re
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import jsonschema
import pytest
import yaml

from penstock.command.cli import cli
from penstock.reference import SETTINGS
from shared.errors import ConfigError
from shared.reading.decode import read_text
from shared.reading.units import Duration
from shared.settings import ServiceSettings, read_settings
from tests.support import compose
from tests.support.compose import OVERRIDES, ROOT
from tests.support.compose_cases import ONCE, OURS, each_case, made, project, services

PUBLISHED = {"balancer", "grafana", "prometheus"}
"""The edge, and what an operator looks at."""
NO_SHELL = {"otel-collector", "tempo", "loki"}
"""Their images hold one program and nothing to ask it with."""


def mounts(service: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns source and target of what a service mounts."""
    return [(each.split(":")[0], each.split(":")[1]) for each in service.get("volumes", [])]


@each_case
def test_a_project_is_valid_by_the_schema_of_compose(case: tuple[Path, ...]) -> None:
    jsonschema.Draft202012Validator(compose.schema()).validate(project(case))


@pytest.mark.parametrize("path", OVERRIDES, ids=lambda path: path.stem)
def test_an_override_says_how_it_is_used_and_is_valid_alone(path: Path) -> None:
    assert f"-f compose.yaml -f deploy/compose/{path.name}" in path.read_text()
    assert path.name in (ROOT / "docs/compose.md").read_text()
    jsonschema.Draft202012Validator(compose.schema()).validate(compose.without_tags(compose.read(path)))


def test_overrides_that_do_not_contradict_each_other_can_be_combined() -> None:
    for pair in combinations(OVERRIDES, 2):
        jsonschema.Draft202012Validator(compose.schema()).validate(project(pair))


@each_case
def test_every_variable_has_a_default_or_is_made_or_is_told_of(case: tuple[Path, ...]) -> None:
    page = (ROOT / "docs/compose.md").read_text()
    for name, kinds in compose.variables(compose.combined(*case)).items():
        assert "-" in kinds or name in made() | {"PUBLIC_URL"}, name
        assert name in page or name in made(), f"docs/compose.md does not name {name}"


def test_make_env_makes_each_password_once_and_lets_nobody_else_read_them(tmp_path: Path) -> None:
    (tmp_path / "deploy/compose").mkdir(parents=True)
    script = tmp_path / "deploy/compose/make-env"
    script.write_bytes((ROOT / "deploy/compose/make-env").read_bytes())
    (tmp_path / ".env").touch(0o600)
    (tmp_path / ".env").write_text("POSTGRES_PASSWORD=\nS3_SECRET=mine\nEDGE_PORT=80")  # as an editor may leave it
    for _ in range(2):
        subprocess.run(["sh", script], check=True, capture_output=True)
    found = dict(line.split("=", 1) for line in (tmp_path / ".env").read_text().splitlines())
    assert found.keys() == made() | {"EDGE_PORT"}
    assert found["S3_SECRET"] == "mine"
    fresh = [found[name] for name in made() - {"S3_SECRET"}]
    assert len(set(fresh)) == len(fresh)
    assert all(re.fullmatch(r"p[0-9a-f]{40}", value) for value in fresh)
    (tmp_path / ".env").unlink()
    subprocess.run(["sh", script], check=True, capture_output=True)
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0


@each_case
def test_our_services_start_and_read_their_settings(case: tuple[Path, ...]) -> None:
    for name, service in services(case).items():
        if name not in OURS:
            continue
        python, option, module = service["command"]
        assert (python, option) == ("python", "-m")
        assert (ROOT / module / "__main__.py").exists()
        given = {key: str(value) for key, value in service["environment"].items()}
        known: set[str] = set()
        for title, prefix, settings in SETTINGS:
            if title in ("Every service", module) or prefix == "PENSTOCK_SECRETS_":
                read_settings(settings, prefix, given)  # refuses a value that is none
                known |= {prefix + field.upper() for field in settings.__struct_fields__}
        assert {key for key in given if key.startswith("PENSTOCK_")} <= known, name


@each_case
def test_the_health_check_asks_where_the_service_answers(case: tuple[Path, ...]) -> None:
    for name, service in services(case).items():
        check = service.get("healthcheck", {})
        if name in NO_SHELL | ONCE:
            assert check.get("disable", True), name
            continue
        assert check["test"][0] == "CMD", name
        assert {"interval", "timeout", "retries", "start_period"} <= check.keys(), name
        if name in OURS:
            assert check["test"][1:] == ["python", "-m", "penstock.probe"]
            settings = read_settings(ServiceSettings, "PENSTOCK_", service["environment"])
            assert settings.admin_port == 9464  # the page, the image and Prometheus name it


@each_case
def test_a_service_has_the_time_that_its_end_takes(case: tuple[Path, ...]) -> None:
    for name, service in services(case).items():
        if name in OURS:
            settings = read_settings(ServiceSettings, "PENSTOCK_", service["environment"])
            assert float(read_text(service["stop_grace_period"], Duration, name)) > float(settings.drain_period), name
        elif name.startswith("nats-"):
            handed_on = re.search(r'^lame_duck_duration: "(\d+)s"', (ROOT / "deploy/nats/server.conf").read_text(), re.MULTILINE)
            assert handed_on is not None
            assert service["stop_signal"] == "SIGUSR2"
            assert float(read_text(service["stop_grace_period"], Duration, name)) > float(handed_on[1]) + 10, name


@each_case
def test_services_wait_for_what_is_there_and_never_for_each_other(case: tuple[Path, ...]) -> None:
    found = services(case)
    waits = {name: service.get("depends_on", {}) for name, service in found.items()}
    for name, others in waits.items():
        for other, how in others.items():
            assert other in found, f"{name} waits for {other}"
            match how["condition"]:
                case "service_healthy":
                    assert "test" in found[other]["healthcheck"], f"{name} waits for the health of {other}"
                case "service_completed_successfully":
                    assert other in ONCE
                case _:
                    pytest.fail(how["condition"])
    left = dict(waits)
    while left:
        free = {name for name, others in left.items() if not others.keys() & left.keys()}
        assert free, f"a circle: {', '.join(left)}"
        left = {name: others for name, others in left.items() if name not in free}


@each_case
def test_every_mounted_file_is_there_and_every_volume_belongs_to_the_user_that_writes_it(case: tuple[Path, ...]) -> None:
    found, declared = services(case), project(case)["volumes"]
    owners = {
        place.removeprefix("/volumes/"): line.split()[1]
        for line in found["volumes"]["command"][-1].splitlines()
        for place in line.split()[2:]
    }
    assert owners.keys() == declared.keys() == dict(mounts(found["volumes"])).keys()
    for name, service in found.items():
        for source, target in mounts(service):
            if not source.startswith("."):
                assert source in declared, f"{name} mounts {source}"
                assert owners[source] == service["user"] or name == "volumes", f"{name} cannot write {source}"
            elif not source.startswith("./certificates/"):  # made by make-certificates
                assert (ROOT / source).exists(), f"{name} mounts {source}, which is not there"
                assert any(each.endswith(f"{target}:ro") for each in service["volumes"]), f"{name} may write {source}"


@each_case
def test_files_that_commands_name_are_mounted(case: tuple[Path, ...]) -> None:
    for name, service in services(case).items():
        places = {target: source for source, target in mounts(service) if source.startswith(".")}
        for path in re.findall(r"/etc/[\w./-]+", " ".join(str(each) for each in service.get("command", []))):
            held = [target for target in places if path == target or path.startswith(f"{target}/")]
            assert held, f"{name} reads {path}"
            assert (ROOT / places[held[0]] / path.removeprefix(held[0]).lstrip("/")).exists(), f"{name} reads {path}"


@each_case
def test_who_speaks_to_whom_shares_a_network(case: tuple[Path, ...]) -> None:
    found = services(case)
    for name, service in found.items():
        said = " ".join(compose.texts([service.get("environment", {}), service.get("command", [])]))
        for other in found:
            if other != name and re.search(rf"(?<=[/@,]){other}(?=:\d)", said):
                assert set(service["networks"]) & set(found[other]["networks"]), f"{name} cannot reach {other}"
    for config in ("otel/collector.yaml", "haproxy/edge.cfg", "grafana/provisioning/datasources/penstock.yaml"):
        reader = {"otel": "otel-collector", "haproxy": "balancer", "grafana": "grafana"}[config.split("/")[0]]
        for other in set(re.findall(r"(?<=[/ ])([a-z][a-z0-9-]+)(?=:\d{4})", (ROOT / "deploy" / config).read_text())):
            if other in found:
                assert set(found[reader]["networks"]) & set(found[other]["networks"]), f"{reader} cannot reach {other}"
            else:
                assert other == "ingest-2", f"{config} names {other}"  # which one-node.yaml leaves out


@each_case
def test_prometheus_finds_each_service_by_its_name(case: tuple[Path, ...]) -> None:
    watched = {name for name, service in services(case).items() if "watch" in service.get("networks", [])}
    jobs = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"]
    looked_up = {name for job in jobs for each in job.get("dns_sd_configs", []) for name in each["names"]}
    assert looked_up & services(case).keys() == OURS & watched == OURS & services(case).keys()
    assert case or looked_up == OURS
    assert {each["port"] for job in jobs for each in job.get("dns_sd_configs", [])} == {9464}


@each_case
def test_the_edge_believes_the_balancer_alone(case: tuple[Path, ...]) -> None:
    found = services(case)
    subnet = project(case)["networks"]["edge"]["ipam"]["config"][0]["subnet"]
    for name in found.keys() & {"ingest-1", "ingest-2"}:
        assert found[name]["environment"]["PENSTOCK_INGEST_TRUSTED_PROXIES"] == subnet
    assert {name for name, each in found.items() if "edge" in each.get("networks", [])} <= {
        "balancer",
        "ingest-1",
        "ingest-2",
        "penstock",
    }


@each_case
def test_only_the_edge_and_what_an_operator_looks_at_are_published(case: tuple[Path, ...]) -> None:
    found = services(case)
    published = {name: each["ports"] for name, each in found.items() if "ports" in each}
    assert published.keys() == PUBLISHED
    for name, ports in published.items():
        assert len(ports) == 1
        assert name == "balancer" or ports[0].startswith("127.0.0.1:"), name
        assert not ports[0].endswith(":8222"), "the brokers' monitor asks for no password"
        assert "front" in found[name]["networks"]
    networks = project(case)["networks"]
    assert {name for name, each in networks.items() if not each.get("internal")} == {"front", "out"}


@each_case
def test_every_service_has_the_least_rights_and_a_bound(case: tuple[Path, ...]) -> None:
    for name, service in services(case).items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service.get("cap_add", []) == (["CHOWN"] if name == "volumes" else []), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        uid = service["user"].split(":")[0]
        assert uid.isdigit(), name
        assert (uid == "0") == (name == "volumes"), name
        assert not {"privileged", "pid", "ipc", "devices", "cgroup"} & service.keys(), name
        assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}, name
        # Docker refuses more than the machine has, and the page asks for two
        assert float(service["deploy"]["resources"]["limits"]["cpus"]) <= 2, name
        assert service["restart"] == (
            "no" if name in ("volumes", "penstock") else "on-failure:5" if name == "bucket" else "unless-stopped"
        ), name
        assert "/var/run/docker.sock" not in str(service)
        if name != "volumes":
            assert service["networks"], name


@each_case
def test_each_service_is_a_user_of_the_broker(case: tuple[Path, ...]) -> None:
    found = services(case)
    text = (ROOT / "deploy/nats/users.conf").read_text()
    users = dict(re.findall(r"user: (\w+),?\s+password: \$(\w+)", text))
    raw = compose.combined(*case)["services"]
    for name in (OURS | {"penstock"}) & found.keys():
        first = raw[name]["environment"]["PENSTOCK_NATS_URL"].split(",")[0]
        match = re.fullmatch(r"(?:nats|tls)://(\w+):\$\{(\w+)\}@nats-1:4222", first)
        assert match is not None, first
        assert match[1] == {"penstock": "command"}.get(name, name.removesuffix("-1").removesuffix("-2").replace("-", "_"))
        given = raw["nats-1"]["environment"][users[match[1]]]
        assert given.startswith(f"${{{match[2]}:"), f"{name} and the broker have different passwords"
        hosts = [urlsplit(one).hostname for one in found[name]["environment"]["PENSTOCK_NATS_URL"].split(",")]
        assert hosts == sorted(each for each in found if each.startswith("nats-"))


@each_case
def test_streams_have_a_copy_on_each_broker(case: tuple[Path, ...]) -> None:
    found = services(case)
    brokers = [name for name in found if name.startswith("nats-")]
    for name in OURS & found.keys():
        assert found[name]["environment"]["PENSTOCK_REPLICAS"] == str(len(brokers)), name


@each_case
def test_the_broker_has_every_variable_that_its_files_read(case: tuple[Path, ...]) -> None:
    for name, service in services(case).items():
        if not name.startswith("nats-"):
            continue
        read, left = set[str](), [Path(service["command"][-1]).name]
        while left:
            text = re.sub(r"#.*", "", (ROOT / "deploy/nats" / left.pop()).read_text())
            read |= set(re.findall(r"\$([A-Z][A-Z_0-9]+)", text)) - {"JS", "KV"}
            left += re.findall(r"include\s+['\"]?\./([\w.]+)", text)
        given = {key for key in service["environment"] if key.startswith("PENSTOCK_")}
        assert read <= given, f"{name} lacks {read - given}"
        clustered = service["command"][-1].endswith(("node.conf", "node_tls.conf"))
        assert given <= read or not clustered, f"{name} has {given - read} for nothing"
        assert service["environment"]["PENSTOCK_NATS_SYNC"] == "always"


@each_case
def test_the_command_is_ours_and_has_what_the_example_needs(case: tuple[Path, ...]) -> None:
    service = services(case)["penstock"]
    assert service["command"][0] in cli.list_commands(click.Context(cli))
    assert service["entrypoint"][-1] == "penstock"
    example = (ROOT / "examples/cluster/penstock.yaml").read_text()
    assert set(re.findall(r"\$\{(\w+)\}", example)) <= service["environment"].keys()


def test_a_setting_that_is_no_value_is_found() -> None:
    with pytest.raises(ConfigError, match="PENSTOCK_REPLICAS"):
        read_settings(ServiceSettings, "PENSTOCK_", {"PENSTOCK_REPLICAS": "nine"})
