from __future__ import annotations

import shlex
from dataclasses import replace

import pytest
from pydantic import TypeAdapter
from rich.table import Table

from tomodex import demo
from tomodex.phantom import Truth
from tomodex.settings import Settings
from tomodex.wiring import queue_of


def read_truth(path):
    return TypeAdapter(Truth).validate_json(path.read_bytes())


def silent(title):
    return lambda done, total: None


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    settings = Settings(data=folder / "data", workers=2)
    return folder, settings, demo.run_demo(folder, settings, silent)


def test_every_answer_is_what_is_known_of_the_phantoms(ran):
    _, _, report = ran
    assert report.right
    text = "\n".join(line for line in report.lines if isinstance(line, str))
    assert text.count("(as known)") == len(demo.QUESTIONS) == 3
    assert any(isinstance(line, Table) for line in report.lines)


def test_it_says_as_many_are_rejected_as_the_status_does(ran):
    _, settings, report = ran
    counts = queue_of(settings).count()
    rejected = sum(many for (_, status), many in counts.items() if status == "rejected")
    assert f"`status` says {rejected}:" in str(report.lines[1])


def test_who_saw_the_demo_is_told_how_to_go_on_there_in_words_that_a_shell_takes(tmp_path):
    ask, browse = demo._what_next(tmp_path / "a demo" / "data", "my venv/bin/tomodex")
    words = ["my venv/bin/tomodex", "--data", str(tmp_path / "a demo" / "data")]
    assert shlex.split(ask.partition(": ")[2]) == [*words, "search", "covers T12..L5"]
    assert shlex.split(browse.partition(": ")[2]) == [*words, "serve"]


def test_every_structure_is_found_by_the_phantom_model_and_none_read_from_a_stored_object(ran):
    folder, settings, _ = ran
    wanted = [t for t in map(read_truth, folder.rglob("truth.json")) if t.verdict == "wanted"]
    assert len(wanted) == 11
    for truth in wanted:
        result = queue_of(settings).result(truth.series_uid).annotated
        assert result.provenance.algorithm.name == "Tomodex phantom model"
        assert result.provenance.algorithm.segmentation_uids == ()
        found = {annotation.structure for annotation in result.annotations}
        large = {name for name, one in truth.structures.items() if one.volume_ml > 5}
        assert large <= found


def test_a_wrong_answer_would_be_noticed(ran):
    """Or the demo could not fail."""
    folder, settings, _ = ran
    truths = [read_truth(path) for path in folder.rglob("truth.json")]
    lines, right = demo.ask(demo.QUESTIONS[0], truths, settings)
    assert right
    lines, right = demo.ask(replace(demo.QUESTIONS[0], text="sacrum cut"), truths, settings)
    assert not right
    assert "wrong: expected abdomen-pelvis" in lines[-1]
