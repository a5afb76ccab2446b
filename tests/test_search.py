from __future__ import annotations

import re
import unicodedata
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomodex.errors import BadQuery
from tomodex.search import (
    ASKABLE,
    FIELDS,
    SEARCHABLE,
    Above,
    And,
    Below,
    Between,
    Has,
    Interval,
    Not,
    Or,
    Query,
    Shows,
    Term,
    format,
    parse,
)
from tomodex.terminology import load_terminology

WORDS = load_terminology()
LUMBAR = tuple(f"vertebrae_L{n}" for n in range(1, 6))
KIDNEYS = ("kidney_left", "kidney_right")


def meaning(text: str) -> Term | None:
    return parse(text, WORDS).term


def shows(*structures: str, **said: object) -> Shows:
    return Shows(structures=structures, **said)  # type: ignore[arg-type]


def complaint(text: str) -> BadQuery:
    with pytest.raises(BadQuery) as caught:
        parse(text, WORDS)
    return caught.value


def marked(text: str) -> str:
    """The part of the text that a complaint points at."""
    place = complaint(text).place
    assert place is not None
    return text[slice(*place)]


SEX = Has(keyword="PatientSex", values=("F",))
AGE = Has(keyword="PatientAge", interval=Interval(low=40, high=60))


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (
            "the whole sacrum, women 40-60, slices <= 1.5 mm",
            "sacrum complete and PatientSex = F and PatientAge 40..60 and SliceThickness <= 1.5",
        ),
        ("left autochthonous muscle between heart and L1", "autochthon_left between heart and L1"),
        ("liver, heart or spleen", "liver and (heart or spleen)"),
        (
            "Leber, Schichtdicke <= 3 mm, Jahr 2019..2020",
            "liver, SliceThickness <= 3, date 2019..2020",
        ),
        ("slice thickness 1..2", "SliceThickness 1..2"),
        ("slice thickness 1-2 mm", "SliceThickness 1..2"),
        ("sex = weiblich", "PatientSex = F"),
        ("PatientSex in (female, Other)", "PatientSex in (F, O)"),
        ("not men", "not PatientSex = M"),
    ],
)
def test_everyday_words_mean_what_keywords_do(text: str, same: str) -> None:
    assert meaning(text) == meaning(same)


@pytest.mark.parametrize(
    "text",
    [
        "women 40-60",
        "women 40\N{EN DASH}60",
        "Frauen 40 bis 60",
        "women aged 40-60",
        "female 40..60 years",
        "women Alter 40..60",
        "women age 40-60 years",
    ],
)
def test_people_have_a_sex_and_may_have_an_age(text: str) -> None:
    assert meaning(text) == And(terms=(SEX, AGE))


def test_a_month_is_not_taken_for_a_range_of_years() -> None:
    assert meaning("date = 2020-02") == meaning("StudyDate 2020-02-01..2020-02-29")
    assert "compared with what" in str(complaint("date 2020-02"))


def test_an_empty_search_finds_everything() -> None:
    assert parse("  ", WORDS) == Query(text="  ", term=None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sacrum", shows("sacrum")),
        ("left kidney", shows("kidney_left")),
        ("kidney left", shows("kidney_left")),
        ("linke Niere", shows("kidney_left")),
        ("kidney", shows(*KIDNEYS)),
        ("left autochthonous muscle", shows("autochthon_left")),
        ("sct:10200004", shows("liver")),
        ("rid:RID58", shows("liver")),
        ('"left kidney"', shows("kidney_left")),
        ("“left kidney”", shows("kidney_left")),
        ("A. subclavia", shows("subclavian_artery_left", "subclavian_artery_right")),
    ],
)
def test_a_structure_is_found_by_any_of_its_names(text: str, expected: Shows) -> None:
    assert meaning(text) == expected


def test_umlauts_may_be_typed_in_two_characters() -> None:
    assert meaning("Ru\u0308ckenmuskulatur") == meaning("Rückenmuskulatur")


