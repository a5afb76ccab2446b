"""The product as a person uses it: from a folder of phantoms to an answered search."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import zlib
from importlib.metadata import version
from pathlib import Path

import apsw
import pydicom
import pytest

from tomodex.cli import main
from tomodex.indexing import Summary, index_source
from tomodex.phantom import DEMO, Truth, write_phantoms
from tomodex.settings import Settings
from tomodex.wiring import source_url

WANTED = ("head-neck", "abdomen-pelvis", "abdomen-follow-up")
REJECTED = ("localizer", "missing-slice")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def truths(folder) -> dict[str, Truth]:
    cases = [case for case in DEMO if case.name in WANTED + REJECTED]
    return {truth.name: truth for truth in write_phantoms(folder / "phantoms", cases)}


@pytest.fixture
def tomodex(folder, monkeypatch, capsys):
    """Run a command on the data of this module; give exit code, stdout and stderr."""
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith("TOMODEX_")]:
        monkeypatch.delenv(name)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tomodex", *arguments])
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture(scope="module")
def summary(folder, truths) -> Summary:
    settings = Settings(data=folder / "tomodex-data")
    source = source_url(str(folder / "phantoms"))
    return index_source(settings, source, "on-demand", lambda title: lambda done, total: None)


@pytest.fixture
def indexed(tomodex, summary):
    """The same, after everything was indexed."""
    return tomodex


def found(answer: str) -> set[str]:
    return {hit["series_uid"] for hit in json.loads(answer)["found"]["hits"]}


def test_a_folder_is_indexed_and_what_is_left_out_is_counted(tomodex, truths):
    code, out, err = tomodex("--data", "elsewhere", "index", "phantoms", "--json")
    summary = json.loads(out)
    assert (code, err) == (0, "")
    assert summary["found"] == len(truths) + 2  # the DICOM SEG of two are series of their own
    assert summary["indexed"] == len(WANTED)
    assert summary["rejected"] == {"segmentation": 2, "localizer": 1, "missing_slice": 1}
    assert (summary["failed"], summary["waiting"]) == (0, 0)


def test_the_same_folder_again_changes_nothing(indexed):
    code, out, _ = indexed("index", "phantoms", "--json")
    summary = json.loads(out)
    assert (code, summary["new"], summary["delivered"]) == (0, 0, 0)
    assert summary["indexed"] == len(WANTED)


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("sacrum complete", {"abdomen-pelvis"}),
        ("Leber", {"abdomen-pelvis"}),
        ("brain complete and PatientSex = F", {"head-neck"}),
        ("covers L1..L5 and SliceThickness <= 1.5", {"abdomen-pelvis"}),
        ("gallbladder below brain", set()),
        ("segmented = no", {"abdomen-follow-up"}),
        ("Modality = CT", {"head-neck", "abdomen-pelvis", "abdomen-follow-up"}),
    ],
)
def test_a_search_finds_what_is_in_the_images(indexed, truths, query, names):
    code, out, _ = indexed("search", query, "--json")
    assert code == 0
    assert found(out) == {truths[name].series_uid for name in names}
    assert json.loads(out)["found"]["counts"]["series"] == len(names)


def test_a_search_says_how_many_before_which(indexed, truths):
    _, out, err = indexed("search", "Modality = CT", "--facet", "PatientSex")
    lines = out.splitlines()
    assert lines[0] == "3 patients · 3 studies · 3 series · 16.9 MB"
    assert lines[1].startswith("SeriesInstanceUID")
    assert [line.split() for line in lines if line.startswith(("F ", "M "))] == [
        ["F", "2"],
        ["M", "1"],
    ]
    assert err == ""


def test_a_table_has_what_it_is_sorted_by(indexed, truths):
    def table(sort):
        _, out, _ = indexed("search", "Modality = CT", "--sort", sort)
        heading, *rows = out.splitlines()[1:]
        return heading.split(), [row.split() for row in rows]

    truth = truths["abdomen-pelvis"]
    liver = truth.structures["liver"]
    heading, rows = table("largest liver")
    assert heading[-3:] == ["liver,", "ml", "structures"]
    assert rows[0][0] == truth.series_uid
    number, word = rows[0][-3:-1]
    assert float(number.replace(",", "")) == pytest.approx(liver.volume_ml, rel=0.1)
    assert (word, bool(liver.cut)) == ("cut", True)
    assert table("densest liver")[0][-3:] == ["liver,", "HU", "structures"]
    heading, rows = table("slice_count")
    assert heading[-2] == "slice_count"
    slices = [float(row[-2]) for row in rows]
    assert slices == sorted(slices)
    assert len(set(slices)) > 1


def test_a_wrong_order_is_mended(indexed):
    code, _, err = indexed("search", "liver", "--sort", "larges spleen")
    assert (code, "did you mean" in err) == (2, True)


def test_a_search_may_only_count(indexed):
    code, out, _ = indexed("search", "Modality = CT", "--count")
    assert (code, len(out.splitlines())) == (0, 1)
    counted = json.loads(indexed("search", "Modality = CT", "--count", "--json")[1])["found"]
    assert (counted["counts"]["series"], counted["hits"]) == (3, [])


def test_a_search_is_answered_while_the_queue_cannot_be_asked(indexed, folder, monkeypatch):
    (folder / "no-queue").mkdir(exist_ok=True)
    monkeypatch.setenv("TOMODEX_QUEUE", f"sqlite://{folder / 'no-queue'}")
    assert indexed("status")[0] != 0
    code, out, _ = indexed("search", "Modality = CT", "--json")
    assert (code, json.loads(out)["found"]["counts"]["series"]) == (0, 3)


def test_a_search_can_be_kept_as_a_list_of_what_to_retrieve(indexed, folder, truths):
    code, out, _ = indexed("search", "sacrum", "--manifest", "sacrum.txt")
    assert (code, len(out.splitlines())) == (0, 1)
    kept = (folder / "sacrum.txt").read_text().split()
    assert truths["abdomen-pelvis"].series_uid in kept
    code, _, err = indexed("search", "sacrum", "--manifest", "sacrum.doc")
    assert (code, ".csv" in err) == (2, True)


def test_what_a_header_says_is_text_and_no_order_to_the_terminal(tomodex, folder, truths):
    images = folder / "hostile"
    for path in (folder / "phantoms" / "head-neck" / "image").iterdir():
        image = pydicom.dcmread(path)
        image.Manufacturer = "[/red]\x1b[31mEvil :smile:"
        images.mkdir(exist_ok=True)
        image.save_as(images / path.name)
    data = ("--data", str(folder / "hostile-data"))
    assert tomodex(*data, "index", "hostile")[0] == 0
    for command in (
        ["search", "", "--facet", "Manufacturer"],
        ["show", truths["head-neck"].series_uid],
    ):
        code, out, _ = tomodex(*data, *command)
        assert (code, "[/red] [31mEvil :smile:" in out) == (0, True)
        assert "\x1b" not in out


def test_a_wrong_search_points_at_the_place_and_offers_the_word(indexed):
    code, out, err = indexed("search", "sacrumm complete")
    assert (code, out) == (2, "")
    assert "sacrumm complete" in err
    assert "^^^^^^^" in err
    assert "did you mean" in err


def test_a_series_is_shown_with_its_known_answer(indexed, truths):
    truth = truths["abdomen-pelvis"]
    code, out, _ = indexed("show", truth.series_uid, "--json")
    annotated = json.loads(out)["annotated"]
    assert code == 0
    shown = {a["structure"]: a["measurement"] for a in annotated["annotations"]}
    assert shown.keys() == truth.structures.keys()
    for name, known in truth.structures.items():
        assert shown[name]["voxel_count"] == known.voxel_count
        assert shown[name]["volume_ml"] == pytest.approx(known.volume_ml)
        assert shown[name]["mean_hu"] == pytest.approx(known.mean_hu)
        assert shown[name]["box_min_mm"] == pytest.approx(known.box_min_mm, abs=1e-3)
        assert tuple(shown[name]["cut"]) == known.cut
    assert annotated["provenance"]["algorithm"]["segmentation_uids"] == [truth.segmentation_uid]


def test_no_patient_is_in_what_is_kept(indexed, folder, truths):
    """Pseudonyms only: neither name nor ID nor birth date nor description is anywhere."""
    secrets = [b"PHANTOM^", *(t.patient_id.encode() for t in truths.values()), b"19690815"]
    secrets += [b"ABDOMEN PELVIS 1.5"]
    images = (folder / "phantoms" / "abdomen-pelvis" / "image").iterdir()
    given = [t.patient_id.encode() for t in truths.values()]
    assert [s for s in secrets if s not in next(images).read_bytes()] == [
        other for other in given if other != truths["abdomen-pelvis"].patient_id.encode()
    ]
    kept = b"".join(path.read_bytes() for path in (folder / "tomodex-data").iterdir())
    queue = apsw.Connection(str(folder / "tomodex-data" / "tomodex.db"))
    kept += b"".join(
        zlib.decompress(row[0]) for row in queue.execute("select document from result")
    )
    assert [secret for secret in secrets if secret in kept] == []
    _, out, _ = indexed("show", truths["abdomen-pelvis"].series_uid, "--json")
    assert [secret for secret in secrets if secret in out.encode()] == []


def test_a_rejected_series_is_shown_with_its_reason(indexed, truths):
    code, out, _ = indexed("show", truths["missing-slice"].series_uid)
    assert code == 0
    assert "missing_slice" in out
    assert "gaps of up to 6.00 mm, usually 3.00 mm" in out


@pytest.mark.parametrize("command", ["show", "explain"])
def test_a_series_that_nobody_knows_is_a_mistake_of_the_command(indexed, command):
    code, out, err = indexed(command, "1.2.3")
    assert (code, out) == (2, "")
    assert err.startswith("tomodex: no series 1.2.3")


def test_a_known_series_is_explained_rule_by_rule(indexed, truths):
    code, out, _ = indexed("explain", truths["localizer"].series_uid, "--json")
    (explained,) = json.loads(out)
    assert (code, explained["reason"]) == (0, "localizer")
    verdicts = {check["rule"]: check["verdict"] for check in explained["checks"]}
    assert (verdicts["localizer"], verdicts["modality"]) == ("rejected", "passed")


def test_a_folder_that_was_never_indexed_is_explained_too(tomodex, folder, truths, tmp_path):
    overlay = tmp_path / "rules.toml"
    overlay.write_text("[rule.min_slices]\nmin_slices = 5000\n")
    there = str(folder / "phantoms" / "head-neck" / "image")
    _, before, _ = tomodex("explain", there, "--json")
    _, after, _ = tomodex("explain", there, "--rules", str(overlay), "--json")
    assert [one["reason"] for one in json.loads(before)] == [""]
    assert [one["reason"] for one in json.loads(after)] == ["too_few_slices"]


def test_status_counts_lanes_and_reasons(indexed):
    _, out, _ = indexed("status", "--json")
    status = json.loads(out)
    assert status["lanes"]["on-demand"] == {"completed": 3, "rejected": 4}
    assert status["reasons"]["rejected"]["localizer"] == 1
    _, out, _ = indexed("status")
    assert "missing_slice" in out


def test_the_index_can_be_lost(indexed, folder, truths):
    (folder / "tomodex-data" / "index.duckdb").unlink()
    assert found(indexed("search", "liver", "--json")[1]) == set()
    code, out, _ = indexed("rebuild")
    assert (code, out) == (0, "3 results are in the index\n")
    assert found(indexed("search", "liver", "--json")[1]) == {truths["abdomen-pelvis"].series_uid}


def test_structures_speaks_the_vocabulary(tomodex):
    _, out, _ = tomodex("structures", "linke Niere", "--json")
    (kidney,) = json.loads(out)
    assert (kidney["name"], kidney["codes"]["SCT"]) == ("kidney_left", "18639004")
    _, out, _ = tomodex("structures", "Niere")
    assert [line.split()[0] for line in out.splitlines()[1:]] == [
        "kidney",
        "kidney_left",
        "kidney_right",
    ]
    assert "nephros" in out
    code, _, err = tomodex("structures", "kindey")
    assert code == 2
    assert "kidney" in err


def test_settings_are_shown_with_their_origin(tomodex, monkeypatch):
    monkeypatch.setenv("TOMODEX_WORKERS", "2")
    _, out, _ = tomodex("config", "show", "--json")
    shown = json.loads(out)
    assert shown["workers"] == {"value": 2, "origin": "environment"}
    assert shown["data"]["origin"] == "default"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["index", "nowhere"], "nowhere is not a folder"),
        (["index", "phantoms.zip"], "a folder, also with archives in it, a URL, or"),
        (["index", "ftp://pacs/x"], "no source for 'ftp://pacs/x'; known: "),
        (["index", ".", "--segmenter", "magic:"], "no segmenter for 'magic:'"),
        (["index", ".", "--rules", "none.toml"], "none.toml"),
        (["--log-level", "loud", "status"], "log_level"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tomodex, arguments, says):
    code, out, err = tomodex(*arguments)
    assert (code, out) == (2, "")
    assert says in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "command", [["search", "liver"], ["show", "1.2"], ["status"], ["retry"], ["rebuild"]]
)
def test_who_asks_in_the_wrong_folder_is_told_so(tomodex, tmp_path, command):
    code, out, err = tomodex("--data", str(tmp_path / "typo"), *command)
    assert (code, out) == (2, "")
    assert "nothing was indexed" in err
    assert not (tmp_path / "typo").exists()


def test_a_folder_that_cannot_be_made_is_said_in_one_line(tomodex, tmp_path):
    (tmp_path / "file").touch()
    beyond = str(tmp_path / "file" / "x")
    code, _, err = tomodex("--data", beyond, "index", ".")
    assert (code, err.count("\n")) == (2, 1)
    code, _, err = tomodex("phantom", beyond)
    assert (code, err.count("\n")) == (3, 1)


def test_what_is_kept_is_for_its_owner_only(indexed, folder):
    kept = folder / "tomodex-data"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in kept.iterdir()}
    assert not {name for name, mode in modes.items() if mode & 0o077}


def test_a_path_without_dicom_is_a_mistake_of_the_command(tomodex, tmp_path):
    code, out, err = tomodex("explain", str(tmp_path))
    assert (code, out) == (2, "")
    assert "holds no DICOM" in err


def test_ctrl_c_says_what_is_kept(tomodex, monkeypatch, tmp_path):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tomodex.indexing.index_source", interrupted)
    code, _, err = tomodex("--data", str(tmp_path), "index", ".")
    assert code == 130
    assert "what was settled is kept" in err


def test_config_shows_each_setting_of_a_table_and_who_has_set_it(tomodex, folder, monkeypatch):
    monkeypatch.setenv("TOMODEX_RECEIVE", '{"port": 104}')
    monkeypatch.setenv("TOMODEX_SOURCES", '{"disk": "/data"}')
    lines = [line.split() for line in tomodex("config", "show")[1].splitlines()]
    assert ["receive.port", "104", "environment"] in lines
    assert ["receive.aet", "TOMODEX", "default"] in lines
    assert ["sources.disk", "/data", "environment"] in lines


def test_config_shows_where_queue_index_and_key_lie(tomodex, folder):
    shown = json.loads(tomodex("config", "show", "--json")[1])
    assert shown["queue"] == {
        "value": f"sqlite://{folder}/tomodex-data/tomodex.db",
        "origin": "default",
    }
    assert shown["pseudonym_key_file"]["value"] == "tomodex-data/pseudonym.key"


def test_help_starts_without_the_heavy_libraries():
    """What makes the command line start in 0.3 s; the time itself is measured in bench/."""
    heavy = "('numpy', 'pydantic', 'pydicom', 'duckdb', 'highdicom', 'apsw')"
    program = f"import sys, tomodex.cli; sys.exit(repr([m for m in {heavy} if m in sys.modules]))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ran.stderr.strip() == "[]"


def test_weights_are_looked_for_where_the_settings_say(tomodex, tmp_path, monkeypatch):
    monkeypatch.setenv("TOMODEX_WEIGHTS", str(tmp_path))
    code, out, _ = tomodex("weights", "list", "--json")
    assert (code, json.loads(out)) == (0, [])
    code, out, err = tomodex("weights", "import", str(tmp_path))
    assert (code, out) == (2, "")
    assert "plans.json" in err


def test_missing_weights_stop_the_work_and_say_both_ways(tomodex, truths, tmp_path, monkeypatch):
    """And no series pays for it: all of them wait."""
    monkeypatch.setenv("TOMODEX_WEIGHTS", str(tmp_path / "none"))
    data = ("--data", str(tmp_path / "data"))
    code, _, err = tomodex(*data, "index", "phantoms", "--segmenter", "totalsegmentator:")
    assert (code, "cannot work with these settings" in err) == (2, True)
    _, out, _ = tomodex(*data, "status", "--json")
    assert json.loads(out)["lanes"]["on-demand"] == {"ready": 3, "rejected": 4}


def test_the_version_is_said(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tomodex", "--version"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    assert capsys.readouterr().out.strip() == version("tomodex")
