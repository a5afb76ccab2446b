"""Whose a pseudonym is: kept only where a site wants it, told only to stewards who say why."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread
from starlette.testclient import TestClient
from typer.testing import CliRunner

from tests.phantoms import write_ball_series
from tomodex import wiring
from tomodex.access import OWNER, Asker
from tomodex.cli import app
from tomodex.discovery import discover
from tomodex.errors import BadQuery, Forbidden, Misconfigured
from tomodex.identifying import identify, mark_of
from tomodex.identities import Identities, Identity, remembering
from tomodex.selection import load_rules
from tomodex.settings import Settings, load_settings
from tomodex.web.app import make_app

REASON = "incidental finding, ethics vote 2026-17"
STEWARD, RESEARCHER = "s" * 32, "r" * 32


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("STEWARD", STEWARD)
    monkeypatch.setenv("RESEARCHER", RESEARCHER)
    tokens = {
        "sue": {"secret": "env:STEWARD", "roles": ["steward"]},
        "rob": {"secret": "env:RESEARCHER", "roles": ["researcher"]},
    }
    return load_settings(data=tmp_path / "data", access={"identities": True, "tokens": tokens})


@pytest.fixture
def pseudonym(settings: Settings) -> str:
    return wiring.pseudonymizer_of(settings)("4711^^^HOSPITAL")


def test_who_is_read_is_remembered_with_issuer(settings, pseudonym):
    other = wiring.pseudonymizer_of(settings)("4712")
    found = wiring.identities_of(settings).find([pseudonym, other, "0" * 32])
    assert found == {
        pseudonym: Identity(patient_id="4711", issuer="HOSPITAL"),
        other: Identity(patient_id="4712", issuer=""),
    }
    assert (settings.data / "identities.db").stat().st_mode & 0o777 == 0o600


def test_pseudonyms_are_the_same_whether_they_are_remembered_or_not(settings, pseudonym):
    forgetful = settings.model_copy(
        update={"access": settings.access.model_copy(update={"identities": False})}
    )
    assert wiring.pseudonymizer_of(forgetful)("4711^^^HOSPITAL") == pseudonym


def test_a_site_that_does_not_ask_for_it_keeps_nothing(tmp_path):
    settings = load_settings(data=tmp_path / "data")
    wiring.pseudonymizer_of(settings)("4711")
    assert not (settings.data / "identities.db").exists()
    with pytest.raises(Misconfigured, match="identities"):
        identify(settings, OWNER, ["0" * 32], REASON)


def test_patients_of_an_archive_are_remembered_and_their_ids_are_nowhere_else(tmp_path):
    settings = load_settings(data=tmp_path / "data", access={"identities": True})
    archive = tmp_path / "archive"
    archive.mkdir()
    uid = write_ball_series(archive)
    for file in archive.iterdir():
        dataset = dcmread(file)
        dataset.PatientID = "PATIENT-4711"
        dataset.save_as(file)
    source = wiring.source_of(settings, str(archive))
    discover(source, load_rules(None), wiring.queue_of(settings))
    (state,) = wiring.queue_of(settings).states(uid)
    (identity,) = wiring.identities_of(settings).find([state.series.patient]).values()
    assert identity.patient_id == "PATIENT-4711"
    for file in settings.data.rglob("*"):
        if file.is_file() and file.name != "identities.db":
            assert identity.patient_id.encode() not in file.read_bytes(), file.name


def test_the_file_is_asked_once_for_each_patient(tmp_path):
    identities = Identities(tmp_path / "identities.db")
    asked = []
    pseudonymize = remembering(lambda identifier: asked.append(identifier) or "p", identities)
    for _ in range(100):
        pseudonymize("4711")
        pseudonymize("study:1.2.3")
    assert asked == ["4711", "study:1.2.3"]
    assert identities.find(["p"]) == {"p": Identity(patient_id="4711", issuer="")}


@pytest.mark.parametrize("role", ["viewer", "researcher", "operator", "service"])
def test_only_stewards_are_told_and_who_tries_stands_in_the_log(settings, pseudonym, role):
    with pytest.raises(Forbidden, match="steward"):
        identify(settings, Asker(name="eve", roles=frozenset({role})), [pseudonym], REASON)
    (entry,) = wiring.audit_of(settings).entries()
    assert (entry.who, entry.act) == ("eve", "refused")


def test_each_one_who_is_told_of_stands_in_the_log_but_not_by_name(settings, pseudonym):
    assert identify(settings, OWNER, [pseudonym], REASON)[pseudonym].patient_id == "4711"
    (entry,) = wiring.audit_of(settings).entries()
    assert (entry.act, entry.text) == ("identify", REASON)
    assert entry.facts == {"patient": mark_of(settings, pseudonym)}
    octets = (settings.data / "audit.jsonl").read_bytes()
    assert [text for text in (pseudonym, "4711") if text.encode() in octets] == []


@pytest.mark.parametrize("reason", ["", "   ", "why not"])
def test_who_does_not_say_why_is_told_nothing(settings, pseudonym, reason):
    with pytest.raises(BadQuery, match="say why"):
        identify(settings, OWNER, [pseudonym], reason)


def test_nobody_is_told_of_everybody_at_once(settings, pseudonym):
    with pytest.raises(BadQuery, match="1 to 100"):
        identify(settings, OWNER, [pseudonym] * 101, REASON)


def test_stewards_are_told_over_http(settings, pseudonym):
    client = TestClient(make_app(settings), base_url="http://127.0.0.1")
    body = {"pseudonyms": [pseudonym, "0" * 32], "reason": REASON}

    def ask(token: str, **more: object) -> object:
        headers = {"Authorization": f"Bearer {token}"}
        return client.post("/v1/identities", json=body | more, headers=headers)

    assert ask(STEWARD).json() == {
        "identities": [{"pseudonym": pseudonym, "patient_id": "4711", "issuer": "HOSPITAL"}]
    }
    assert ask(RESEARCHER).status_code == 403
    assert ask(STEWARD, reason="").status_code == 422
    assert ask(STEWARD, pseudonyms=[]).status_code == 422
    entries = [(e.who, e.act) for e in wiring.audit_of(settings).entries()]
    assert entries == [("sue", "identify"), ("sue", "identify"), ("rob", "refused")]


def test_the_owner_is_told_by_a_command(settings, pseudonym, monkeypatch):
    monkeypatch.setenv("TOMODEX_ACCESS", '{"identities": true}')
    data = ("--data", str(settings.data))
    told = CliRunner().invoke(app, [*data, "identify", pseudonym, "--reason", REASON])
    assert (told.exit_code, "4711" in told.stdout, "HOSPITAL" in told.stdout) == (0, True, True)
    unknown = CliRunner().invoke(app, [*data, "identify", "0" * 32, "--reason", REASON])
    assert unknown.exit_code == 1
    (first, _) = wiring.audit_of(settings).entries()
    assert first.who.startswith("os:")
