from __future__ import annotations

import csv
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tomodex.terminology
from tomodex.terminology import Laterality, Terminology, load_terminology, read_terminology
from tomodex.terminology.structure import SNOMED_SIDES, Relation, Structure
from tomodex.terminology.vocabulary import targets
from tomodex.terminology.words import MAX_LENGTH, fold

TABLES = Path(tomodex.terminology.__file__).parent

#: Class map of TotalSegmentator's task "total", in the order of its classes 1 to 117.
TOTAL = """
spleen kidney_right kidney_left gallbladder liver stomach pancreas adrenal_gland_right
adrenal_gland_left lung_upper_lobe_left lung_lower_lobe_left lung_upper_lobe_right
lung_middle_lobe_right lung_lower_lobe_right esophagus trachea thyroid_gland small_bowel duodenum
colon urinary_bladder prostate kidney_cyst_left kidney_cyst_right sacrum vertebrae_S1 vertebrae_L5
vertebrae_L4 vertebrae_L3 vertebrae_L2 vertebrae_L1 vertebrae_T12 vertebrae_T11 vertebrae_T10
vertebrae_T9 vertebrae_T8 vertebrae_T7 vertebrae_T6 vertebrae_T5 vertebrae_T4 vertebrae_T3
vertebrae_T2 vertebrae_T1 vertebrae_C7 vertebrae_C6 vertebrae_C5 vertebrae_C4 vertebrae_C3
vertebrae_C2 vertebrae_C1 heart aorta pulmonary_vein brachiocephalic_trunk
subclavian_artery_right subclavian_artery_left common_carotid_artery_right
common_carotid_artery_left brachiocephalic_vein_left brachiocephalic_vein_right
atrial_appendage_left superior_vena_cava inferior_vena_cava portal_vein_and_splenic_vein
iliac_artery_left iliac_artery_right iliac_vena_left iliac_vena_right humerus_left humerus_right
scapula_left scapula_right clavicula_left clavicula_right femur_left femur_right hip_left hip_right
spinal_cord gluteus_maximus_left gluteus_maximus_right gluteus_medius_left gluteus_medius_right
gluteus_minimus_left gluteus_minimus_right autochthon_left autochthon_right iliopsoas_left
iliopsoas_right brain skull rib_left_1 rib_left_2 rib_left_3 rib_left_4 rib_left_5 rib_left_6
rib_left_7 rib_left_8 rib_left_9 rib_left_10 rib_left_11 rib_left_12 rib_right_1 rib_right_2
rib_right_3 rib_right_4 rib_right_5 rib_right_6 rib_right_7 rib_right_8 rib_right_9 rib_right_10
rib_right_11 rib_right_12 sternum costal_cartilages
""".split()  # noqa: SIM905  # 117 lines read worse

LOBES = {
    "lung_upper_lobe_left",
    "lung_lower_lobe_left",
    "lung_upper_lobe_right",
    "lung_middle_lobe_right",
    "lung_lower_lobe_right",
}


@pytest.fixture(scope="module")
def terms() -> Terminology:
    return load_terminology()


def table(name: str) -> list[dict[str, str]]:
    with (TABLES / name).open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def verhoeff_is_right(code: str) -> bool:
    """Is the last digit of a SNOMED CT identifier its Verhoeff check digit (RF2, 5.6)?"""
    shift = "1576283094"
    check = 0
    for place, digit in enumerate(reversed(code)):
        value = int(digit)
        for _ in range(place % 8):
            value = int(shift[value])
        check = _in_dihedral_group(check, value)
    return check == 0


def _in_dihedral_group(a: int, b: int) -> int:
    """The product of two elements of the symmetry group of the pentagon, numbered 0 to 9."""
    if a < 5:
        return (a + b) % 5 if b < 5 else 5 + (a + b - 5) % 5
    return 5 + (a - 5 - b) % 5 if b < 5 else (a - b) % 5


# --- the tables themselves -----------------------------------------------------------------------


def test_the_check_digit_check_knows_right_from_wrong():
    assert verhoeff_is_right("10200004")
    assert not verhoeff_is_right("10200005")
    assert not verhoeff_is_right("26671002")  # a published mistake for 26671000
    assert not verhoeff_is_right("12000004")  # two digits changed places