@pytest.mark.parametrize(
    "text",
    [
        "sacrum complete",
        "sacrum whole",
        "the whole sacrum",
        "complete sacrum",
        "a complete sacrum",
        "showing the whole sacrum",
        "covers sacrum",
        "sacrum vollständig",
        "SACRUM COMPLETE",
    ],
)
def test_whole_can_be_said_in_several_ways(text: str) -> None:
    assert meaning(text) == shows("sacrum", completeness="complete")


def test_cut_and_visible_say_the_rest_of_completeness() -> None:
    assert meaning("sacrum cut") == shows("sacrum", completeness="cut")
    assert meaning("sacrum visible") == shows("sacrum")


def test_a_run_means_all_of_its_vertebrae() -> None:
    assert meaning("L1..L5") == shows(*LUMBAR, match="all")
    assert meaning("L1 to L5") == meaning("L5..L1") == meaning("L1..L5")
    assert meaning("any L1..L5") == shows(*LUMBAR)
    assert meaning("covers L1..L5") == meaning("L1..L5 complete")


def test_a_run_of_ribs_means_both_sides_and_may_be_short() -> None:
    both = ("rib_left_3", "rib_left_4", "rib_right_3", "rib_right_4")
    assert meaning("rib 3..rib 4") == shows(*both, match="all")
    assert meaning("rib 3..4") == shows(*both, match="all")


def test_a_group_means_any_of_its_structures_unless_all_is_said() -> None:
    assert meaning("all kidney complete") == shows(*KIDNEYS, match="all", completeness="complete")
    assert meaning("both kidneys") == meaning("every kidney") == meaning("all kidney")
    assert meaning("any (liver, left kidney)") == shows("kidney_left", "liver")
    assert meaning("all (liver, left kidney)") == shows("kidney_left", "liver", match="all")


def test_all_of_a_group_is_what_one_task_can_show() -> None:
    lobes = [name for name in WORDS.resolve("lung") if name.startswith("lung_") and "lobe" in name]
    assert meaning("all lung") == shows(*sorted(lobes), match="all")
    assert meaning("all lumbar spine") == shows(*LUMBAR, match="all")
    assert set(LUMBAR) < set(WORDS.resolve("lumbar spine")), "else this test shows nothing"


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("liver volume > 1500 ml", Interval(low=1500.0, low_open=True)),
        ("liver volume >1500", Interval(low=1500.0, low_open=True)),
        ("liver volume >= 1.5 l", Interval(low=1500.0)),
        ("liver volume>=1.5l", Interval(low=1500.0)),
        ("liver volume < 1500 cm3", Interval(high=1500.0, high_open=True)),
        ("liver volume ≤ 1500", Interval(high=1500.0)),
        ("liver volume = 1500", Interval(low=1500.0, high=1500.0)),
        ("liver volume 1..2 l", Interval(low=1000.0, high=2000.0)),
        ("liver volume 900 ml..2 l", Interval(low=900.0, high=2000.0)),
        ("liver with volume = 1..2", Interval(low=1.0, high=2.0)),
        ("liver volume > 1 volume <= 2", Interval(low=1.0, low_open=True, high=2.0)),
    ],
)
def test_a_volume_is_bounded_in_ml_or_litres(text: str, interval: Interval) -> None:
    assert meaning(text) == shows("liver", volume_ml=interval)


def test_density_is_bounded_in_hu_and_may_be_negative() -> None:
    expected = shows("liver", completeness="complete", mean_hu=Interval(low=-20.0, high=60.0))
    assert meaning("liver complete mean -20..60 HU") == expected


def test_structures_are_placed_between_above_and_below_others() -> None:
    muscle, heart, l1 = shows("autochthon_left"), shows("heart"), shows("vertebrae_L1")
    expected = Between(subject=muscle, one=heart, other=l1)
    assert meaning("left autochthon between heart and L1") == expected
    assert meaning("heart above L1") == Above(subject=heart, landmark=l1)
    assert meaning("L1 below complete heart") == Below(
        subject=l1, landmark=shows("heart", completeness="complete")
    )


