"""What deploy/ names exists: settings, commands, metrics with their labels, versions.

With the tools that read these files in earnest it is tested in tests/servers/test_deploy.py.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from typer.main import get_command

from tests.annotated import ONE
from tests.contracts.queue import new, settle_next
from tomodex.cli import app
from tomodex.queues import Rejected, open_queue
from tomodex.search import Totals
from tomodex.settings import load_settings
from tomodex.sources.gate import Suspension
from tomodex.web.metrics import Metrics

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMMANDS = get_command(app).commands
COMPOSE = sorted((DEPLOY / "compose").glob("*.yml"))

#: What Prometheus adds by itself to whatever it scrapes.
SCRAPED = {"instance", "job"}
METRIC = re.compile(r"\b((?:tomodex|process)_[a-z_]+|up)\b(?:{([^}]*)})?")
GROUPED = re.compile(r"\b(?:by|on) \(([^)]*)\)")


# --- metrics ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Mapping[str, set[str]]:
    """The labels of every sample that /metrics gives once something of everything has happened."""
    queue = open_queue(f"sqlite://{tmp_path_factory.mktemp('queue') / 'queue.db'}")
    queue.put([new(str(n), "daily") for n in range(4)])
    timed = replace(ONE.provenance, stage_seconds={"segment": 1.0})
    settle_next(queue, replace(ONE, provenance=timed))
    settle_next(queue, Rejected(reason="few_slices", sentence="has 2 slices"))
    queue.lease("worker", timedelta(hours=1))
    until = datetime.now(UTC) + timedelta(minutes=5)
    suspension = Suspension(source="dimse://pacs", until=until, sentence="no answer")
    totals = Totals(series=1, studies=1, patients=1, segmented=1, waiting=0, newest=None)
    metrics = Metrics(queue, ("ndjson:///out",), lambda: [suspension], lambda: totals)
    metrics.observe("GET", "/v1/live", 200, 0.01)
    text, _ = metrics.written("")
    found: dict[str, set[str]] = {"up": set()}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def panels() -> Iterator[dict]:
    yield from json.loads((DEPLOY / "grafana/tomodex.json").read_text())["panels"]


def expressions() -> Iterator[str]:
    for panel in panels():
        yield from (target["expr"] for target in panel.get("targets", ()))
    for group in yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_dashboard_and_alerts_ask_for_metrics_that_there_are_by_labels_that_they_have(
    expression, given
):
    asked = METRIC.findall(expression)
    assert asked
    for name, matchers in asked:
        assert name in given
        labels = set(re.findall(r"(\w+)\s*[=!]~?", matchers))
        assert labels - given[name] - SCRAPED == set()
    for names in GROUPED.findall(expression):
        grouped = {name.strip() for name in names.split(",")}
        assert grouped - set.union(*(given[name] for name, _ in asked)) - SCRAPED == set()


def test_every_metric_of_ours_stands_in_the_dashboard(given):
    shown = " ".join(target["expr"] for panel in panels() for target in panel.get("targets", ()))
    ours = {name for name in given if name.startswith("tomodex_") and not name.endswith("_created")}
    histograms = {"tomodex_http_request_seconds_sum", "tomodex_http_request_seconds_count"}
    assert sorted(name for name in ours - histograms if name not in shown) == []


def test_panels_of_the_dashboard_lie_beside_each_other_and_have_one_number_each():
    numbers = [panel["id"] for panel in panels()]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {
            (place["x"] + column, place["y"] + line)
            for column in range(place["w"])
            for line in range(place["h"])
        }
        assert not cells & taken
        taken |= cells


def test_every_alert_says_what_it_means_and_how_grave_it_is():
    (group,) = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description"}


# --- commands and settings ----------------------------------------------------------------------


def commands() -> Iterator[tuple[str, list[str]]]:
    """What is run, by where that stands."""
    for unit in sorted((DEPLOY / "systemd").glob("*.service")):
        (line,) = re.findall(r"^ExecStart=/opt/tomodex/bin/tomodex (.*)$", unit.read_text(), re.M)
        yield unit.name, line.split()
    for file in COMPOSE:
        for name, service in yaml.safe_load(file.read_text())["services"].items():
            if "tomodex" in service.get("image", ""):
                checked = service.get("healthcheck", {}).get("test", ["CMD", "tomodex", "run"])
                yield f"{file.name}: {name}", service.get("command", ["run"])
                yield f"{file.name}: {name} is well", checked[2:]


@pytest.mark.parametrize(("place", "command"), list(commands()))
def test_every_command_that_is_run_is_one_with_options_that_it_has(place, command):
    known = COMMANDS[command[0]]
    options = {option for param in known.params for option in param.opts}
    assert {word for word in command if word.startswith("--")} <= options


@pytest.mark.parametrize("file", sorted((DEPLOY / "compose").glob("*.toml")), ids=lambda f: f.name)
def test_settings_of_the_compose_files_are_settings(file, monkeypatch):
    monkeypatch.setenv("TOMODEX_CONFIG", str(file))
    settings = load_settings()
    assert settings.serve.host == "127.0.0.1" or settings.access.tokens


def test_a_worker_of_the_compose_file_knows_the_places_that_the_others_know():
    ours, worker = (
        tomllib.loads((DEPLOY / "compose" / name).read_text())
        for name in ("cluster.toml", "worker.toml")
    )
    same = ("queue", "index", "sinks", "segmenters", "sources", "pseudonym_key_file")
    assert {name: worker[name] for name in same} == {name: ours[name] for name in same}


@pytest.mark.parametrize("file", COMPOSE, ids=lambda file: file.name)
def test_containers_are_reached_from_this_machine_alone(file):
    for service in yaml.safe_load(file.read_text())["services"].values():
        for port in service.get("ports", ()):
            assert re.sub(r"\$\{\w+:-(.*?)\}", r"\1", port).startswith("127.0.0.1:")


@pytest.mark.parametrize("file", COMPOSE, ids=lambda file: file.name)
def test_every_secret_of_a_compose_file_is_made_by_the_script(file):
    made = (DEPLOY / "compose/make-secrets.sh").read_text()
    for secret in yaml.safe_load(file.read_text())["secrets"].values():
        assert Path(secret["file"]).name in made


# --- versions -----------------------------------------------------------------------------------


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text()
    return dict(re.findall(r"^([a-z0-9_.-]+)(?:\[[^]]*\])?==(\S+)", lines, re.M))


@pytest.mark.parametrize("name", ["image.txt", "image-gpu.txt"])
def test_an_image_has_the_libraries_that_are_tested(name):
    image, tested = pins(name), pins("base.txt") | pins("dev.txt")
    assert pins("base.txt").items() <= image.items()
    assert {lib for lib in image.keys() & tested.keys() if image[lib] != tested[lib]} == set()
    assert {"confluent-kafka", "boto3", "opensearch-py", "pyjwt", "nibabel"} <= image.keys()
    assert ("torch" in image) == (name == "image-gpu.txt")


def test_chart_and_image_have_the_version_of_the_package():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((DEPLOY / "helm/tomodex/Chart.yaml").read_text())
    assert chart["appVersion"] == version
    assert f"ARG VERSION={version}\n" in (DEPLOY / "Dockerfile").read_text()
    for file in COMPOSE:
        assert f"tomodex:{version}}}" in file.read_text()


@pytest.mark.parametrize("file", COMPOSE, ids=lambda file: file.name)
def test_no_image_is_whatever_is_newest(file):
    for service in yaml.safe_load(file.read_text())["services"].values():
        tag = service["image"].rpartition(":")[2]
        assert re.match(r"v?\d+\.\d+", tag)


def test_the_image_is_made_of_what_is_sent_to_its_builder():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY ((?!--from)[^\n]+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.M)
    for path in " ".join(copied).split():
        assert (ROOT / path).exists()
        assert f"!{path}" in ignored or f"!{path.split('/')[0]}/" in ignored
