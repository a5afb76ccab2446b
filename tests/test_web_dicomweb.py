"""A search as DICOM's own tools make it (QIDO-RS)."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from starlette.testclient import TestClient

from tests.corpus import corpus
from tomodex.access import OWNER
from tomodex.errors import BadQuery
from tomodex.search import Hit, parse
from tomodex.settings import load_settings
from tomodex.terminology import load_terminology
from tomodex.web.app import make_app
from tomodex.web.dicomweb import dataset_of
from tomodex.web.matching import Matching, asked, matching_of
from tomodex.wiring import cohorts_of, index_of

TERMS = load_terminology()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    data = tmp_path_factory.mktemp("qido") / "data"
    index_of(load_settings(data=data)).write(corpus())
    return data


@pytest.fixture(scope="module")
def client(folder) -> TestClient:
    settings = load_settings(data=folder, serve={"per_second": 10_000})
    app = make_app(settings)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


def text_of(parameters: dict[str, str], query: str = "") -> str:
    return asked(matching_of(parameters.items()), parse(query, TERMS))


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({}, ""),
        ({"PatientSex": ""}, ""),
        ({"Modality": "CT"}, "Modality = CT"),
        ({"00080060": "CT"}, "Modality = CT"),
        ({"Manufacturer": "GE*"}, "Manufacturer = GE*"),
        ({"Manufacturer": "GE MEDICAL SYSTEMS"}, 'Manufacturer = "GE MEDICAL SYSTEMS"'),
        ({"Manufacturer": 'x" or liver'}, 'Manufacturer = "x"" or liver"'),
        ({"StudyDate": "20260131"}, "StudyDate = 2026-01-31"),
        ({"StudyDate": "20260101-20260131"}, "StudyDate 2026-01-01..2026-01-31"),
        ({"StudyDate": "20260101-"}, "StudyDate >= 2026-01-01"),
        ({"StudyDate": "-20260131"}, "StudyDate <= 2026-01-31"),
        ({"SliceThickness": "1.5"}, "SliceThickness = 1.5"),
        ({"PatientAge": "052Y"}, "PatientAge 51.995..52.005"),
        ({"PatientAge": "006M"}, "PatientAge 0.495..0.505"),
        ({"SeriesInstanceUID": "1.2"}, "SeriesInstanceUID = 1.2"),
        ({"SeriesInstanceUID": "1.2,1.3"}, "SeriesInstanceUID in (1.2, 1.3)"),
        ({"SeriesInstanceUID": "1.2\\1.3"}, "SeriesInstanceUID in (1.2, 1.3)"),
        ({"limit": "5", "offset": "1", "fuzzymatching": "true", "includefield": "KVP"}, ""),
    ],
)
def test_attributes_are_matched_as_the_standard_says(parameters, text):
    assert text_of(parameters) == text
    assert parse(text, TERMS)


def test_all_attributes_and_our_own_query_must_match():
    text = text_of({"PatientSex": "F", "Modality": "CT"}, "liver or spleen")
    assert text == "(liver or spleen) and PatientSex = F and Modality = CT"


@pytest.mark.parametrize(
    "parameters",
    [
        {"PatientName": "Doe"},
        {"PatientID": "1"},
        {"00100010": "Doe"},
        {"Manufactrer": "GE"},
        {"Manufacturer": "G?"},
        {"Manufacturer": "a*b"},
        {"Manufacturer": "a\\b"},
        {"StudyDate": "2026"},
        {"StudyDate": "-"},
        {"StudyDate": "20261301"},
        {"StudyDate": "20260101-20260131-20260202"},
        {"PatientAge": "52"},
        {"SliceThickness": "thin"},
        {"SliceThickness": "1e400"},
        {"SliceThickness": "9" * 400},
        {"\x00": "1"},
    ],
)
def test_what_cannot_be_matched_is_refused_and_not_left_out(parameters):
    with pytest.raises(BadQuery):
        matching_of(parameters.items())


def test_an_attribute_that_is_misspelled_is_offered():
    with pytest.raises(BadQuery) as wrong:
        matching_of([("Manufactrer", "GE")])
    assert "Manufacturer" in wrong.value.suggestions


def test_answers_are_datasets_that_pydicom_reads(client, folder):
    found = client.get("/dicomweb/series", params={"PatientSex": "F", "limit": 3})
    assert found.headers["content-type"] == "application/dicom+json"
    datasets = [Dataset.from_json(one) for one in found.json()]
    hits = cohorts_of(load_settings(data=folder)).series(OWNER, "PatientSex = F", 3).hits
    assert [ds.SeriesInstanceUID for ds in datasets] == [hit.series_uid for hit in hits]
    for dataset, hit in zip(datasets, hits, strict=True):
        assert dataset.StudyInstanceUID == hit.study_uid
        assert dataset.PatientID == hit.patient
        assert dataset.PatientIdentityRemoved == "YES"
        assert dataset.StudyDate == str(hit.attributes["StudyDate"]).replace("-", "")
        assert dataset.PatientAge == f"{hit.attributes['PatientAge']:03.0f}Y"
        assert dataset.PatientSex == "F"
        assert "SliceThickness" not in dataset
        assert "Manufacturer" not in dataset


@pytest.mark.parametrize("included", ["SliceThickness,00080070", "all"])
def test_further_attributes_are_included_where_wished(client, included):
    params = {"limit": 1, "includefield": included}
    (one,) = client.get("/dicomweb/series", params=params).json()
    dataset = Dataset.from_json(one)
    assert dataset.SliceThickness == 1.5
    assert dataset.Manufacturer == "Ümlaut, =Ltd"
    assert list(one) == sorted(one)


def test_what_is_matched_is_in_the_answer_and_unknown_fields_are_left_out(client):
    params = [
        ("includefield", "PatientName"),
        ("includefield", "nonsense"),
        ("SliceThickness", "5"),
    ]
    one, *_ = client.get("/dicomweb/series", params=params).json()
    assert one["00180050"] == {"vr": "DS", "Value": [5.0]}
    assert "00100010" not in one


def test_our_own_query_finds_anatomy(client):
    found = client.get("/dicomweb/series", params={"query": "spleen volume > 225 ml"}).json()
    assert {one["0020000E"]["Value"][0] for one in found} == {"1.2.9.27", "1.2.9.29"}


def test_series_of_one_study_are_its_own(client):
    found = client.get("/dicomweb/studies/1.2.8.3/series").json()
    assert {one["0020000E"]["Value"][0] for one in found} == {"1.2.9.6", "1.2.9.7"}
    other = client.get("/dicomweb/studies/1.2.8.3/series", params={"StudyInstanceUID": "1.2.8.4"})
    assert other.status_code == HTTPStatus.NO_CONTENT


def test_nothing_found_is_no_content(client):
    none = client.get("/dicomweb/series", params={"PatientSex": "O"})
    assert (none.status_code, none.content) == (HTTPStatus.NO_CONTENT, b"")


def test_what_was_left_out_of_a_page_is_said_in_a_warning(client):
    page = client.get("/dicomweb/series", params={"limit": 10, "offset": 5})
    assert len(page.json()) == 10
    assert "There are 15 additional results" in page.headers["warning"]
    last = client.get("/dicomweb/series", params={"limit": 10, "offset": 20})
    assert "warning" not in last.headers


def test_fuzzy_matching_is_said_not_to_be_done(client):
    found = client.get("/dicomweb/series", params={"fuzzymatching": "true"})
    assert "fuzzymatching parameter is not supported" in found.headers["warning"]


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        ("application/dicom+json", 200),
        ("application/json", 200),
        ("*/*", 200),
        ("text/html, application/dicom+json;q=0.9", 200),
        ('multipart/related; type="application/dicom+xml"', 406),
        ("text/html", 406),
    ],
)
def test_only_json_is_offered(client, accept, status):
    found = client.get("/dicomweb/series", headers={"accept": accept})
    assert found.status_code == status


@pytest.mark.parametrize(
    ("years", "age"),
    [(52.0, "052Y"), (2.0, "002Y"), (1.5, "018M"), (0.25, "003M"), (0.1, "005W"), (0.02, "007D")],
)
def test_ages_are_written_as_dicom_does(years, age):
    hit = Hit(series_uid="1", study_uid="2", attributes={"PatientAge": years})
    dataset = dataset_of(hit, Matching(terms=(), keywords=(), everything=False))
    assert dataset["00101010"] == {"vr": "AS", "Value": [age]}


def test_a_patient_that_nobody_knows_is_left_out():
    dataset = dataset_of(
        Hit(series_uid="1", study_uid="2"), Matching(terms=(), keywords=(), everything=True)
    )
    assert set(dataset) == {"00080005", "0020000D", "0020000E"}
