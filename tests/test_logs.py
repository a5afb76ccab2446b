from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from tomodex.errors import Unavailable
from tomodex.logs import log_to_stderr


@pytest.fixture(autouse=True)
def _restored():
    logger = logging.getLogger("tomodex")
    before = logger.handlers[:], logger.level, logger.propagate
    last = logging.lastResort
    yield
    logger.handlers[:], logger.level, logger.propagate = before
    logging.lastResort = last


def test_a_line_is_one_json_object_with_the_facts_beside_the_event(capsys):
    log_to_stderr("info")
    logging.getLogger("tomodex.worker").info("completed", extra={"series_uid": "1.2", "attempt": 1})
    out, err = capsys.readouterr()
    line = json.loads(err)
    assert out == ""
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": "tomodex.worker",
        "event": "completed",
        "series_uid": "1.2",
        "attempt": 1,
    }


def test_what_is_below_the_level_is_not_written(capsys):
    log_to_stderr("warning")
    logging.getLogger("tomodex.worker").info("completed")
    assert capsys.readouterr().err == ""


def test_a_bug_brings_its_places_and_not_what_it_quotes(capsys):
    log_to_stderr("info")
    try:
        raise KeyError("DOE^JOHN")
    except KeyError:
        logging.getLogger("tomodex").exception("failed")
    err = capsys.readouterr().err
    assert "DOE" not in err
    *places, kind = json.loads(err)["traceback"]
    assert places[0].startswith("test_logs.py:")
    assert kind == "KeyError"


def test_an_error_of_ours_is_quoted(capsys):
    log_to_stderr("info")
    try:
        raise Unavailable("no answer within 30 s")
    except Unavailable:
        logging.getLogger("tomodex").exception("failed")
    assert json.loads(capsys.readouterr().err)["traceback"][-1] == (
        "Unavailable: no answer within 30 s"
    )


def test_a_person_may_have_words_instead_in_one_line(capsys):
    log_to_stderr("info", "text")
    facts = {"series_uid": "1.2", "sentence": "a\nb"}
    logging.getLogger("tomodex.worker").warning("ready", extra=facts)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("warning tomodex.worker ready series_uid=1.2 sentence=a b")


@pytest.mark.parametrize("form", ["json", "text"])
def test_of_what_a_library_says_only_its_place_is_written(form) -> None:
    program = (
        "import logging; from tomodex.logs import log_to_stderr;"
        f"log_to_stderr('warning', '{form}');"
        "logging.getLogger('pydicom').warning(\"Invalid PN 'DOE^JOHN'\");"
        "logging.getLogger('pydicom').info('nothing')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    (line,) = done.stderr.decode().splitlines()
    assert "DOE" not in line
    assert "library" in line
    if form == "json":
        said = json.loads(line)
        assert (said["logger"], said["level"]) == ("pydicom", "warning")
        assert said["place"] == "<string>:1"


def test_a_warning_of_a_library_is_not_printed_with_the_value_that_it_quotes() -> None:
    program = (
        "import warnings; from tomodex.logs import log_to_stderr; log_to_stderr('warning');"
        "warnings.warn(\"Invalid value for VR PN: 'DOE^JOHN'\")"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stderr == b""
