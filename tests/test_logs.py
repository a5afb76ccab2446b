from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from tomodex.logs import log_to_stderr


@pytest.fixture(autouse=True)
def _restored():
    logger = logging.getLogger("tomodex")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


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


def test_a_bug_brings_its_traceback(capsys):
    log_to_stderr("info")
    try:
        raise KeyError("gizzard")
    except KeyError:
        logging.getLogger("tomodex").exception("failed")
    assert "gizzard" in json.loads(capsys.readouterr().err)["traceback"]


def test_a_warning_of_a_library_is_not_printed_with_the_value_that_it_quotes() -> None:
    program = (
        "import warnings; from tomodex.logs import log_to_stderr; log_to_stderr('warning');"
        "warnings.warn(\"Invalid value for VR PN: 'DOE^JOHN'\")"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stderr == b""