def test_the_and_after_between_belongs_to_it() -> None:
    assert meaning("liver between heart and L1 and sacrum") == And(
        terms=(meaning("liver between heart and L1"), shows("sacrum"))  # type: ignore[arg-type]
    )


def test_not_binds_tighter_than_and_and_that_tighter_than_or() -> None:
    liver, heart, sacrum = shows("liver"), shows("heart"), shows("sacrum")
    expected = Or(terms=(liver, And(terms=(Not(term=heart), sacrum))))
    assert meaning("liver or not heart and sacrum") == expected
    assert meaning("liver | !heart & sacrum") == expected
    assert meaning("Leber oder nicht Herz und Sacrum") == expected
    assert meaning("(liver or not heart) and sacrum") == And(
        terms=(Or(terms=(liver, Not(term=heart))), sacrum)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Modality = CT", Has(keyword="Modality", values=("CT",))),
        ("modality=CT", Has(keyword="Modality", values=("CT",))),
        ("PatientSex in (F, O)", Has(keyword="PatientSex", values=("F", "O"))),
        ("PatientSex != F", Not(term=Has(keyword="PatientSex", values=("F",)))),
        (
            'Manufacturer = "GE MEDICAL SYSTEMS"',
            Has(keyword="Manufacturer", values=("GE MEDICAL SYSTEMS",)),
        ),
        ("ConvolutionKernel = B*", Has(keyword="ConvolutionKernel", values=("B*",))),
        ("ConvolutionKernel = A", Has(keyword="ConvolutionKernel", values=("A",))),
        ("ConvolutionKernel = BONE+", Has(keyword="ConvolutionKernel", values=("BONE+",))),
        ("ConvolutionKernel = I31f\\3", Has(keyword="ConvolutionKernel", values=("I31f\\3",))),
        ("ContrastBolusAgent = *", Has(keyword="ContrastBolusAgent", values=("*",))),
        ("KVP = *", Has(keyword="KVP", values=("*",))),
        ("segmented = yes", Has(keyword="segmented", values=("yes",))),
        ("KVP = 120", Has(keyword="KVP", interval=Interval(low=120.0, high=120.0))),
        (
            "SliceThickness<=1.5 mm",
            Has(keyword="SliceThickness", interval=Interval(high=1.5)),
        ),
        (
            "scan_length_mm >= 40 cm",
            Has(keyword="scan_length_mm", interval=Interval(low=400.0)),
        ),
        ("PatientAge 40..60", Has(keyword="PatientAge", interval=Interval(low=40.0, high=60.0))),
        (
            "PatientAge = 40 to 60 years",
            Has(keyword="PatientAge", interval=Interval(low=40.0, high=60.0)),
        ),
        (
            "PatientAge < 6 months",
            Has(keyword="PatientAge", interval=Interval(high=0.5, high_open=True)),
        ),
        (
            "KVP in (100, 120)",
            Or(
                terms=(
                    Has(keyword="KVP", interval=Interval(low=100.0, high=100.0)),
                    Has(keyword="KVP", interval=Interval(low=120.0, high=120.0)),
                )
            ),
        ),
    ],
)
def test_attributes_are_asked_for_by_keyword(text: str, expected: Term) -> None:
    assert meaning(text) == expected


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("StudyDate 2019..2021", "2019-01-01", "2021-12-31"),
        ("StudyDate 2019-05..2020", "2019-05-01", "2020-12-31"),
        ("StudyDate = 2020-02", "2020-02-01", "2020-02-29"),
        ("StudyDate = 20200131", "2020-01-31", "2020-01-31"),
        ("StudyDate >= 2020-01-01", "2020-01-01", None),
        ("StudyDate <= 2020", None, "2020-12-31"),
    ],
)
def test_a_year_or_month_stands_for_all_of_its_days(
    text: str, low: str | None, high: str | None
) -> None:
    assert meaning(text) == Has(keyword="StudyDate", interval=Interval(low=low, high=high))


