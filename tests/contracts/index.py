"""What every index promises, checked against a plain reading of the query on every series."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import date, timedelta
from functools import cache
from itertools import product

import numpy as np
import pytest

from tomodex.annotation import AnnotatedSeries, Annotation, Image, Provenance
from tomodex.errors import BadQuery
from tomodex.indexes import Index
from tomodex.measurement import Measurement
from tomodex.search import (
    FIELDS,
    TOLERANCE_MM,
    Above,
    And,
    Below,
    Between,
    CellCount,
    Has,
    Interval,
    Not,
    Or,
    Order,
    Page,
    Query,
    Sample,
    Shows,
    Term,
    Totals,
    attributes_of,
    is_anatomical,
    parse,
    parse_order,
    patients_key,
)
from tomodex.search.crowd import crowd_of
from tomodex.segmentation import Algorithm
from tomodex.series import Series
from tomodex.terminology import load_terminology

#: Where a structure usually begins and ends from foot to head, mm.
BODY: Mapping[str, tuple[float, float]] = {
    "sacrum": (0, 110),
    "prostate": (-30, 10),
    "urinary_bladder": (-20, 60),
    **{f"vertebrae_L{n}": (110 + 35 * (5 - n), 150 + 35 * (5 - n)) for n in range(1, 6)},
    **{f"vertebrae_T{n}": (280 + 25 * (12 - n), 310 + 25 * (12 - n)) for n in (12, 11, 10, 9)},
    "kidney_left": (190, 300),
    "kidney_right": (180, 290),
    "spleen": (260, 370),
    "liver": (200, 390),
    "gallbladder": (210, 250),
    "pancreas": (220, 290),
    "autochthon_left": (20, 600),
    "autochthon_right": (25, 600),
    "heart": (370, 480),
    **{f"rib_left_{n}": (300 + 20 * (12 - n), 360 + 20 * (12 - n)) for n in (12, 11, 10)},
    **{f"rib_right_{n}": (305 + 20 * (12 - n), 355 + 20 * (12 - n)) for n in (12, 11, 10)},
}

QUERIES = """
sacrum
sacrum complete
sacrum cut
left kidney
kidney
kidney complete
kidney cut
all kidney
all kidney complete
all kidney cut
not prostate
(liver or spleen) and not gallbladder
liver and spleen and pancreas complete
covers T12..L5
T11..L1
any T9..T12 complete
lumbar spine complete
rib 10..12
thyroid gland
not thyroid gland
all (thyroid gland, liver)
thyroid gland volume > 1
liver volume > 1500 ml
liver volume <= 1.5 l
liver volume 1..1.5 l complete
liver volume > 1000 volume < 1200
kidney volume > 160
all kidney volume > 160
kidney cut volume < 100
liver mean 40..60 HU
liver mean < 20
spleen complete mean >= 50 and liver mean < 50
kidney between T12 and L4
left autochthon between heart and L1
pancreas between heart and sacrum
pancreas between sacrum and heart
spleen between liver and heart
L3 between L2 and L4
kidney between thoracic vertebra and lumbar vertebra
any (liver, spleen, pancreas) between rib and any (sacrum, L5, L4)
all kidney between thoracic vertebra and sacrum
all L2..L4 between rib and sacrum
complete kidney between T12 complete and L4
liver between sacrum and thyroid gland
gallbladder between kidney and kidney
heart above liver
liver above sacrum
kidney above L5
all kidney above lumbar spine
sacrum below L1
liver below heart complete
kidney below rib
heart above thyroid gland
liver volume > 1400 above L5
PatientSex = F
PatientSex = f
PatientSex != F
PatientSex in (F, O)
PatientAge 40..60
PatientAge < 40
not PatientAge < 40
SliceThickness <= 1.5
SliceThickness = 1.5
SliceThickness in (1, 3)
KVP = *
not KVP = *
Manufacturer = siemens
Manufacturer = "Müller & Söhne"
Manufacturer = "MÜLLER*"
Manufacturer = *mens
Manufacturer = *s
Manufacturer = "*E M*"
ConvolutionKernel = B*
ConvolutionKernel = "100%"
ConvolutionKernel = "B_0*"
StudyDate 2019..2021
StudyDate = 2020
StudyDate >= 2020-06-15
StudyDate < 2020
not StudyDate < 2020
StudyDate = *
slice_count > 200
slice_spacing_mm < 2
scan_length_mm 200..500
tilt_deg > 0
plane = axial
plane = coronal or tilt_deg >= 10
segmented = yes
segmented = no
segmented = waiting
StudyDescription = *
scan_bottom_mm < 0
scan_top_mm 300..500
size_bytes > 100 MB
not size_bytes = *
SeriesInstanceUID = 1.2.* and liver
SeriesInstanceUID != *7
StudyInstanceUID in (1.3.7, 1.3.8, 1.3.999)
StudyInstanceUID = 1.3.1* or StudyInstanceUID = *.3.2*
kidney complete and PatientSex = F and PatientAge 30..70
(sacrum complete or heart complete) and (PatientSex = M or not liver) and not (spleen cut)
not (kidney between T12 and L4)
not not liver
""".strip().splitlines()


def matches(term: Term | None, series: AnnotatedSeries) -> bool:
    """Whether the series is one that the term finds, read as the language's page says it."""
    match term:
        case None:
            return True
        case And(terms=terms):
            return all(matches(part, series) for part in terms)
        case Or(terms=terms):
            return any(matches(part, series) for part in terms)
        case Not(term=part):
            known = series.provenance.algorithm is not None or not is_anatomical(part)
            return known and not matches(part, series)
        case Has():
            return has(term, facts(series).get(term.keyword))
        case Shows():
            return shows(term, series, lambda _: True)
        case Above(subject=subject, landmark=landmark):
            return shows(
                subject, series, lambda s: any(is_above(s, x) for x in seen(landmark, series))
            )
        case Below(subject=subject, landmark=landmark):
            return shows(
                subject, series, lambda s: any(is_above(x, s) for x in seen(landmark, series))
            )
        case Between(subject=subject, one=one, other=other):
            pairs = list(product(seen(one, series), seen(other, series)))
            return shows(subject, series, lambda s: any(is_between(s, *pair) for pair in pairs))