def test_every_snomed_code_has_a_right_check_digit():
    codes = Counter(
        code
        for name in ("structures.csv", "groups.csv", "srt.csv", "foreign_codes.csv")
        for row in table(name)
        for column, code in row.items()
        if column.endswith("_code") and column not in ("srt_code",) and code
    )
    assert len(codes) > 350
    assert [code for code in codes if not verhoeff_is_right(code)] == []


def test_every_published_code_is_attested(terms):
    attested = {row["snomed_code"] for row in table("review/attestation.csv")}
    used = {s.snomed for s in terms.structures.values()} | {g.snomed for g in terms.groups.values()}
    assert used - attested == {""}


def test_task_total_is_there_in_its_order(terms):
    numbered = {s.total_class: s.name for s in terms.structures.values() if s.total_class}
    assert [numbered[n] for n in range(1, 118)] == TOTAL
    assert len(numbered) == 117
    assert {s.name for s in terms.structures.values() if "total" in s.tasks} == set(TOTAL)


@pytest.mark.parametrize(("task", "labels"), [("total_v1", 104), ("total_mr", 50), ("body", 2)])
def test_the_other_tasks_are_there_too(terms, task, labels):
    assert sum(task in s.tasks for s in terms.structures.values()) == labels


def test_no_two_structures_have_one_expression_unless_they_are_one(terms):
    by_expression = defaultdict(list)
    for s in terms.structures.values():
        if s.snomed_expression:
            by_expression[s.snomed_expression].append(s)
    shared = [them for them in by_expression.values() if len(them) > 1]
    assert shared, "twins such as mandible and lower_jawbone share theirs"
    for them in shared:
        assert len({s.same_as or s.name for s in them}) == 1


def test_a_twin_is_coded_as_what_it_is(terms):
    for s in terms.structures.values():
        if s.same_as:
            other = terms.structures[s.same_as]
            assert not other.same_as
            assert (s.snomed_expression, s.laterality) == (
                other.snomed_expression,
                other.laterality,
            )


def test_an_expression_is_made_of_its_codes(terms):
    for s in terms.structures.values():
        site = s.site_code + (f":272741003={s.site_modifier}" if s.site_modifier else "")
        if s.site_modifier:
            site = f"({site})"
        own = s.snomed + (f":272741003={s.snomed_modifier}" if s.snomed_modifier else "")
        assert s.snomed_expression == (f"{own} @ {site}" if s.snomed and site else own)


def test_a_doubtful_code_is_not_published(terms):
    doubtful = [s for s in terms.structures.values() if s.snomed_confidence in ("low", "none")]
    assert len(doubtful) == 24
    assert {(s.snomed, s.snomed_base, s.snomed_expression) for s in doubtful} == {("", "", "")}
    assert all(s.name not in TOTAL for s in doubtful)


def _sides_in(text: str) -> set[str]:
    tokens = text.casefold().replace("_", " ").replace("(", " ").split()
    english = {side for side in ("left", "right") if side in tokens}
    german = {"left" for t in tokens if t in ("links", "linke", "linker", "linkes", "linken")}
    return english | german | {"right" for t in tokens if t.startswith("recht")}


def test_no_name_contradicts_its_side(terms):
    for s in terms.structures.values():
        wordings = (s.name, s.display, s.display_de, s.snomed_display, s.radlex_display)
        for text in wordings if s.laterality else ():
            assert _sides_in(text) <= {s.laterality}, text
        if s.laterality:
            assert s.laterality in _sides_in(s.name)
            assert _sides_in(s.display)
            assert _sides_in(s.display_de)


def test_a_coded_side_is_that_of_the_structure(terms):
    for s in terms.structures.values():
        codes = {s.snomed_modifier, s.type_modifier, s.site_modifier} - {""}
        assert codes <= {SNOMED_SIDES.get(s.laterality, "")}
        pairs = [t for t in terms.structures.values() if t.snomed_base == s.snomed_base]
        for other in pairs if s.snomed and s.laterality else ():
            if other.laterality not in ("", s.laterality) and not s.site_code:
                assert (s.snomed, s.snomed_modifier) != (other.snomed, other.snomed_modifier)


def test_dicom_can_say_the_side_once(terms):
    """Either the base code carries the side, or a modifier does; never both, never neither."""
    for s in terms.structures.values():
        if s.laterality and s.snomed and not s.site_code:
            assert bool(s.type_modifier) != bool(_sides_in(s.snomed_base_display)), s.name


