"""`tomodex cohort`: what was saved, what has changed since, and lists of it."""

from __future__ import annotations

import json
import os
import sys

import pytest

from tests.corpus import corpus
from tomodex.cli import main
from tomodex.settings import load_settings
from tomodex.wiring import index_of, saved_of


@pytest.fixture
def tomodex(tmp_path, monkeypatch, capsys):
    """Run a command on an index of thirty series; give exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TOMODEX_")]:
        monkeypatch.delenv(name)
    index = index_of(load_settings())
    index.write(corpus())
    index.close()

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tomodex", *arguments])
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


def save(tomodex, *arguments: str) -> dict[str, object]:
    code, out, _ = tomodex("cohort", "save", *arguments, "--json")
    assert code == 0
    found: dict[str, object] = json.loads(out)
    return found


def test_a_cohort_is_saved_listed_shown_compared_and_deleted(tomodex):
    cohort = save(tomodex, "spleen complete", "--name", "whole spleens")
    assert (cohort["series"], cohort["name"], cohort["who"]) == (15, "whole spleens", "owner")
    assert json.loads(tomodex("cohort", "list", "--json")[1]) == [cohort]
    assert "whole spleens" in tomodex("cohort", "list")[1]
    assert "7 patients, 15 studies, 15 series" in tomodex("cohort", "show", str(cohort["id"]))[1]
    index_of(load_settings()).erase(["1.2.9.1"])
    saved_of(load_settings()).forget_series(["1.2.9.3"])
    code, out, _ = tomodex("cohort", "diff", str(cohort["id"]))
    assert (code, out.splitlines()[0]) == (0, "13 as they were, 1 new, 1 gone, 0 changed")
    assert [line.split() for line in out.splitlines()[-2:]] == [
        ["new", "1.2.9.3"],
        ["gone", "1.2.9.1"],
    ]
    assert "1 series of patients" in tomodex("cohort", "show", str(cohort["id"]))[1]
    assert tomodex("cohort", "delete", str(cohort["id"]))[0] == 0
    assert json.loads(tomodex("cohort", "list", "--json")[1]) == []


def test_a_cohort_without_a_name_is_called_by_its_question(tomodex):
    assert save(tomodex, "spleen complete")["name"] == "spleen complete"
    assert save(tomodex, "")["name"] == "all"


def test_the_frozen_list_is_written_in_the_format_of_the_ending(tomodex, tmp_path):
    cohort = str(save(tomodex, "spleen complete")["id"])
    for name in ("a.csv", "a.json", "a.parquet", "a.txt"):
        assert tomodex("cohort", "export", cohort, name) == (0, "", "")
    assert len((tmp_path / "a.txt").read_text().splitlines()) == 15
    assert json.loads((tmp_path / "a.json").read_text())["manifest"]["cohort"] == cohort
    code, _, err = tomodex("cohort", "export", cohort, "a.xlsx")
    assert (code, "should end with one of .csv" in err) == (2, True)


@pytest.mark.parametrize("command", ["show", "diff", "delete"])
def test_an_id_that_there_is_not_is_a_mistake_of_the_command(tomodex, command):
    code, out, err = tomodex("cohort", command, "nothing")
    assert (code, out) == (2, "")
    assert "`tomodex cohort list` shows them" in err


def test_a_question_that_is_wrong_saves_nothing(tomodex):
    code, _, err = tomodex("cohort", "save", "livver complete")
    assert (code, "did you mean" in err) == (2, True)
    assert json.loads(tomodex("cohort", "list", "--json")[1]) == []