def shows(term: Shows, series: AnnotatedSeries, also: Callable[[Measurement], bool]) -> bool:
    fitting = {a.structure for a in series.annotations if fits(term, a) and also(a.measurement)}
    return bool(fitting) if term.match == "any" else fitting == set(term.structures)


def seen(term: Shows, series: AnnotatedSeries) -> list[Measurement]:
    return [a.measurement for a in series.annotations if fits(term, a)]


def fits(term: Shows, annotation: Annotation) -> bool:
    found = annotation.measurement
    whole = {"any": True, "complete": found.complete, "cut": not found.complete}
    return (
        annotation.structure in term.structures
        and whole[term.completeness]
        and (term.volume_ml is None or lies_in(found.volume_ml, term.volume_ml))
        and (term.mean_hu is None or lies_in(found.mean_hu, term.mean_hu))
    )


def from_the_head(one: AnnotatedSeries) -> list[tuple[str, bool, float, float, float, float]]:
    """What a series shows from head to foot: name, complete, volume, density, bottom, top."""
    measured = {a.structure: a.measurement for a in one.annotations}
    seen = [
        (name, m.complete, m.volume_ml, m.mean_hu, m.box_min_mm[2], m.box_max_mm[2])
        for name, m in measured.items()
    ]
    return sorted(seen, key=lambda s: (-np.float32(s[-1]), s[0]))


def is_above(upper: Measurement, lower: Measurement) -> bool:
    return upper.box_min_mm[2] >= lower.box_max_mm[2] - TOLERANCE_MM


def is_between(subject: Measurement, one: Measurement, other: Measurement) -> bool:
    bottom, top = subject.box_min_mm[2], subject.box_max_mm[2]
    for lower, upper in ((one, other), (other, one)):
        start, end = lower.box_max_mm[2], upper.box_min_mm[2]
        inside = bottom >= start - TOLERANCE_MM and top <= end + TOLERANCE_MM
        fills = bottom <= start + TOLERANCE_MM and top >= end - TOLERANCE_MM
        if start <= end + TOLERANCE_MM and (inside or fills):
            return True
    return False


def facts(one: AnnotatedSeries) -> dict[str, str | float]:
    """Everything that a term can compare."""
    uids = {"SeriesInstanceUID": one.series.series_uid, "StudyInstanceUID": one.series.study_uid}
    return {**attributes_of(one), **uids}


