from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from tomodex.admission import Oidc, Token
from tomodex.cli import app
from tomodex.errors import Misconfigured
from tomodex.settings import Settings, load_settings, origins


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOMODEX_CONFIG", raising=False)


def test_without_a_file_everything_has_a_default():
    settings = load_settings()
    assert settings.data == Path("tomodex-data")
    assert settings.queue_url == f"sqlite://{Path.cwd()}/tomodex-data/tomodex.db"
    assert settings.index_url == f"duckdb://{Path.cwd()}/tomodex-data/index.duckdb"


def test_the_command_line_beats_the_environment_beats_the_file(monkeypatch):
    Path("tomodex.toml").write_text('workers = 2\nlease_s = 60\nconfiguration = "site"\n')
    monkeypatch.setenv("TOMODEX_WORKERS", "3")
    monkeypatch.setenv("TOMODEX_LEASE_S", "90")
    settings = load_settings(workers=4, data=None)
    assert (settings.workers, settings.lease_s, settings.configuration) == (4, 90.0, "site")
    assert origins(settings, {"workers": 4}) == {
        **dict.fromkeys(type(settings).model_fields, "default"),
        "workers": "command line",
        "lease_s": "environment",
        "configuration": "file",
    }


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("worker = 2", "worker is not a setting"),
        ("workers = 0", "workers: Input should be greater than or equal to 1"),
        ("workers = ", r"cannot read the settings in tomodex\.toml"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(toml, says):
    Path("tomodex.toml").write_text(toml)
    with pytest.raises(Misconfigured, match=says):
        load_settings()


def test_a_config_file_that_is_not_there_is_not_passed_over(monkeypatch):
    monkeypatch.setenv("TOMODEX_CONFIG", "elsewhere.toml")
    with pytest.raises(Misconfigured, match=r"elsewhere\.toml, which is not a file"):
        load_settings()


def test_a_list_that_is_no_json_says_so(monkeypatch):
    monkeypatch.setenv("TOMODEX_SINKS", "kafka://user:hunter2@host")
    with pytest.raises(Misconfigured, match=r'"sinks".*JSON') as wrong:
        load_settings()
    assert wrong.value.__cause__ is None
    assert "hunter2" not in str(wrong.value)


def test_an_error_does_not_repeat_the_value():
    """It could be a password inside a URL."""
    Path("tomodex.toml").write_text('workers = "hunter2"')
    with pytest.raises(Misconfigured) as wrong:
        load_settings()
    assert "hunter2" not in str(wrong.value)


def test_archives_are_named_in_a_table():
    Path("tomodex.toml").write_text('[sources]\npacs = "dimse://T@pacs:104/A?simultaneous=1"\n')
    assert load_settings().sources == {"pacs": "dimse://T@pacs:104/A?simultaneous=1"}


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ('pacs = "dimse://user:hunter2@pacs:104/A"', "the URL of pacs holds a password"),
        ('"a b" = "dimse://pacs:104/A"', "has letters, digits"),
        ('pacs = "dimse://[hunter2"', "a URL or a folder"),
    ],
)
def test_a_wrong_source_says_what_is_wrong_and_no_secret(toml, says):
    Path("tomodex.toml").write_text(f"[sources]\n{toml}\n")
    with pytest.raises(Misconfigured, match=says) as wrong:
        load_settings()
    assert "hunter2" not in str(wrong.value)


URLS = {
    "queue": 'queue = "{}"',
    "index": 'index = "{}"',
    "sinks": 'sinks = ["ndjson:///a", "{}"]',
    "segmenters": 'segmenters = ["{}"]',
    "sources": '[sources]\npacs = "{}"',
    "destinations": '[destinations]\nout = "{}"',
}


@pytest.mark.parametrize("setting", URLS)
@pytest.mark.parametrize(
    "url",
    [
        "fhir+https://user:hunter2@server/fhir",
        "dicomweb+https://server?password=hunter2",
        "dicomweb+https://server?timeout=3&token=hunter2",
        "fhir+https://server?client_secret=hunter2",
        "s3://bucket?secret=hunter2",
        "s3://bucket?key=hunter2",
        "s3://bucket?secret=file:",
    ],
)
def test_no_setting_holds_a_secret(setting, url):
    """So there is none that `tomodex config show` could show."""
    Path("tomodex.toml").write_text(URLS[setting].format(url))
    with pytest.raises(Misconfigured, match="holds a password") as wrong:
        load_settings()
    assert "hunter2" not in str(wrong.value)


@pytest.mark.parametrize("setting", URLS)
def test_a_setting_may_say_where_a_secret_is(setting):
    url = "s3://bucket?key=env:KEY&secret=file:/run/secrets/s3"
    Path("tomodex.toml").write_text(URLS[setting].format(url))
    assert "file:/run/secrets/s3" in load_settings().model_dump_json()


def test_what_config_shows_of_access_is_where_the_tokens_are():
    Path("token").write_text("hunter2" * 4)
    Path("tomodex.toml").write_text(
        '[access.tokens.ada]\nsecret = "file:token"\nroles = ["viewer"]\n'
        '[serve]\ntoken = "env:TOKEN"\n'
    )
    for arguments in (["config", "show"], ["config", "show", "--json"]):
        shown = CliRunner().invoke(app, arguments, env={"TOKEN": "hunter2"})
        assert "file:token" in shown.stdout
        assert "hunter2" not in shown.stdout


def _example() -> str:
    shown = CliRunner().invoke(app, ["config", "example"])
    assert shown.exit_code == 0
    return shown.stdout


def _names(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Every setting of a table and of the tables in it, as `serve.port`."""
    tables = {"access.tokens": Token, "access.oidc": Oidc}
    found: set[str] = set()
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        inner = tables.get(path, field.annotation)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= _names(inner, f"{path}.")
        else:
            found.add(path)
    return found


def _said(document: Mapping[str, object], prefix: str = "") -> set[str]:
    """The same of a TOML file; what a site names itself is left out."""
    found: set[str] = set()
    for name, value in document.items():
        path = f"{prefix}{name}"
        if path == "access.tokens":
            found |= {f"{path}.{key}" for token in value.values() for key in token}
        elif isinstance(value, dict) and path not in NAMED_BY_THE_SITE:
            found |= _said(value, f"{path}.")
        else:
            found.add(path)
    return found


NAMED_BY_THE_SITE = {"sources", "destinations", "access.oidc.roles"}


def test_the_example_is_a_file_that_changes_nothing_as_it_is():
    Path("tomodex.toml").write_text(_example())
    assert load_settings() == Settings()


def test_the_example_has_every_setting_and_each_is_one():
    every = re.sub(r"(?m)^#(?=[\w\[])", "", _example())
    assert _said(tomllib.loads(every)) == _names(Settings)
    Path("tomodex.toml").write_text(every)
    assert load_settings().access.tokens["alice"].roles == ("researcher",)
