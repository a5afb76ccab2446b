"""The FHIR guide is made from our own tables; SUSHI compiles it in `make ig`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tools.render_ig import IG, render

from tomodex.formats.fhir import Naming
from tomodex.terminology import load_terminology

SITE = "https://hospital.example/fhir"


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ig") / "guide"
    render(folder, Naming(base=SITE))
    return folder


def structures(guide: Path) -> str:
    return (guide / "input/fsh/structures.fsh").read_text()


def test_every_structure_has_a_code_and_a_place_in_both_maps(guide: Path) -> None:
    text, names = structures(guide), list(load_terminology().structures)
    system, maps = text.split("ValueSet: StructureVS", 1)
    assert re.findall(r'^\* #(\S+) "', system, re.MULTILINE) == names
    assert re.findall(r"element\[\d+\]\.code = #(\S+)", maps) == names * 2


def test_every_element_of_a_map_has_a_target_or_says_that_there_is_none(guide: Path) -> None:
    elements = re.split(r"^\* group\[0\]\.element\[\d+\]\.code = ", structures(guide), flags=re.M)
    assert all(".noMap = true" in one or ".relationship = #" in one for one in elements[1:])


def test_a_structure_whose_side_snomed_does_not_know_is_narrower_than_its_code(
    guide: Path,
) -> None:
    snomed = structures(guide).split("Instance: StructureToSnomed", 1)[1].split("Instance:", 1)[0]
    kidney, cyst = (
        snomed.split(f".code = #{name}\n", 1)[1].split(".code = #", 2)[1]
        for name in ("kidney_left", "kidney_cyst_left")
    )
    assert "relationship = #equivalent" in kidney
    assert "#equivalent" not in cyst


def test_a_sites_own_base_leaves_nothing_of_ours(guide: Path) -> None:
    for file in guide.rglob("*"):
        if file.is_file():
            assert Naming().base not in file.read_text(), file


def test_every_profile_that_a_resource_names_is_in_the_guide(guide: Path) -> None:
    ids = re.findall(r"^Id: (\S+)$", (guide / "input/fsh/profiles.fsh").read_text(), re.MULTILINE)
    said = {
        url
        for file in (guide / "input/examples").glob("*.json")
        for url in re.findall(rf"{SITE}/StructureDefinition/([\w-]+)", file.read_text())
    }
    assert len(said) >= 7
    assert said <= set(ids)


def test_the_lock_names_no_registry() -> None:
    assert "resolved" not in (IG / "package-lock.json").read_text()