def test_a_finding_has_a_site_and_is_not_filed_as_anatomy(terms):
    cyst = terms.structures["kidney_cyst_left"]
    assert (cyst.snomed, cyst.site_code, cyst.site_modifier) == ("367643001", "64033007", "7771000")
    assert cyst.category_code == "49755003"
    for s in terms.structures.values():
        if s.category_code in ("49755003", "260787004") and s.snomed:
            assert s.site_code or s.name in ("bridge", "crown", "implant"), s.name


def test_the_mistakes_of_the_paper_are_not_repeated(terms):
    checked = 0
    for row in table("review/paper_errors.csv"):
        s = terms.structures.get(row["label"])
        if s is None or row["severity"] not in ("critical", "major"):
            continue
        ours = {
            "SNOMED CT": (s.snomed, s.snomed_modifier or s.site_code),
            "RadLex": (s.radlex, s.radlex_modifier),
        }[row["system"]]
        assert ours != (row["paper_code"], ""), row
        checked += 1
    assert checked > 100


def test_edges_join_things_that_exist(terms):
    known = set(terms.structures) | set(terms.groups)
    assert not set(terms.structures) & set(terms.groups)
    for edge in terms.edges:
        assert edge.child in known, edge
        assert edge.parent in terms.groups, edge
        assert edge.relation in get_args(Relation), edge


def test_no_edge_leads_back(terms):
    graph: dict[str, set[str]] = defaultdict(set)
    for edge in terms.edges:
        graph[edge.child].add(edge.parent)
    TopologicalSorter(graph).prepare()


def test_every_structure_is_found_by_a_group(terms):
    lonely = {n for n in terms.structures if not set(terms.ancestors(n)) - {"whole_body"}}
    assert lonely == {"body", "skin", "subcutaneous_fat", "intermuscular_fat"}


def test_every_group_has_members_and_a_known_kind(terms):
    for group in terms.groups.values():
        assert group.members, group.name
        assert set(group.members) <= set(terms.structures)
        assert group.kind in ("structure", "system", "region")


def test_order_and_ranges_speak_of_structures(terms):
    assert set(terms.order) <= set(terms.structures)
    assert {n for r in terms.ranges for n in r.names} <= set(terms.structures)
    for name, level in terms.order.items():
        assert terms.structures[name].cc_rank == level.rank
        assert level.top_score >= level.bottom_score
    assert any(r.names == ("liver",) and r.kind == "editorial_gate" for r in terms.ranges)
    for r in terms.ranges:
        assert r.names or r.of
        assert r.kind in ("published", "editorial_gate")
        assert r.low is None or r.high is None or r.low < r.high


def test_the_usual_order_runs_from_head_to_foot(terms):
    ranks = [terms.order[name].rank for name in terms.span("C1", "S1")]
    assert ranks == sorted(ranks)
    assert terms.order["brain"].rank < terms.order["heart"].rank < terms.order["prostate"].rank


def test_old_snomed_codes_are_those_of_dicom(terms):
    from pydicom.sr._snomed_dict import mapping

    assert len(terms.srt) > 200
    assert {srt: mapping["SRT"][srt] for srt in terms.srt} == dict(terms.srt)


# --- words ---------------------------------------------------------------------------------------


def test_every_synonym_means_something_that_exists(terms):
    known = targets(terms.structures, terms.groups)
    assert [s for s in terms.synonyms if s.target not in known] == []
    assert {s.language for s in terms.synonyms} == {"en", "de"}


def test_no_wording_means_two_things(terms):
    meant = targets(terms.structures, terms.groups)
    for synonym in terms.synonyms:
        names, _ = meant[synonym.target]
        assert set(terms.resolve(synonym.text)) == set(names), synonym


def test_a_group_with_the_name_of_a_structure_contains_it(terms):
    for s in terms.structures.values():
        for text in (s.name, s.display, s.display_de):
            assert s.name in terms.resolve(text), text
    for g in terms.groups.values():
        assert set(terms.resolve(g.name)) == set(g.members), g.name


def test_the_117_have_one_meaning_in_both_languages(terms):
    for name in TOTAL:
        s = terms.structures[name]
        meanings = {terms.resolve(t) for t in (name, s.display, s.display_de)}
        assert len(meanings) == 1, (name, meanings)


