"""A question as parts: each readable, and each to be taken away."""

from __future__ import annotations

import pytest

from tomodex.chips import chips_of
from tomodex.search import And, Query, Term, format, parse
from tomodex.terminology import load_terminology

TERMS = load_terminology()

QUESTIONS = (
    "the whole sacrum, women 40-60, slices <= 1.5 mm",
    "left autochthon between heart and L1 and not prostate",
    "(liver or spleen) and StudyDate 2019..2021 and PatientSex != F and Manufacturer = *",
    "T12..L5 complete and any (liver, spleen) volume > 100 ml mean 20..60 HU",
    'all kidney cut, Manufacturer = "GE MEDICAL SYSTEMS"',
    "not (liver or spleen) and KVP in (80,120)",
    "women and (age > 40 and (liver and spleen))",
    "spleen above left kidney and liver below heart",
)


def chips(text: str):
    return chips_of(parse(text, TERMS), TERMS)


def parts(term: Term | None) -> list[Term]:
    if isinstance(term, And):
        return [part for one in term.terms for part in parts(one)]
    return [] if term is None else [term]


def term_of(text: str) -> Term | None:
    return parse(text, TERMS).term


def test_an_empty_question_has_no_parts():
    assert chips("") == ()


@pytest.mark.parametrize("question", QUESTIONS)
def test_all_parts_together_are_the_question(question):
    texts = [chip.text for chip in chips(question)]
    together = [part for text in texts for part in parts(term_of(text))]
    assert together == parts(term_of(question))
    assert len(texts) == len(parts(term_of(question)))


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_without_one_part_still_demands_all_others(question):
    whole = parts(term_of(question))
    for place, chip in enumerate(chips(question)):
        assert parts(term_of(chip.without)) == whole[:place] + whole[place + 1 :]


@pytest.mark.parametrize(
    ("question", "label"),
    [
        ("sacrum complete", "Sacrum, whole"),
        ("liver cut", "Liver, cut"),
        ("women", "Sex: female"),
        ("PatientSex != F", "Sex: not female"),
        ("age 40-60", "Age: 40 to 60 years"),
        ("slices <= 1.5 mm", "Slice thickness: at most 1.5 mm"),
        ("slices < 1.5 mm", "Slice thickness: under 1.5 mm"),
        ("StudyDate > 2020", "Study date: over 2020-12-31"),
        ("KVP = 120", "KVP: 120 kV"),
        ("age >= 40", "Age: at least 40 years"),
        ("age > 40", "Age: over 40 years"),
        ("Manufacturer in (GE, SIEMENS)", "Manufacturer: GE or SIEMENS"),
        ("contrast = *", "Contrast agent: any"),
        ("liver volume > 1.5 l", "Liver, over 1500 ml"),
        ("liver mean 20..60 HU", "Liver, mean 20 to 60 HU"),
        ("not prostate", "Not prostate"),
        ("liver or spleen", "Liver or spleen"),
        ("all kidney", "All kidney"),
        ("spleen above left kidney", "Spleen above left kidney"),
        ("not (liver and spleen)", "Not (liver and spleen)"),
    ],
)
def test_a_label_says_it_in_plain_words(question, label):
    assert [chip.label for chip in chips(question)] == [label]


def test_structures_that_no_person_named_are_named_up_to_three():
    names = ("heart", "kidney_left", "liver", "spleen", "sacrum")
    (shows,) = parts(term_of("any (heart, kidney_left, liver, spleen, sacrum)"))
    unnamed = Query(text="", term=type(shows)(structures=tuple(sorted(names))))
    (chip,) = chips_of(unnamed, TERMS)
    assert chip.label == "Any of heart, left kidney, liver and 2 more"
    assert term_of(chip.text) == unnamed.term


def test_anatomy_is_told_from_attributes():
    found = {chip.text: chip.about for chip in chips("liver and not (spleen or women) and women")}
    assert list(found.values()) == ["anatomy", "anatomy", "attribute"]


def test_the_text_of_a_part_is_canonical():
    for chip in chips("the whole sacrum, women 40-60"):
        assert format(parse(chip.text, TERMS)) == chip.text