def test_after_a_year_begins_when_it_is_over() -> None:
    after = Interval(low="2020-12-31", low_open=True)
    assert meaning("StudyDate > 2020") == Has(keyword="StudyDate", interval=after)
    before = Interval(high="2020-01-01", high_open=True)
    assert meaning("StudyDate < 2020") == Has(keyword="StudyDate", interval=before)


@pytest.mark.parametrize(
    ("text", "place", "offer"),
    [
        ("liver and sacrun complete", "sacrun", "sacrum"),
        ("liver sacrum", "liver sacrum", "liver and sacrum"),
        ("L1-L5", "L1-L5", "L1..L5"),
        ("PatentAge 40..60", "PatentAge 40", "PatientAge"),
        ("Slicethicknes <= 1.5", "Slicethicknes", "SliceThickness"),
        ("age 40", "age 40", "PatientAge = 40"),
        ("women liver", "women liver", "women and liver"),
        ("PatientAge 60..40", "PatientAge 60..40", "40..60"),
        ("PatientAge ..60", "PatientAge ..60", "PatientAge <= 60"),
        ("Manufacturer = GE MEDICAL", "GE MEDICAL", 'Manufacturer = "GE MEDICAL"'),
        ("liver > 1500 ml", "liver > 1500 ml", "liver volume > 1500 ml"),
        ("liver 20..60 HU", "liver 20..60 HU", "liver mean 20..60 HU"),
        ("BodyPartExamined = whole", "whole", '"whole"'),
        ("Manufacturer > A", "A", "Manufacturer = A"),
        ('Manufacturer = ""', '""', "not Manufacturer = *"),
        ("liver volume > 3 volume > 5", "volume > 5", "volume 100..200"),
        ("liver..heart", "liver..heart", "all (liver, heart)"),
    ],
)
def test_an_error_marks_the_place_and_offers_what_was_meant(
    text: str, place: str, offer: str
) -> None:
    assert marked(text) == place
    assert offer in complaint(text).suggestions
    assert f"{' ' * text.index(place)}{'^' * len(place)}" in str(complaint(text))
    assert f"did you mean: {complaint(text).suggestions[0]}" in str(complaint(text))


@pytest.mark.parametrize(
    ("text", "place", "sentence"),
    [
        ("liver and", "", "a name or value is missing"),
        ("not", "", "a name or value is missing"),
        ("and liver", "and", "something is missing before 'and'"),
        ("liver and or heart", "or", "something is missing before 'or'"),
        ("(liver", "", "')' is missing"),
        ("liver)", ")", "there is no '('"),
        ("liver,", "", "a name or value is missing"),
        (", liver", ",", "a name or value is missing"),
        ("liver complete heart", "heart", "'and' or 'or' is missing"),
        ("SliceThickness <= 1,5", ",", "decimals are written with a point"),
        ("liver volume > 3 HU", "3 HU", "volume is in ml"),
        ("liver mean > 3 ml", "3 ml", "mean is in hu"),
        ("SliceThickness > 1 kV", "1 kV", "SliceThickness is in mm or cm"),
        ("Rows = 512 mm", "512 mm", "a number without a unit"),
        ("KVP = 1e999", "1e999", "KVP is a number"),
        ("PatientAge <= old", "old", "PatientAge is a number"),
        ("StudyDate = 2019-02-30", "2019-02-30", "no such day"),
        ("StudyDate = yesterday", "yesterday", "StudyDate is a date: 2021"),
        ("kidney complete cut", "complete cut", "cannot be both"),
        ("heart above L1..L5", "L1..L5", "a landmark is one place"),
        ("heart between liver", "", "'and' is missing"),
        ("covers liver cut", "liver", "'covers' takes structures alone"),
        ('"liver', '"', "this quote is not closed"),
        ("liver ; heart", ";", "this means nothing"),
        ("PatientSex in F", "F", "'(' is missing"),
        ("SliceThickness", "SliceThickness", "compared with what?"),
        ("liver volume != 3", "3", "volume takes <"),
    ],
)
def test_an_error_says_what_is_wrong_and_where(text: str, place: str, sentence: str) -> None:
    assert sentence in str(complaint(text))
    assert marked(text) == place