def test_a_structure_of_total_means_itself_alone(terms):
    more = {n: terms.resolve(n) for n in TOTAL if terms.resolve(n) != (n,)}
    assert more == {"pulmonary_vein": ("pulmonary_vein", "lung_veins")}


def test_every_structure_of_total_has_a_german_synonym_that_is_not_its_english_name(terms):
    """Latin names may be the same; most are not."""
    same = [n for n in TOTAL if terms.structures[n].display == terms.structures[n].display_de]
    assert set(same) == {"aorta"} | {n for n in same if n in ("pancreas", "sternum", "trachea")}
    assert all(terms.structures[n].display_de for n in terms.structures)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("kidney", "kidney_left kidney_right"),
        ("Kidneys", "kidney_left kidney_right"),
        ("left kidney", "kidney_left"),
        ("kidney left", "kidney_left"),
        ("KIDNEY-LEFT", "kidney_left"),
        ("kidney.left", "kidney_left"),
        ("Niere", "kidney_left kidney_right"),
        ("linke Niere", "kidney_left"),
        ("Niere, links", "kidney_left"),
        ("Niere li.", "kidney_left"),
        ("rechten Niere", "kidney_right"),
        ("L1", "vertebrae_L1"),
        ("lwk 1", "vertebrae_L1"),
        ("LWK1", "vertebrae_L1"),
        ("1. LWK", "vertebrae_L1"),
        ("first lumbar vertebra", "vertebrae_L1"),
        ("1. Lendenwirbelkörper", "vertebrae_L1"),
        ("BWK 12", "vertebrae_T12"),
        ("Th12", "vertebrae_T12"),
        ("T-12", "vertebrae_T12"),
        ("HWK 7", "vertebrae_C7"),
        ("atlas", "vertebrae_C1"),
        ("S1", "vertebrae_S1"),
        ("psoas", "iliopsoas_left iliopsoas_right psoas_major_left psoas_major_right"),
        ("linker Psoas", "iliopsoas_left psoas_major_left"),
        ("autochthonous muscle", "autochthon_left autochthon_right"),
        ("left autochthonous back muscle", "autochthon_left"),
        ("linke autochthone Rückenmuskulatur", "autochthon_left"),
        ("autochthone Rueckenmuskulatur rechts", "autochthon_right"),
        ("aorta", "aorta"),
        ("IVC", "inferior_vena_cava"),
        ("obere Hohlvene", "superior_vena_cava"),
        ("Leber", "liver"),
        ("liver", "liver"),
        ("heart", "heart"),
        ("sacrum", "sacrum"),
        ("Kreuzbein", "sacrum"),
        ("Harnblase", "urinary_bladder"),
        ("bladder", "urinary_bladder"),
        ("Nebenniere rechts", "adrenal_gland_right"),
        ("RUL", "lung_upper_lobe_right"),
        ("right upper lobe", "lung_upper_lobe_right"),
        ("upper lobe of the right lung", "lung_upper_lobe_right"),
        ("rechter Oberlappen", "lung_upper_lobe_right"),
        ("Mittellappen", "lung_middle_lobe_right"),
        ("first rib", "rib_left_1 rib_right_1"),
        ("rib 1 left", "rib_left_1"),
        ("left rib 1", "rib_left_1"),
        ("1st left rib", "rib_left_1"),
        ("1. Rippe links", "rib_left_1"),
        ("erste linke Rippe", "rib_left_1"),
        ("hip bone", "hip_left hip_right"),
        ("Hüftbein", "hip_left hip_right"),
        ("Hueftbein", "hip_left hip_right"),
        ("thigh bone", "femur femur_left femur_right"),
        ("linker Oberschenkelknochen", "femur_left"),
        ("Schädel", "skull"),
        ("Schaedel", "skull"),
        ("Gehirn", "brain"),
        ("left ventricle", "heart_ventricle_left"),
        ("left atrium", "heart_atrium_left"),
        ("Zahn 36", "lower_left_first_molar_fdi36"),
        ("Lebersegment IV", "liver_segment_4"),
        ("eyeball left", "eye_left eyeball_left"),
        ("masseter", "masseter_left masseter_right"),
        ("quadratus lumborum", "quadratus_lumborum_left quadratus_lumborum_right"),
        ("inferior alveolar canal", "left_inferior_alveolar_canal right_inferior_alveolar_canal"),
        ("temporalis", "temporalis_left temporalis_right"),
        ("left liver", ""),
        ("left abdomen", ""),
        ("left right kidney", ""),
        ("left", ""),
        ("gizzard", ""),
        ("", ""),
        ("😀", ""),
    ],
)
def test_what_a_person_types(terms, text, names):
    assert sorted(terms.resolve(text)) == names.split()


