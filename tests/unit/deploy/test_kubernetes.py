"""The manifests of deploy/kubernetes are valid, fit our code, and say the same as compose.yaml."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from functools import cache
from typing import Any

import jsonschema
import pytest
import yaml

from penstock.reference import SETTINGS
from shared.reading.decode import read_text
from shared.reading.units import Duration
from shared.settings import ServiceSettings, read_settings
from shared.telemetry.declared import METRICS
from tests.support.compose import ROOT, combined
from tests.support.dockerfile import read_dockerfile

FOLDER = ROOT / "deploy/kubernetes"
SCHEMA: dict[str, Any] = json.loads((ROOT / "tests/support/schemas/kubernetes.json").read_text())
KUBECTL = shutil.which("kubectl")


@cache
def manifests() -> tuple[dict[str, Any], ...]:
    return tuple(
        document
        for file in sorted(FOLDER.glob("*.yaml"))
        for document in yaml.safe_load_all(file.read_text())
        if "kind" in document
    )


def validate(manifest: dict[str, Any]) -> None:
    schema = {"$ref": f"#/$defs/{SCHEMA['kinds'][manifest['kind']]}", "$defs": SCHEMA["$defs"]}
    jsonschema.Draft202012Validator(schema).validate(manifest)


def workloads() -> dict[str, dict[str, Any]]:
    """Returns the pod of each workload by its name."""
    found = {}
    for each in manifests():
        if each["kind"] in ("Deployment", "StatefulSet"):
            found[each["metadata"]["name"]] = each["spec"]["template"]["spec"]
        elif each["kind"] == "Pod":
            found[each["metadata"]["name"]] = each["spec"]
    return found


def services() -> dict[str, dict[str, Any]]:
    return {name: pod for name, pod in workloads().items() if name not in ("nats", "command")}


def environment(pod: dict[str, Any]) -> dict[str, str]:
    """Returns the environment of a pod's container, with secrets as a word and `$(NAME)` put in, as the kubelet does."""
    container = pod["containers"][0]
    settings = next(each["data"] for each in manifests() if each["kind"] == "ConfigMap")
    found: dict[str, str] = dict(settings) if any("configMapRef" in each for each in container.get("envFrom", [])) else {}
    for each in container["env"]:
        text = each.get("value", "p1" if "secretKeyRef" in each.get("valueFrom", {}) else "name")
        found[each["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], text)
    return found


@pytest.mark.parametrize("manifest", manifests(), ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
def test_a_manifest_is_valid_by_the_schema_of_kubernetes(manifest: dict[str, Any]) -> None:
    validate(manifest)


def test_the_schema_finds_a_mistake() -> None:
    broken = json.loads(json.dumps(next(each for each in manifests() if each["kind"] == "StatefulSet")))
    broken["spec"]["template"]["spec"]["terminationGracePeriod"] = 1
    with pytest.raises(jsonschema.ValidationError, match="terminationGracePeriod"):
        validate(broken)


def test_every_manifest_is_part_of_the_kustomization() -> None:
    text = yaml.safe_load((ROOT / "deploy/kustomization.yaml").read_text())
    apart = {"command.yaml", "adapter-rules.yaml"}
    assert {f"kubernetes/{file.name}" for file in FOLDER.glob("*.yaml") if file.name not in apart} == set(text["resources"])
    for generated in text["configMapGenerator"]:
        for file in generated["files"]:
            assert (ROOT / "deploy" / file).exists(), file


@pytest.mark.skipif(KUBECTL is None and "CI" not in os.environ, reason="needs kubectl")
def test_the_kustomization_is_rendered_into_valid_manifests() -> None:
    assert KUBECTL is not None, "no kubectl, which has kustomize"
    done = subprocess.run([KUBECTL, "kustomize", ROOT / "deploy"], check=True, capture_output=True, text=True)
    rendered = list(yaml.safe_load_all(done.stdout))
    assert len(rendered) >= len(manifests())  # the pod of the command is apart, the brokers' files are added
    for each in rendered:
        validate(each)
    config = next(each for each in rendered if each["kind"] == "ConfigMap" and each["metadata"]["name"].startswith("nats-"))
    assert {"node.conf", "server.conf", "cluster.conf", "users.conf"} <= config["data"].keys()


@pytest.mark.parametrize("name", sorted(services()))
def test_a_service_starts_reads_its_settings_and_is_asked_where_it_answers(name: str) -> None:
    pod = services()[name]
    container = pod["containers"][0]
    module = container["args"][2]
    assert container["args"] == ["python", "-m", module]
    assert (ROOT / module / "__main__.py").exists()
    given = environment(pod)
    known: set[str] = set()
    for title, prefix, settings in SETTINGS:
        if title in ("Every service", module) or prefix == "PENSTOCK_SECRETS_":
            read_settings(settings, prefix, given)
            known |= {prefix + field.upper() for field in settings.__struct_fields__}
    assert {key for key in given if key.startswith("PENSTOCK_")} <= known
    settings_ = read_settings(ServiceSettings, "PENSTOCK_", given)
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports["admin"] == settings_.admin_port
    assert settings_.replicas == 3
    assert container["livenessProbe"]["httpGet"] == container["startupProbe"]["httpGet"] == {"path": "/live", "port": "admin"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/ready", "port": "admin"}
    assert pod["terminationGracePeriodSeconds"] > float(settings_.drain_period)


@pytest.mark.parametrize("name", sorted(services()))
def test_a_service_runs_as_in_compose(name: str) -> None:
    pod = services()[name]
    ours = combined()["services"]
    twin = ours.get(name) or ours[f"{name}-1"]
    assert pod["containers"][0]["args"] == twin["command"]
    given, wanted = environment(pod), twin["environment"]
    addresses = {"PENSTOCK_NATS_URL", "PENSTOCK_ROUTER_NATS_MONITOR", "PENSTOCK_INGEST_TRUSTED_PROXIES"}
    for key in given.keys() & wanted.keys() - addresses:
        default = re.sub(r"\$\{\w+:-(.*)\}", r"\1", str(wanted[key]))
        assert given[key] == default, key
    user = given["PENSTOCK_NATS_URL"].split("//")[1].split(":")[0]
    assert str(wanted["PENSTOCK_NATS_URL"]).startswith(f"nats://{user}:")
    grace = read_text(twin["stop_grace_period"], Duration, name)
    assert pod["terminationGracePeriodSeconds"] >= float(grace)


def test_images_are_those_of_compose() -> None:
    found = {pod["containers"][0]["image"] for pod in workloads().values()}
    ours = combined()["services"]
    assert found == {ours["nats-1"]["image"], re.sub(r"\$\{\w+:-(.*)\}", r"\1", ours["router"]["image"])}


def test_brokers_get_what_those_of_compose_get_and_name_each_other() -> None:
    pod, twin = workloads()["nats"], combined()["services"]["nats-1"]
    given = environment(pod)
    assert {key for key in given if key.startswith("PENSTOCK_")} == {
        key for key in twin["environment"] if key.startswith("PENSTOCK_")
    }
    for key in ("SYNC", "LISTEN", "MONITOR", "CLUSTER_LISTEN", "STORE"):
        assert given[f"PENSTOCK_NATS_{key}"] == twin["environment"][f"PENSTOCK_NATS_{key}"]
    stateful = next(each for each in manifests() if each["kind"] == "StatefulSet" and each["metadata"]["name"] == "nats")
    nodes = [f"nats-{number}.{stateful['spec']['serviceName']}" for number in range(stateful["spec"]["replicas"])]
    assert re.findall(r"@([\w.-]+):6222", given["PENSTOCK_NATS_ROUTES"]) == nodes
    for other in (*services().values(), workloads()["command"]):
        assert re.findall(r"([\w.-]+):4222", environment(other)["PENSTOCK_NATS_URL"]) == nodes
    assert pod["terminationGracePeriodSeconds"] >= float(read_text(twin["stop_grace_period"], Duration, "nats"))
    budget = next(each for each in manifests() if each["kind"] == "PodDisruptionBudget" and each["metadata"]["name"] == "nats")
    assert budget["spec"]["maxUnavailable"] == 1  # two of three are a majority


def test_every_password_is_made() -> None:
    made = set(re.findall(r"\b[A-Z0-9_]+_(?:PASSWORD|ID|SECRET)\b", (ROOT / "deploy/compose/make-env").read_text()))
    asked = [
        each["valueFrom"]["secretKeyRef"]
        for pod in workloads().values()
        for each in pod["containers"][0]["env"]
        if "secretKeyRef" in each.get("valueFrom", {})
    ]
    assert {each["name"] for each in asked} == {"penstock"}
    assert {each["key"] for each in asked} <= made


@pytest.mark.parametrize("name", sorted(workloads()))
def test_a_pod_keeps_to_the_restricted_standard(name: str) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted."""
    pod = workloads()[name]
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False  # the namespace's other services are no business of ours
    rights = pod["securityContext"]
    assert rights["runAsNonRoot"] is True
    assert rights["seccompProfile"] == {"type": "RuntimeDefault"}
    user = [step.rest for step in read_dockerfile((ROOT / "Dockerfile").read_text()) if step.word == "USER"][-1]
    assert f"{rights['runAsUser']}:{rights['runAsGroup']}" == user
    assert rights["fsGroup"] == rights["runAsGroup"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    for container in pod["containers"]:
        own = container["securityContext"]
        assert own == {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        assert "memory" in container["resources"]["limits"]
        assert {"cpu", "memory"} == container["resources"]["requests"].keys()
        held = {each["name"] for each in pod.get("volumes", [])} | {"state", "data"}
        assert {each["name"] for each in container["volumeMounts"]} <= held
    assert all("hostPath" not in each for each in pod.get("volumes", []))


def test_what_scales_is_there_and_scales_by_numbers_that_are_measured() -> None:
    kinds = {each["metadata"]["name"]: each["kind"] for each in manifests() if each["kind"] in ("Deployment", "StatefulSet")}
    rules = yaml.safe_load((FOLDER / "adapter-rules.yaml").read_text())["rules"]["external"]
    made = {each["name"]["as"]: each for each in rules}
    scaled, asked = set[str](), set[str]()
    for each in manifests():
        if each["kind"] == "HorizontalPodAutoscaler":
            target = each["spec"]["scaleTargetRef"]
            assert kinds[target["name"]] == target["kind"]
            assert 2 <= each["spec"]["minReplicas"] < each["spec"]["maxReplicas"]
            scaled.add(target["name"])
            asked |= {metric["external"]["metric"]["name"] for metric in each["spec"]["metrics"] if metric["type"] == "External"}
    assert scaled == services().keys()
    assert asked == made.keys()
    declared = {each.name: set(each.labels) for each in METRICS}
    for rule in rules:
        name = re.split(r"[{ ]", rule["seriesQuery"])[0]
        assert name in declared
        by = re.search(r"by \(([\w, ]+)\)", rule["metricsQuery"])
        assert by is not None
        assert set(by[1].split(", ")) <= declared[name]
        assert name in rule["metricsQuery"]


def test_a_budget_and_a_policy_select_what_is_there() -> None:
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in manifests() if "template" in each.get("spec", {})]
    budgets = 0
    for each in manifests():
        if each["kind"] == "PodDisruptionBudget":
            wanted = each["spec"]["selector"]["matchLabels"].items()
            assert any(wanted <= found.items() for found in labels), each["metadata"]["name"]
            budgets += 1
        if each["kind"] == "NetworkPolicy" and "matchExpressions" in each["spec"]["podSelector"]:
            key = each["spec"]["podSelector"]["matchExpressions"][0]["key"]
            assert sum(key in found for found in labels) == len(services())
    assert budgets == len(labels)