def has(term: Has, value: str | float | None) -> bool:
    if value is None:
        return False
    if term.interval and not lies_in(value, term.interval):
        return False
    return not term.values or any(is_like(str(value), pattern) for pattern in term.values)


def is_like(value: str, pattern: str) -> bool:
    value, asked = value.lower(), pattern.lower().strip("*")
    match pattern.startswith("*"), pattern.endswith("*"):
        case True, True:
            return asked in value
        case True, False:
            return value.endswith(asked)
        case False, True:
            return value.startswith(asked)
    return value == asked


def lies_in(value: str | float, interval: Interval) -> bool:
    low, high = interval.low, interval.high
    if low is not None and (value < low or (value == low and interval.low_open)):  # type: ignore[operator]
        return False
    return not (
        high is not None and (value > high or (value == high and interval.high_open))  # type: ignore[operator]
    )


def counts(matching: Sequence[AnnotatedSeries]) -> tuple[int, int, int]:
    return (
        len(matching),
        len({a.series.study_uid for a in matching}),
        len({a.series.patient for a in matching if a.series.patient}),
    )


def newest_first(matching: Sequence[AnnotatedSeries]) -> list[str]:
    """UIDs in the order of the pages: by study date downwards, then UID; without a date last."""
    by_uid = sorted(matching, key=lambda a: a.series.series_uid)
    by_date = sorted(
        by_uid, key=lambda a: str(a.series.attributes.get("StudyDate", "")), reverse=True
    )
    return [a.series.series_uid for a in by_date]


def in_order(matching: Sequence[AnnotatedSeries], order: Order) -> list[str]:
    """UIDs in an order: those without what it goes by last, and what is alike newest first."""
    by_uid = {one.series.series_uid: one for one in matching}
    newest = newest_first(matching)
    keys = {uid: _key(by_uid[uid], order) for uid in newest}
    known = [uid for uid in newest if keys[uid] is not None]
    absent = [uid for uid in newest if keys[uid] is None]
    # Sorted so, too, what is alike stays as it was.
    return [*sorted(known, key=keys.__getitem__, reverse=order.greatest_first), *absent]


def _key(one: AnnotatedSeries, order: Order) -> str | float | None:
    if isinstance(order.by, str):
        return attributes_of(one).get(order.by)
    measured = {a.structure: a.measurement for a in one.annotations}.get(order.by.structure)
    # Indexes keep measurements in single precision.
    return None if measured is None else float(np.float32(getattr(measured, order.by.what)))


#: With ties and series that have none of what they go by.
ORDERS = """
newest
oldest
thinnest
thickest
youngest
eldest
KVP
-KVP
-slice_count
scan_length_mm
size_bytes
tilt_deg
largest liver
smallest liver
densest spleen
least dense spleen
largest Niere links
smallest thyroid gland
""".strip().splitlines()


@cache
def archive() -> tuple[AnnotatedSeries, ...]:
    """300 series of 100 studies of about 40 patients, always the same."""
    dice = random.Random(7)
    return tuple(_series(number, dice) for number in range(300))


def _series(number: int, dice: random.Random) -> AnnotatedSeries:
    start = dice.uniform(-50, 350)
    end = start + dice.uniform(40, 450)
    segmented = dice.random() > 0.05
    annotations = _annotations(start, end, dice) if segmented else ()
    spacing, uid = dice.choice([0.75, 1.5, 3.0]), dice.randrange(10**6)
    attributes = _attributes(dice)
    image = Image(
        shape=(int((end - start) / spacing), 512, 512),
        spacing_mm=(spacing, 0.8, 0.8),
        affine=((1.0, 0.0, 0.0, 0.0),) * 4,
        plane=dice.choice(["axial", "axial", "coronal"]),
        oblique_deg=0.0,
        tilt_deg=dice.choice([0.0, 0.0, 12.5]),
        box_min_mm=(-200.0, -200.0, start),
        box_max_mm=(200.0, 200.0, end),
    )
    return AnnotatedSeries(
        series=Series(
            series_uid=f"1.2.{uid}.{number}",
            study_uid=f"1.3.{number // 3}",
            patient=f"p{number // 8}" if number % 50 else "",
            modality="CT",
            instance_count=number if number % 3 else None,
            attributes=attributes,
        ),
        image=image if segmented or number % 2 else None,
        annotations=annotations,
        provenance=Provenance(
            algorithm=Algorithm(name="dice") if segmented else None,
            terminology="t",
            software={},
            source="folder:",
            configuration="default",
            started="2026-01-01T00:00:00+00:00",
            finished="2026-01-01T00:00:01+00:00",
        ),
    )