def test_a_group_means_its_members(terms):
    assert set(terms.resolve("lumbar spine")) == {f"vertebrae_L{n}" for n in range(1, 7)}
    assert set(terms.resolve("BWS")) == {f"vertebrae_T{n}" for n in range(1, 13)}
    assert set(terms.resolve("lung")) == LOBES | {"lung", "lung_left", "lung_right"}
    assert set(terms.resolve("Lungenlappen")) == LOBES
    assert set(terms.resolve("linke Lunge")) == {
        "lung_left",
        "lung_upper_lobe_left",
        "lung_lower_lobe_left",
    }
    assert len(terms.resolve("ribs")) == 24
    assert len(terms.resolve("linke Rippen")) == 12
    assert set(terms.resolve("left gluteal muscles")) == {
        f"gluteus_{which}_left" for which in ("maximus", "medius", "minimus")
    }


def test_what_has_a_name_of_its_own_is_not_part_of_an_organ(terms):
    assert "kidney_cyst_left" not in terms.resolve("kidney")
    assert "liver_tumor" not in terms.resolve("liver")
    assert "atrial_appendage_left" not in terms.resolve("heart")
    assert "vertebrae_S1" not in terms.resolve("sacrum")


def test_the_ancestors_of_a_structure_are_the_groups_that_find_it(terms):
    assert {"kidney", "urinary_system", "abdomen"} <= set(terms.ancestors("kidney_left"))
    for name in terms.structures:
        for group in terms.ancestors(name):
            assert name in terms.resolve(group)
    assert terms.ancestors("gizzard") == ()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("sct:64033007", "kidney_left kidney_right"),
        ("SCT: 64033007", "kidney_left kidney_right"),
        ("sct:18639004", "kidney_left"),
        ("sct:64033007:272741003=7771000", "kidney_left"),
        ("sct:244849004:272741003=24028007", "autochthon_right"),
        ("rid:RID205", "kidney_left kidney_right"),
        ("rid:205", "kidney_left kidney_right"),
        ("RID:RID29662", "kidney_right"),
        ("radlex:RID1208", "portal_vein_and_splenic_vein"),
        ("fma:7203", "kidney_left kidney_right"),
        ("FMA:7205", "kidney_left"),
        ("uberon:0002113", "kidney_left kidney_right"),
        ("uberon:2113", "kidney_left kidney_right"),
        ("srt:T-62000", "liver"),
        ("sct:10200004", "liver"),
        ("sct:54735007", "sacrum"),
        ("sct:367643001", "kidney_cyst_left kidney_cyst_right"),
        ("sct:1", ""),
        ("sct:", ""),
        ("rid:", ""),
        ("fma:0", ""),
        ("gizzard:64033007", ""),
    ],
)
def test_a_code_means_what_it_is_the_code_of(terms, text, names):
    assert sorted(terms.resolve(text)) == names.split()


def test_every_published_code_finds_its_structure_again(terms):
    for s in terms.structures.values():
        for scheme, code in (("sct", s.snomed), ("rid", s.radlex), ("fma", s.fma)):
            if code:
                assert s.name in terms.resolve(f"{scheme}:{code}"), (s.name, scheme)


# --- runs ----------------------------------------------------------------------------------------


def test_a_run_of_vertebrae_goes_across_regions_in_either_direction(terms):
    run = tuple(f"vertebrae_{v}" for v in ("T11", "T12", "L1", "L2"))
    assert terms.span("T11", "L2") == run
    assert terms.span("LWK 2", "BWK 11") == run
    assert len(terms.span("C1", "S1")) == 25
    assert terms.span("C7", "C7") == ("vertebrae_C7",)
    assert terms.span("sct:23215003", "T11") == ("vertebrae_T11", "vertebrae_T12")


def test_a_run_of_ribs_has_both_sides_unless_one_is_asked_for(terms):
    assert set(terms.span("rib 3", "rib 5")) == {
        f"rib_{side}_{n}" for side in ("left", "right") for n in (3, 4, 5)
    }
    assert terms.span("3. Rippe links", "5. Rippe") == ("rib_left_3", "rib_left_4", "rib_left_5")
    assert terms.span("rib_right_5", "rib_right_4") == ("rib_right_4", "rib_right_5")