def test_an_error_in_a_long_search_shows_only_its_surroundings() -> None:
    message = str(complaint("liver and " * 40 + "sacrun" + " and liver" * 40))
    _, line, mark, _ = message.splitlines()
    assert len(line) < 150
    assert line[mark.index("^") :].startswith("sacrun")


def test_an_error_never_repeats_control_characters() -> None:
    assert "\x1b" not in str(complaint("liver and \x1b[31m;"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("liver or " * 300 + "liver", "at most 2,000 characters"),
        ("liver & " * 100 + "liver", "at most 100 terms"),
        ("!" * 21 + "liver", "more than 20 parts inside each other"),
        ("!(liver|(heart&" * 10 + "liver" + "))" * 10, "more than 20 parts"),
    ],
)
def test_a_search_has_its_limits(text: str, sentence: str) -> None:
    assert sentence in str(complaint(text))


def test_parentheses_alone_may_be_many() -> None:
    assert meaning("(" * 900 + "liver" + ")" * 900) == shows("liver")


# fmt: off
PIECES = [
    "liver", "kidney", "L1", "L5", "rib", "3", "sakrum", "sct:1", "and", "or", "not", "(", ")",
    ",", "..", "to", "between", "above", "below", "covers", "the", "whole", "complete", "cut",
    "all", "any", "both", "volume", "mean", ">", "<=", "=", "!=", "in", "with", "1500", "1.5",
    "60", "HU", "ml", "PatientAge", "StudyDate", "2019", "2019-13", "Manufacturer", "B*", '"',
    '"xy"', "“", "!", "&", "\x00", "é", "-", "+", "*", "…", "segmented", "=", "yes",
]
# fmt: on


@given(
    st.one_of(st.text(max_size=80), st.lists(st.sampled_from(PIECES), max_size=14).map(" ".join))
)
def test_no_text_can_do_worse_than_be_refused(text: str) -> None:
    try:
        query = parse(text, WORDS)
    except BadQuery as refused:
        place = refused.place
        assert place is not None
        assert 0 <= place[0] <= place[1] <= len(text) + 80
    else:
        assert parse(format(query), WORDS).term == query.term


NAMES = st.sampled_from(["kidney_left", "liver", "rib_right_3", "sacrum", "vertebrae_L1"])
NUMBERS = st.floats(0, 1e6)
VALUES = st.text(min_size=1, max_size=12).map(partial(unicodedata.normalize, "NFC"))


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    low, high = sorted((draw(NUMBERS), draw(NUMBERS)))
    kinds = [
        Interval(low=low, high=high),
        Interval(low=low, low_open=True, high=high),
        Interval(low=low, high=high, high_open=True),
        Interval(low=low, low_open=True),
        Interval(high=high),
    ]
    return draw(st.sampled_from(kinds))


@st.composite
def mentions(draw: st.DrawFn, match: Literal["any", "all"] = "any") -> Shows:
    names = sorted(draw(st.sets(NAMES, min_size=1, max_size=3)))
    return Shows(
        structures=tuple(names),
        match=match if len(names) > 1 else "any",
        completeness=draw(st.sampled_from(["any", "complete", "cut"])),
        volume_ml=draw(st.none() | intervals()),
        mean_hu=draw(st.none() | intervals()),
    )


@st.composite
def attributes(draw: st.DrawFn) -> Has:
    kind = draw(st.sampled_from(["text", "number", "date"]))
    if kind == "text":
        return Has(keyword="Manufacturer", values=tuple(draw(st.lists(VALUES, min_size=1))))
    if kind == "date":
        first, last = sorted((draw(st.dates()), draw(st.dates())))
        interval = Interval(low=first.isoformat(), high=last.isoformat())
        return Has(keyword="StudyDate", interval=interval)
    # A range with an open end is two terms for an attribute, as it has one value.
    one_sided = intervals().filter(
        lambda i: None in (i.low, i.high) or not (i.low_open or i.high_open)
    )
    return Has(keyword="SliceThickness", interval=draw(one_sided))