def _attributes(dice: random.Random) -> dict[str, str | float]:
    """Some attributes, now and then one missing, and one that no index knows."""
    day = date(2018, 1, 1) + timedelta(days=dice.randrange(1800))
    known: dict[str, str | float] = {
        "Modality": "CT",
        "StudyDate": day.isoformat(),
        "PatientAge": float(dice.randrange(0, 100)),
        "PatientSex": dice.choice(["F", "F", "M", "O"]),
        "Manufacturer": dice.choice(["SIEMENS", "GE MEDICAL SYSTEMS", "Müller & Söhne"]),
        "ConvolutionKernel": dice.choice(["B30f", "B_0s", "BX0", "FC08", "100%", "1000"]),
        "SliceThickness": dice.choice([0.6, 1.0, 1.5, 3.0]),
        "KVP": dice.choice([100.0, 120.0]),
        "Rows": 512.0,
        "Columns": 512.0,
    }
    kept = {k: v for k, v in known.items() if k == "Modality" or dice.random() > 0.1}
    return {**kept, "NobodyKnows": "this"}


def _annotations(start: float, end: float, dice: random.Random) -> tuple[Annotation, ...]:
    shift, found = dice.uniform(-20, 20), []
    for name, (low, high) in BODY.items():
        bottom, top = low + shift + dice.uniform(-15, 15), high + shift + dice.uniform(-15, 15)
        if top <= start + 1 or bottom >= end - 1 or dice.random() < 0.1:
            continue
        sides = (*(("inferior",) if bottom < start else ()), *(("superior",) if top > end else ()))
        found.append(
            Annotation(
                structure=name,
                codings=(),
                laterality="",
                measurement=Measurement(
                    voxel_count=1000,
                    volume_ml=dice.uniform(0.5, 1.5) * (1300 if name == "liver" else 150),
                    mean_hu=dice.gauss(50, 20),
                    sd_hu=10.0,
                    centroid_mm=(0.0, 0.0, 0.0),
                    box_min_mm=(0.0, 0.0, max(bottom, start)),
                    box_max_mm=(1.0, 1.0, min(top, end)),
                    cut=sides,
                ),
            )
        )
    return tuple(found)


def fill(index: Index) -> Index:
    index.write(archive()[:100])
    index.write(archive()[100:])
    return index


def asked(text: str) -> Query:
    return parse(text, load_terminology())


def ordered(text: str) -> Order:
    return parse_order(text, load_terminology())


def tally(pages: Page) -> tuple[int, int, int]:
    return pages.series, pages.studies, pages.patients


def cell_of(matching: Sequence[AnnotatedSeries]) -> CellCount:
    patients = {one.series.patient for one in matching if one.series.patient}
    return CellCount(
        series=len(matching), patients=len(patients), patients_key=patients_key(patients)
    )


def values_of(one: AnnotatedSeries, field: str) -> set[str]:
    """What a series has of a field whose values are counted."""
    match field:
        case "structure":
            return {a.structure for a in one.annotations}
        case "complete":
            return {a.structure for a in one.annotations if a.measurement.complete}
        case "cut":
            return {a.structure for a in one.annotations if not a.measurement.complete}
    keyword, name = NAMED.get(field, (field, str))
    value = attributes_of(one).get(keyword)
    return set() if value is None else {name(value)}