@pytest.mark.parametrize(
    ("first", "last"),
    [("left rib 3", "right rib 5"), ("rib 3", "L1"), ("heart", "L1"), ("L1", ""), ("", ""),
     ("left L1", "left L3"), ("kidney_left", "kidney_right"), ("ribs", "ribs"), ("L5", "L6")],
)  # fmt: skip
def test_what_makes_no_run(terms, first, last):
    assert terms.span(first, last) == ()


# --- suggestions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("kindey", "kidney"),
        ("left kindey", "left kidney"),
        ("linke Nire", "Niere links"),
        ("sakrum", "sacrum"),
        ("sacrrum", "sacrum"),
        ("autochtonous muscle", "autochthonous muscle"),
        ("lumbr spine", "lumbar spine"),
        ("Harnblsae", "Harnblase"),
        ("abdominal aorta", "abdominal"),
    ],
)
def test_a_typo_is_answered_with_what_was_meant(terms, text, wanted):
    assert wanted in terms.suggest(text)


@given(st.text(max_size=40))
def test_whatever_is_suggested_means_something(text):
    terms = load_terminology()
    for suggestion in terms.suggest(text):
        assert terms.resolve(suggestion)


def test_no_side_is_suggested_that_there_is_not(terms):
    assert terms.suggest("livr")[0] == "liver"
    assert "left liver" not in terms.suggest("left livr")


def test_suggestions_are_few_and_different(terms):
    found = terms.suggest("vertebra L9", limit=3)
    assert len(found) == len(set(found)) == 3


@given(st.text(max_size=300))
def test_no_text_is_too_strange(text):
    terms = load_terminology()
    assert set(terms.resolve(text)) <= set(terms.structures)
    assert set(terms.span(text, text)) <= set(terms.structures)
    assert terms.find_code("SCT", text) is None or text.strip()


def test_a_text_longer_than_any_name_costs_nothing(terms):
    assert fold("kidney " * MAX_LENGTH) == ("", "")
    started = time.perf_counter()
    assert terms.resolve("a" * 10_000_000) == ()
    assert terms.suggest("a" * 10_000_000) == []
    assert time.perf_counter() - started < 1.0


def test_a_completion_says_what_it_means(terms):
    first = terms.completions("kid")[0]
    assert (first.text, set(first.names)) == ("kidney", {"kidney_left", "kidney_right"})
    assert terms.completions("left kid")[0].text == "left kidney"
    assert terms.completions("linke Nie")[0].text == "Niere links"
    assert terms.completions("kidney_l")[0].names == ("kidney_left",)
    assert "lumbar spine" in [term.text for term in terms.completions("spine", 20)]


def test_completions_keep_to_the_limit_and_repeat_nothing(terms):
    for prefix in ("", "l", "lung", "left ", "r"):
        found = terms.completions(prefix, 7)
        assert len(found) <= 7
        assert len({term.text for term in found}) == len(found)
        assert all(terms.resolve(term.text) == term.names for term in found)
    assert terms.completions("") == []


# --- codes of DICOM segments ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scheme", "code", "side", "name"),
    [
        ("SRT", "T-62000", "", "liver"),
        ("SCT", "10200004", "", "liver"),
        ("SCT", "64033007", "left", "kidney_left"),
        ("SCT", "64033007", "", None),
        ("SCT", "18639004", "", "kidney_left"),
        ("SCT", "18639004", "left", "kidney_left"),
        ("SCT", "18639004", "right", None),
        ("SRT", "T-71000", "right", "kidney_right"),
        ("SCT", "39607008", "left", "lung_left"),
        ("SCT", "44029006", "", "lung_left"),
        ("SCT", "51114001", "", None),
        ("SCT", "29092000", "", None),
        ("SCT", "32764006", "", None),
        ("SCT", "1290031003", "", "eye_left"),
        ("SCT", "91609006", "", "mandible"),
        ("SCT", "10200004", "left", None),
        ("SCT", "367643001", "left", None),
        ("FMA", "7205", "", "kidney_left"),
        ("FMA", "FMA:7203", "right", "kidney_right"),
        ("RADLEX", "RID205", "left", "kidney_left"),
        ("RADLEX", "RID2471", "left", None),
        ("RADLEX", "RID1208", "", None),
        ("RADLEX", "RID1231", "", "pulmonary_vein"),
        ("RADLEX", "RID7780", "left", "erector_spinae_left"),
        ("UBERON", "UBERON:0002113", "right", "kidney_right"),
        ("DCM", "125040", "", None),
        ("", "", "", None),
        ("SCT", "", "", None),
    ],
)
def test_a_coded_segment_is_one_structure_or_none(terms, scheme, code, side, name):
    found = terms.find_code(scheme, code, side)
    assert (found.name if found else None) == name


