"""What deploy/ holds, read by the code of Helm, Kubernetes, Compose and Prometheus."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.main import get_command

from tests.test_deploy import COMPOSE, DEPLOY, SCRAPED, panels
from tests.test_deploy import given as given
from tomodex.cli import app
from tomodex.settings import load_settings

pytestmark = pytest.mark.server

HERE = Path(__file__).parent / "deploy"
CHART = DEPLOY / "helm/tomodex"
VALUES = sorted((CHART / "ci").glob("*.yaml"))
COMMANDS = get_command(app).commands

Object = Mapping[str, Any]


@pytest.fixture(scope="module")
def tools() -> Path:
    """The folder that install.sh has put them into."""
    made_of = b"".join((HERE / name).read_bytes() for name in ("main.go", "go.sum"))
    servers = Path(os.environ.get("TOMODEX_SERVERS") or Path.home() / ".cache/tomodex-servers")
    return servers / f"deploycheck-{sha256(made_of).hexdigest()[:12]}"


def asked(tools: Path, *args: str | Path, typed: str = "") -> subprocess.CompletedProcess[str]:
    command = [str(tools / "deploycheck"), *map(str, args)]
    return subprocess.run(command, input=typed, capture_output=True, text=True, check=False)


def answered(tools: Path, *args: str | Path, typed: str = "") -> Any:
    done = asked(tools, *args, typed=typed)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# --- Kubernetes ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def manifests(tools) -> Sequence[tuple[str, Object]]:
    """Every object of the chart, by which values it came of; decoded strictly."""
    said = answered(tools, "chart", CHART, *VALUES)
    return [(Path(one["values"]).stem, one["object"]) for one in said]


def of_kind(manifests, kind: str, values: str = "") -> Iterator[Object]:
    return (o for v, o in manifests if o["kind"] == kind and values in ("", v))


def pods(manifests) -> Iterator[tuple[str, Object]]:
    for values, one in manifests:
        if one["kind"] in ("StatefulSet", "Deployment"):
            yield f"{values} {one['metadata']['name']}", one["spec"]["template"]["spec"]


def test_each_values_file_makes_what_it_names(manifests):
    made = {values: [o["kind"] for v, o in manifests if v == values] for values, _ in manifests}
    assert made["one-machine"].count("StatefulSet") == 1
    assert "Deployment" not in made["one-machine"]
    assert made["cluster"].count("Deployment") == 2
    assert {"ScaledObject", "ServiceMonitor", "PrometheusRule", "Ingress"} <= set(made["cluster"])
    assert "HorizontalPodAutoscaler" in made["cpu-workers"]
    assert "NetworkPolicy" not in made["cpu-workers"]


def test_no_container_may_do_more_than_it_has_to(manifests):
    """As the Pod Security Standard `restricted` asks for."""
    for name, pod in pods(manifests):
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            security = container["securityContext"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["readOnlyRootFilesystem"]
            assert security["allowPrivilegeEscalation"] is False


def test_every_container_has_limits_and_is_watched(manifests):
    for name, pod in pods(manifests):
        for container in pod["containers"]:
            assert {"requests", "limits"} <= container["resources"].keys(), name
            assert {"livenessProbe", "startupProbe"} <= container.keys(), name


def test_what_containers_and_probes_run_are_commands_with_options_that_they_have(manifests):
    for _, pod in pods(manifests):
        for container in pod["containers"]:
            probes = (container[probe] for probe in container if probe.endswith("Probe"))
            asked = [p["exec"]["command"][1:] for p in probes if "exec" in p]
            for command, *words in [container["args"], *asked]:
                options = {option for param in COMMANDS[command].params for option in param.opts}
                assert {word for word in words if word.startswith("--")} <= options


def test_every_volume_that_is_mounted_is_there(manifests):
    claimed = {
        f"{values} {one['metadata']['name']}": {
            claim["metadata"]["name"] for claim in one["spec"].get("volumeClaimTemplates", ())
        }
        for values, one in manifests
        if one["kind"] in ("StatefulSet", "Deployment")
    }
    for name, pod in pods(manifests):
        there = {volume["name"] for volume in pod["volumes"]} | claimed[name]
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == there, name


def test_services_and_budgets_find_the_pods_that_they_are_for(manifests):
    for values in {values for values, _ in manifests}:
        kinds = [
            *of_kind(manifests, "StatefulSet", values),
            *of_kind(manifests, "Deployment", values),
        ]
        labels = [one["spec"]["template"]["metadata"]["labels"].items() for one in kinds]
        services = of_kind(manifests, "Service", values)
        budgets = of_kind(manifests, "PodDisruptionBudget", values)
        wanted = [one["spec"]["selector"] for one in services]
        wanted += [one["spec"]["selector"]["matchLabels"] for one in budgets]
        for selector in wanted:
            assert sum(selector.items() <= one for one in labels) == 1


def test_settings_in_a_config_map_are_settings(manifests, tmp_path, monkeypatch):
    maps = [one["data"] for one in of_kind(manifests, "ConfigMap")]
    texts = [text for data in maps for name, text in data.items() if name.endswith(".toml")]
    assert len(texts) == 5
    for text in texts:
        (tmp_path / "tomodex.toml").write_text(text)
        monkeypatch.setenv("TOMODEX_CONFIG", str(tmp_path / "tomodex.toml"))
        load_settings()


def test_workers_look_for_nothing_deliver_nothing_and_finish_what_they_hold(manifests):
    (maps,) = (
        o["data"] for o in of_kind(manifests, "ConfigMap", "cluster") if "worker.toml" in o["data"]
    )
    worker = tomllib.loads(maps["worker.toml"])
    assert (worker["daily_at"], worker["delivery"], worker["finish_s"]) == ("", "apart", 270)
    assert not {"serve", "access", "receive"} & worker.keys()
    assert worker["avoid"] == ["bucket", "disk", "spool:///data/spool"]
    pod = dict(pods(manifests))["cluster test-tomodex-worker"]
    assert pod["terminationGracePeriodSeconds"] > worker["finish_s"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"


REFUSED = {
    "others can reach `serve`": {"settings": {}},
    "need a queue that pods share": {"workers": {"replicas": 1}},
    "need the same key": {
        "settings": {"queue": "kafka://kafka:9092/tomodex"},
        "workers": {"replicas": 1},
    },
    "needs an index that pods share": {
        "settings": {"queue": "kafka://kafka:9092/tomodex"},
        "pseudonymKey": {"secret": "key"},
        "deliver": {"enabled": True},
    },
    "additional properties 'wrkers' not allowed": {"wrkers": {"replicas": 1}},
    "'/settings/data'": {"settings": {"data": "/elsewhere"}},
    "'/workers/scaling/by'": {"workers": {"scaling": {"by": "magic"}}},
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_could_not_work_is_refused_before_it_is_there(sentence, tools, tmp_path):
    given = REFUSED[sentence]
    if not sentence.startswith("others"):
        settings = {"serve": {"token": "file:/x"}} | given.get("settings", {})
        given = given | {"settings": settings}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(given))
    refused = asked(tools, "chart", CHART, tmp_path / "values.yaml")
    assert refused.returncode == 1
    assert sentence in refused.stderr


def test_the_scaled_object_is_as_keda_has_it(manifests, tools):
    (scaled,) = of_kind(manifests, "ScaledObject")
    definition = yaml.safe_load((tools / "keda.sh_scaledobjects.yaml").read_text())
    schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    jsonschema.validate(scaled, strict(schema))
    misspelt = scaled | {"spec": scaled["spec"] | {"minReplicas": 1}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(misspelt, strict(schema))


def strict(schema: Any) -> Any:
    """The schema, refusing members that it does not name, as Kubernetes' strict decoding does."""
    if not isinstance(schema, dict):
        return schema
    said = {name: strict(part) for name, part in schema.items() if name != "properties"}
    if "properties" in schema:
        said["properties"] = {name: strict(part) for name, part in schema["properties"].items()}
        said["additionalProperties"] = False
    return said


