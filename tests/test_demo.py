from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import TypeAdapter
from rich.table import Table

from tomodex import demo
from tomodex.phantom import Truth
from tomodex.settings import Settings


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


def test_a_wrong_answer_would_be_noticed(ran):
    """Or the demo could not fail."""
    folder, settings, _ = ran
    truths = [read_truth(path) for path in folder.rglob("truth.json")]
    lines, right = demo.ask(demo.QUESTIONS[0], truths, settings)
    assert right
    lines, right = demo.ask(replace(demo.QUESTIONS[0], text="sacrum cut"), truths, settings)
    assert not right
    assert "wrong: expected abdomen-pelvis" in lines[-1]