def _segments(s: Structure) -> Iterator[tuple[str, Laterality]]:
    """A structure as DICOM SEG may code it: the base with a side, or the sided code alone."""
    yield s.snomed_base, s.laterality
    yield s.snomed, s.laterality
    if not s.snomed_modifier:
        yield s.snomed, ""


def test_every_structure_is_found_by_its_own_code_and_side(terms):
    checked = 0
    for s in terms.structures.values():
        for code, side in _segments(s) if s.snomed and not s.site_code else ():
            found = terms.find_code("SCT", code, side)
            assert found is not None, s.name
            assert found.name == (s.same_as or s.name), (s.name, code, side)
            checked += 1
    assert checked > 900


def test_a_finding_is_found_by_its_kind_and_where_it_is(terms):
    for s in terms.structures.values():
        if s.site_code and s.snomed:
            found = terms.find_code("SCT", s.snomed, s.laterality, s.site_code)
            assert found is s, s.name
            assert terms.find_code("SCT", s.snomed, s.laterality) is not s
    cyst = terms.find_code("SCT", "367643001", region="18639004")
    assert cyst is not None
    assert cyst.name == "kidney_cyst_left"
    assert terms.find_code("SCT", "367643001", "right", region="18639004") is None
    assert terms.find_code("SCT", "367643001", "left", region="10200004") is None
    assert terms.find_code("SCT", "367643001", region="64033007") is None
    pulp = terms.find_code("SCT", "26671000", region="866006002")
    assert pulp is not None
    assert pulp.name == "lower_left_first_molar_pulp_fdi136"


def test_an_old_code_may_say_the_region_too(terms):
    cysts = [srt for srt, sct in terms.srt.items() if sct == "367643001"]
    found = terms.find_code("SRT", cysts[0], "right", region="T-71000")
    assert found is terms.structures["kidney_cyst_right"]


def test_the_codes_that_totalsegmentator_writes_are_understood(terms):
    """Also where they are mistaken, such as the right subclavian artery's code with "left"."""
    misread = {}
    for row in table("structures.csv"):
        code, name = row["totalsegmentator_snomed_code"], row["name"]
        s = terms.structures[name]
        if code and not s.site_code and s.total_class:
            found = terms.find_code("SCT", code, s.laterality)
            if found is not s:
                misread[name] = found.name if found else None
    # "Pulmonary vein" (122972007) is the whole tree, which another label has.
    assert misread == {"pulmonary_vein": "lung_veins"}


def test_a_group_code_means_all_that_is_in_it(terms):
    assert set(terms.find_group_code("SCT", "64033007")) == {"kidney_left", "kidney_right"}
    assert terms.find_group_code("SRT", "T-62000") == ("liver",)
    assert terms.find_group_code("DCM", "125040") == ()


# --- version and cost ----------------------------------------------------------------------------


def test_the_version_changes_with_the_tables(tmp_path, terms):
    copy = tmp_path / "tables"
    shutil.copytree(TABLES, copy, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    assert read_terminology(copy).version == terms.version
    for name in ("synonyms.csv", "structures.csv", "edges.csv"):
        before = read_terminology(copy).version
        path = copy / name
        path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
        assert read_terminology(copy).version != before


def test_the_version_is_the_same_with_other_line_ends(tmp_path, terms):
    copy = tmp_path / "tables"
    shutil.copytree(TABLES, copy, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for path in copy.glob("*.csv"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_terminology(copy).version == terms.version


def test_loading_twice_costs_nothing(terms):
    assert load_terminology() is terms


def test_importing_reads_no_table_and_nothing_heavy():
    code = (
        "import sys, tomodex.terminology as t;"
        "assert t.load_terminology.cache_info().currsize == 0;"
        "assert not {'numpy', 'pydicom', 'duckdb', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