def _decade(age: str | float) -> str:
    first = int(float(age) // 10 * 10)
    return f"{first}-{first + 9}"


def _thickness(mm: str | float) -> str:
    if float(mm) <= 1:
        return "up to 1 mm"
    if float(mm) <= 1.5:
        return "over 1 to 1.5 mm"
    if float(mm) <= 3:
        return "over 1.5 to 3 mm"
    return "over 3 to 5 mm" if float(mm) <= 5 else "over 5 mm"


#: Fields that are made of an attribute.
NAMED: Mapping[str, tuple[str, Callable[[str | float], str]]] = {
    "StudyYear": ("StudyDate", lambda day: str(day)[:4]),
    "AgeDecade": ("PatientAge", _decade),
    "SliceThicknessClass": ("SliceThickness", _thickness),
}


#: Opens an empty index, another each time.
Opening = Callable[[], AbstractContextManager[Index]]


class IndexContract:
    """Inherit, and give the fixture `opening`, of the class."""

    @pytest.fixture
    def index(self, opening: Opening) -> Iterator[Index]:
        """An empty index."""
        with opening() as index:
            yield index

    @pytest.fixture
    def filled(self, index: Index) -> Index:
        """One with the archive."""
        return fill(index)

    @pytest.fixture(scope="class")
    @classmethod
    def kept(cls, opening: Opening) -> Iterator[Index]:
        """The same for tests that change nothing."""
        with opening() as index:
            yield fill(index)

    def test_every_search_finds_what_a_plain_reading_finds(self, kept: Index) -> None:
        wrong = []
        for text in ["", *QUERIES]:
            query = asked(text)
            matching = [one for one in archive() if matches(query.term, one)]
            page = kept.search(query, limit=1000)
            found = [hit.series_uid for hit in page.hits]
            if tally(page) != counts(matching) or found != newest_first(matching):
                wrong.append(f"{text}: {tally(page)}, not {counts(matching)}")
            if page.patients_key != patients_key(one.series.patient for one in matching):
                wrong.append(f"{text}: a key of other patients")
        assert not wrong

    def test_the_searches_tell_series_apart(self) -> None:
        terms = {text: asked(text).term for text in QUERIES}
        found = {text: sum(matches(terms[text], one) for one in archive()) for text in QUERIES}
        empty = [text for text, count in found.items() if not count]
        assert sorted(empty) == sorted(text for text in QUERIES if text in NOTHING)

    def test_random_queries_find_what_a_plain_reading_finds(self, kept: Index) -> None:
        dice = random.Random(11)
        for _ in range(40):
            term = _term(dice, 3)
            matching = [one for one in archive() if matches(term, one)]
            page = kept.search(Query(text="", term=term), limit=1000)
            assert tally(page) == counts(matching), term
            assert [hit.series_uid for hit in page.hits] == newest_first(matching), term

    def test_pages_follow_one_another(self, kept: Index) -> None:
        query = asked("kidney")
        whole = kept.search(query, limit=1000).hits
        assert len(whole) > 50
        paged = [
            hit
            for offset in range(0, len(whole) + 20, 20)
            for hit in kept.search(query, limit=20, offset=offset).hits
        ]
        assert paged == list(whole)
        assert kept.search(query, limit=20, offset=40).offset == 40
        assert kept.search(query, limit=0).series == len(whole)
        assert kept.search(query, limit=0).hits == ()

    def test_hits_come_in_the_order_that_is_asked_for(self, kept: Index) -> None:
        for words in ORDERS:
            order = ordered(words)
            page = kept.search(asked(""), 1000, order=order)
            assert [hit.series_uid for hit in page.hits] == in_order(archive(), order), words
            assert tally(page) == counts(archive()), words

    def test_rows_come_in_the_order_that_is_asked_for(self, kept: Index) -> None:
        matching = [one for one in archive() if matches(asked("kidney").term, one)]
        for words in ("oldest", "-KVP", "smallest liver"):
            rows = kept.rows(asked("kidney"), [], None, ordered(words))
            found = [hit.series_uid for some in rows for hit in some]
            assert found == in_order(matching, ordered(words)), words

    def test_pages_of_what_is_alike_miss_and_repeat_nothing(self, kept: Index) -> None:
        for words in ("thinnest", "-KVP", "largest spleen"):
            order = ordered(words)
            paged = [
                hit.series_uid
                for offset in range(0, 320, 20)
                for hit in kept.search(asked("segmented = yes"), 20, offset, order).hits
            ]
            matching = [one for one in archive() if one.provenance.algorithm]
            assert paged == in_order(matching, order), words

    def test_a_sample_comes_in_the_order_that_is_asked_for(self, kept: Index) -> None:
        order, sample = ordered("largest liver"), Sample(size=20, seed=1)
        drawn = [
            {hit.series_uid for some in kept.rows(asked("liver"), [], sample, o) for hit in some}
            for o in (order, ordered("newest"))
        ]
        assert drawn[0] == drawn[1]
        rows = [h.series_uid for some in kept.rows(asked("liver"), [], sample, order) for h in some]
        assert rows == in_order([o for o in archive() if o.series.series_uid in drawn[0]], order)

    def test_a_hit_says_what_is_known_of_the_series(self, kept: Index) -> None:
        by_uid = {one.series.series_uid: one for one in archive()}
        for hit in kept.search(asked(""), limit=1000).hits:
            one = by_uid[hit.series_uid]
            assert hit.study_uid == one.series.study_uid
            assert hit.patient == one.series.patient
            assert hit.structure_count == len(one.annotations)
            assert hit.attributes == attributes_of(one)

    def test_the_last_that_was_written_counts(self, filled: Index) -> None:
        old = next(one for one in archive() if matches(asked("liver").term, one))
        new = replace(old, annotations=())
        before = filled.search(asked("liver")).series
        filled.write([old, new])
        filled.write([new])
        assert filled.search(asked("liver")).series == before - 1
        assert filled.search(asked("liver volume > 0")).series == before - 1
        assert filled.search(asked("")).series == len(archive())
        filled.write([new, old])
        assert filled.search(asked("liver volume > 0")).series == before

    def test_what_is_erased_is_found_no_more(self, filled: Index) -> None:
        gone = [one.series.series_uid for one in archive()[::2]]
        filled.erase([*gone, "1.2.3.unknown"])
        filled.erase(gone)
        filled.erase([])
        for text in ("", "kidney", "kidney volume > 100", "kidney above sacrum"):
            query = asked(text)
            kept = [one for one in archive()[1::2] if matches(query.term, one)]
            assert tally(filled.search(query)) == counts(kept)

    def test_an_empty_index_answers_nothing(self, index: Index) -> None:
        index.write([])
        for text in ("", "liver", "not liver", "liver volume > 1", "all kidney above liver"):
            assert index.search(asked(text)) == Page(series=0, studies=0, patients=0, hits=())
        assert index.facets(asked(""), ["structure", "Modality"]) == {
            "structure": {},
            "Modality": {},
        }

    def test_a_cleared_index_can_be_filled_again(self, filled: Index) -> None:
        filled.clear()
        assert filled.search(asked("")).series == 0
        filled.write(archive()[:10])
        assert filled.search(asked("")).series == 10

    @pytest.mark.parametrize("text", ["", "kidney complete", "PatientSex = F", "thyroid gland"])
    def test_facets_and_cells_count_every_value_of_every_field(
        self, kept: Index, text: str
    ) -> None:
        matching = [one for one in archive() if matches(asked(text).term, one)]
        facets, cells = (ask(asked(text), FIELDS) for ask in (kept.facets, kept.cells))
        for field in FIELDS:
            having: dict[str, list[AnnotatedSeries]] = {}
            for one in matching:
                for value in values_of(one, field):
                    having.setdefault(value, []).append(one)
            assert cells[field] == {value: cell_of(some) for value, some in having.items()}, field
            assert facets[field] == {value: len(some) for value, some in having.items()}, field

    def test_a_crowd_is_the_patients_of_what_was_found(self, kept: Index) -> None:
        for text in ("", "liver", "kidney volume > 100", "segmented = waiting", "thyroid gland"):
            matching = [one for one in archive() if matches(asked(text).term, one)]
            assert kept.crowd(asked(text)) == crowd_of(
                (one.series.patient for one in matching),
                series=len(matching),
                studies=len({one.series.study_uid for one in matching}),
                size=int(sum(float(attributes_of(o).get("size_bytes", 0)) for o in matching)),
            )

    @pytest.mark.parametrize("text", ["", "kidney complete", "PatientSex = F", "thyroid gland"])
    def test_crowds_are_the_patients_who_have_each_value(self, kept: Index, text: str) -> None:
        matching = [one for one in archive() if matches(asked(text).term, one)]
        found = kept.crowds(asked(text), FIELDS)
        for field in FIELDS:
            having: dict[str, list[AnnotatedSeries]] = {}
            for one in matching:
                for value in values_of(one, field):
                    having.setdefault(value, []).append(one)
            assert found[field] == {
                value: crowd_of((one.series.patient for one in some), series=len(some))
                for value, some in having.items()
            }, field

    def test_the_size_of_what_was_found_is_that_of_its_series(self, kept: Index) -> None:
        for text in ("", "liver", "segmented = waiting", "thyroid gland"):
            matching = [one for one in archive() if matches(asked(text).term, one)]
            sizes = [attributes_of(one).get("size_bytes", 0) for one in matching]
            assert kept.search(asked(text)).size_bytes == sum(map(float, sizes))

    def test_everything_that_a_series_shows_is_seen_at_once(self, kept: Index) -> None:
        some = archive()[::3]
        seen = kept.seen([*(one.series.series_uid for one in some), "1.2.3.unknown"])
        assert set(seen) == {one.series.series_uid for one in some}
        for one in some:
            found, shown = seen[one.series.series_uid], from_the_head(one)
            assert [(s.structure, s.complete) for s in found] == [(s[0], s[1]) for s in shown]
            numbers = [(s.volume_ml, s.mean_hu, s.bottom_mm, s.top_mm) for s in found]
            assert np.array(numbers) == pytest.approx(np.array([s[2:] for s in shown]), rel=1e-6)
        assert kept.seen([]) == {}

    def test_what_is_seen_is_what_was_written_last(self, filled: Index) -> None:
        old = next(one for one in archive() if len(one.annotations) > 1)
        filled.write([replace(old, annotations=old.annotations[:1])])
        (only,) = filled.seen([old.series.series_uid])[old.series.series_uid]
        assert only.structure == old.annotations[0].structure

    def test_rows_are_all_the_hits_of_a_search(self, kept: Index) -> None:
        for text in ("", "liver", "thyroid gland"):
            rows = [hit for some in kept.rows(asked(text)) for hit in some]
            assert rows == list(kept.search(asked(text), limit=1000).hits)

    def test_rows_have_the_attributes_that_are_asked_for(self, kept: Index) -> None:
        rows = [hit for some in kept.rows(asked("liver"), ["KVP", "plane"]) for hit in some]
        assert {keyword for hit in rows for keyword in hit.attributes} == {"KVP", "plane"}
        with pytest.raises(BadQuery, match="no attribute"):
            list(kept.rows(asked("liver"), ['x" from secrets --']))

    def test_a_sample_is_the_same_for_the_same_seed(self, kept: Index) -> None:
        def drawn(sample: Sample) -> list[str]:
            rows = kept.rows(asked("kidney"), [], sample)
            return [hit.series_uid for some in rows for hit in some]

        whole = [hit.series_uid for hit in kept.search(asked("kidney"), limit=1000).hits]
        one, other = drawn(Sample(size=20, seed=1)), drawn(Sample(size=20, seed=2))
        assert one == [uid for uid in whole if uid in set(one)]
        assert len(one) == len(other) == 20
        assert one == drawn(Sample(size=20, seed=1)) != other
        assert set(one) < set(drawn(Sample(size=40, seed=1)))
        assert drawn(Sample(size=1000)) == whole
        assert drawn(Sample(size=0)) == []

    def test_a_sample_favours_nobody(self, kept: Index) -> None:
        drawn = Counter(
            hit.series_uid
            for seed in range(30)
            for some in kept.rows(asked(""), [], Sample(size=100, seed=seed))
            for hit in some
        )
        assert len(drawn) == len(archive())
        assert max(drawn.values()) < 23  # 10 on average, with a deviation of 2.6

    def test_nothing_is_held_up_by_somebody_who_reads_rows(
        self, filled: Index, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        newest = filled.search(asked(""), limit=1000).hits
        rows = filled.rows(asked(""))
        first = list(next(rows))
        filled.erase([newest[-1].series_uid])
        filled.write([one for one in archive() if one.series.series_uid == newest[-2].series_uid])
        read = [*first, *(hit for some in rows for hit in some)]
        assert read[: len(newest) - 1] == list(newest[:-1])

    def test_totals_say_what_is_in_it(self, filled: Index, index: Index) -> None:
        series, studies, patients = counts(archive())
        segmented = [one for one in archive() if one.provenance.algorithm]
        assert filled.totals() == Totals(
            series=series,
            studies=studies,
            patients=patients,
            segmented=len(segmented),
            waiting=sum(one.image is None for one in archive()),
            newest=max(
                date.fromisoformat(str(one.series.attributes["StudyDate"]))
                for one in archive()
                if "StudyDate" in one.series.attributes
            ),
        )
        index.clear()
        assert index.totals() == Totals(
            series=0, studies=0, patients=0, segmented=0, waiting=0, newest=None
        )

    def test_facets_come_most_frequent_first(self, kept: Index) -> None:
        for values in kept.facets(asked(""), ["structure", "Manufacturer"]).values():
            assert list(values.values()) == sorted(values.values(), reverse=True)

    @pytest.mark.parametrize("field", ["structures", "PatientAge", "x' or 1=1 --"])
    def test_a_facet_that_cannot_be_counted_is_refused(self, kept: Index, field: str) -> None:
        with pytest.raises(BadQuery, match="known: structure"):
            kept.facets(asked(""), [field])

    def test_values_are_never_read_as_part_of_a_statement(self, filled: Index) -> None:
        text = "'; drop table series; --\x00\\%_{}$1?"
        one = replace(archive()[0].series, series_uid=text, attributes={"Manufacturer": text})
        filled.write([replace(archive()[0], series=one)])
        page = filled.search(Query(text="", term=Has(keyword="Manufacturer", values=(text,))))
        assert [hit.series_uid for hit in page.hits] == [text]
        filled.erase([text])
        assert filled.search(asked("")).series == len(archive())

    def test_wrong_values_in_a_header_do_no_harm(self, index: Index) -> None:
        wrong: dict[str, str | float] = {
            "PatientAge": "old",
            "StudyDate": "20200101",
            "KVP": float("nan"),
            "SliceThickness": float("inf"),
            "Manufacturer": "\udcff",
        }
        one = replace(archive()[0].series, attributes=wrong)
        index.write([replace(archive()[0], series=one)])
        hit = index.search(asked("")).hits[0]
        assert not set(hit.attributes) & {"PatientAge", "StudyDate", "KVP", "SliceThickness"}

    @pytest.mark.parametrize(
        "term",
        [
            Has(keyword="Weather", values=("fine",)),
            Has(keyword="KVP", values=("120",)),
            Has(keyword="Manufacturer", interval=Interval(low=1.0)),
            Has(keyword='x" or 1=1 --', values=("fine",)),
        ],
    )
    def test_a_term_that_makes_no_sense_is_refused(self, kept: Index, term: Has) -> None:
        with pytest.raises(BadQuery):
            kept.search(Query(text="", term=term))


#: Searches that find nothing in the archive, to show that nothing is found by them.
NOTHING = {
    "thyroid gland",
    "all (thyroid gland, liver)",
    "thyroid gland volume > 1",
    "liver between sacrum and thyroid gland",
    "gallbladder between kidney and kidney",
    "heart above thyroid gland",
    "StudyDescription = *",
}


def _term(dice: random.Random, depth: int) -> Term:
    kind = dice.choice(["shows", "between", "above", "below", "and", "or", "not"])
    if depth and kind in ("and", "or"):
        parts = tuple(_term(dice, depth - 1) for _ in range(dice.randint(1, 3)))
        return And(terms=parts) if kind == "and" else Or(terms=parts)
    if depth and kind == "not":
        return Not(term=_term(dice, depth - 1))
    subject = _shows(dice, dice.choice(["any", "all"]))
    one, other = _shows(dice, "any"), _shows(dice, "any")
    match kind:
        case "between":
            return Between(subject=subject, one=one, other=other)
        case "above":
            return Above(subject=subject, landmark=one)
        case "below":
            return Below(subject=subject, landmark=one)
    return subject


def _shows(dice: random.Random, match: str) -> Shows:
    names = sorted(dice.sample([*BODY, "thyroid_gland"], dice.choice([1, 1, 2, 5])))
    volume = Interval(low=dice.uniform(50, 200), low_open=dice.random() > 0.5)
    return Shows(
        structures=tuple(names),
        match="all" if match == "all" else "any",
        completeness=dice.choice(["any", "any", "complete", "cut"]),  # type: ignore[arg-type]
        volume_ml=volume if dice.random() < 0.2 else None,
        mean_hu=Interval(high=dice.uniform(30, 70)) if dice.random() < 0.2 else None,
    )