@st.composite
def leaves(draw: st.DrawFn) -> Term:
    subject, one, other = draw(mentions("all")), draw(mentions()), draw(mentions())
    kinds: list[Term] = [
        subject,
        draw(attributes()),
        Between(subject=subject, one=one, other=other),
        Above(subject=subject, landmark=one),
        Below(subject=subject, landmark=other),
    ]
    return draw(st.sampled_from(kinds))


@st.composite
def terms(draw: st.DrawFn, depth: int = 3) -> Term:
    kind = draw(st.sampled_from(["leaf", "and", "or", "not"])) if depth else "leaf"
    match kind:
        case "and" | "or":
            parts = tuple(draw(st.lists(terms(depth - 1), min_size=2, max_size=3)))
            return And(terms=parts) if kind == "and" else Or(terms=parts)
        case "not":
            return Not(term=draw(terms(depth - 1)))
    return draw(leaves())


@given(terms())
def test_a_query_survives_being_written_and_read(term: Term) -> None:
    text = format(Query(text="", term=term))
    if len(text) <= 2000:
        assert meaning(text) == term


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("the whole Kreuzbein", "sacrum complete"),
        ("linke Niere und (Leber oder Milz)", "kidney_left and (liver or spleen)"),
        ("covers   T12 to L5", "T12..L5 complete"),
        ("both kidneys volume > 0.1 l", "all kidneys volume > 100 ml"),
        ('"Head and neck" cut', '"Head and neck" cut'),
        ("PatientSex != F", "not PatientSex = F"),
        ("StudyDate 2019..2020", "StudyDate 2019-01-01..2020-12-31"),
        ("not (not liver)", "not not liver"),
        ("(liver)", "liver"),
        ("", ""),
    ],
)
def test_a_query_is_written_in_one_way_with_the_words_of_the_person(typed: str, text: str) -> None:
    assert format(parse(typed, WORDS)) == text


def test_every_structure_is_found_by_its_own_name() -> None:
    for name in WORDS.structures:
        term = meaning(name)
        assert isinstance(term, Shows)
        assert name in term.structures


def test_every_keyword_can_be_asked_for() -> None:
    for keyword in SEARCHABLE:
        assert meaning(f"{keyword.lower()} = *") == Has(keyword=keyword, values=("*",))


def documented() -> list[str]:
    """Every search that the page of the language shows as one."""
    page = (Path(__file__).parents[1] / "docs/reference/query-language.md").read_text()
    page = page.partition("\n## Order\n")[0]
    tables = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    typed = [text for cell in tables for text in re.findall(r"`([^`]+)`", cell)]
    blocks = [line[4:] for line in page.splitlines() if line.startswith("    ")]
    return typed + [line for line in blocks if " and " in line or "volume" in line]


def test_every_documented_search_is_one() -> None:
    wrong = []
    for text in documented():
        # Cells show parts of a search, too: what follows a structure, other signs, other values.
        for whole in (text, f"liver {text}", f"KVP {text} 1", f"KVP = {text}", f"{text} = *"):
            try:
                meaning(whole.replace("A ", "liver ").replace(" B", " heart").replace(" C", " L1"))
            except BadQuery:
                continue
            break
        else:
            wrong.append(text)
    assert wrong == [
        "structure",
        "StudyYear",
        "AgeDecade",
        "SliceThicknessClass",
        'tomodex search "sacrum complete and PatientSex = F and PatientAge 40..60 '
        'and SliceThickness <= 1.5"',
        "  liver and sacrun complete",
    ]


def test_every_attribute_and_field_is_documented() -> None:
    page = (Path(__file__).parents[1] / "docs/reference/query-language.md").read_text()
    assert [keyword for keyword in {*ASKABLE, *FIELDS} if f"`{keyword}`" not in page] == []