# --- Compose ------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", COMPOSE, ids=lambda file: file.name)
def test_compose_reads_the_file_and_our_containers_are_confined(file, tools):
    services = answered(tools, "compose", file)["services"]
    ours = [one for one in services.values() if one["image"].startswith("tomodex:")]
    assert ours
    for one in ours:
        assert one["read_only"]
        assert one["cap_drop"] == ["ALL"]
        places = {volume["target"] for volume in one["volumes"]}
        assert {"/data", "/tmp"} <= places
        assert "healthcheck" in one
    assert all("mem_limit" in one for name, one in services.items() if name != "prepare")


# --- Prometheus ---------------------------------------------------------------------------------


def test_prometheus_takes_the_alerts(tools):
    selected = answered(tools, "alerts", DEPLOY / "prometheus/alerts.yml")
    assert len({one["expression"] for one in selected}) > 8


def test_what_prometheus_reads_in_each_expression_is_there(tools, given):
    lines = [target["expr"] for panel in panels() for target in panel.get("targets", ())]
    typed = "\n".join(line.replace("$__rate_interval", "5m") for line in lines)
    selected = answered(tools, "select", typed=typed)
    selected += answered(tools, "alerts", DEPLOY / "prometheus/alerts.yml")
    assert len({one["expression"] for one in selected}) > len(set(lines))
    for one in selected:
        assert one["metric"] in given
        assert set(one["labels"]) <= given[one["metric"]] | SCRAPED


def test_an_alert_that_prometheus_would_not_take_is_found(tools, tmp_path):
    rule = {"alert": "A", "expr": "sum by (x (tomodex_series)"}
    groups = {"groups": [{"name": "a", "rules": [rule]}]}
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(groups))
    assert asked(tools, "alerts", tmp_path / "alerts.yml").returncode == 1
