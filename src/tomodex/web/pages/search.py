"""The search page: a question, what it means, how much fits, and some of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tomodex.access import Asker
from tomodex.chips import Chip
from tomodex.cohorts import Cohorts, Counts
from tomodex.errors import BadQuery
from tomodex.search import NEWEST, Hit, Order, Seen
from tomodex.web.pages.asking import NOTHING, Asked, asked_of
from tomodex.web.pages.body import View, views_of
from tomodex.web.pages.edits import Question, question_of
from tomodex.web.pages.refining import Section, refinements_of
from tomodex.web.pages.sorting import Sorting, sorted_by, sortings_of
from tomodex.web.pages.strip import Strip, strip_of

#: Series on one page.
PER_PAGE = 20

#: Pages that can be turned to; who wants more takes a manifest.
MOST_PAGES = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A question that shows what can be asked."""

    title: str
    text: str
    words: str


#: The searches of the paper that Tomodex comes after, and two more.
EXAMPLES = (
    Example(
        title="The whole sacrum of women aged 40 to 60",
        text="sacrum complete and women 40-60 and slices <= 1.5 mm",
        words="One bone, whole inside the image, in thin slices.",
    ),
    Example(
        title="The left back muscle between heart and L1",
        text="left autochthonous muscle between heart and L1",
        words="One structure in the stretch between two others.",
    ),
    Example(
        title="Whole kidneys without the lungs",
        text="all kidney complete and not lung",
        words="What is in the image, and what is not.",
    ),
    Example(
        title="Everything from T12 to L5",
        text="covers T12..L5",
        words="A run of vertebrae, each of them whole.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One series that was found."""

    hit: Hit
    title: str  #: parts of the body, or what the header says of them
    who: str  #: sex and age
    how: str  #: slices, kernel, scanner
    strip: Strip | None
    sorted_by: str = ""  #: what it has of what all are sorted by; "" where that shows anyway


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Where this page is among the pages of hits."""

    page: int
    last: int
    first_hit: int
    last_hit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong:
    """Why a question cannot be answered, and questions that can be."""

    sentence: str
    before: str  #: of the question, up to the place that is wrong
    there: str
    after: str
    offers: Sequence[tuple[str, str]]  #: (what was probably meant there, the question with it)
    hints: Sequence[str]  #: the same, where no place of the question is wrong by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPage:
    """Everything that the page shows."""

    text: str
    examples: Sequence[Example]
    views: Sequence[View]
    sort: str = ""  #: the order as the address has it; "": newest study first
    sortings: Sequence[Sorting] = ()
    chips: Sequence[Chip] = ()
    counts: Counts | None = None  #: None: nothing was asked, or it was wrong
    among: int | None = None
    milliseconds: float | None = None
    cards: Sequence[Card] = ()
    turn: Turn | None = None
    sections: Sequence[Section] = ()
    regions: Sequence[Section] = ()
    wrong: Wrong | None = None
    python: str = ""


def start_page(cohorts: Cohorts) -> SearchPage:
    """The page before anything was asked."""
    nothing = Question(parts=())
    return SearchPage(
        text="", examples=EXAMPLES, views=views_of(nothing, NOTHING, cohorts.terminology)
    )


def search_page(
    cohorts: Cohorts, asker: Asker, text: str, page: int, sort: str, address: str
) -> SearchPage:
    """The answer to a question; what is wrong with it is on the page too."""
    try:
        return _answer(cohorts, asker, text, page, sort, address)
    except BadQuery as wrong:
        begin = start_page(cohorts)
        return replace(begin, text=text, wrong=_wrong(text, wrong))


def _answer(
    cohorts: Cohorts, asker: Asker, text: str, page: int, sort: str, address: str
) -> SearchPage:
    query = cohorts.parse(text)
    question, asked = question_of(query), asked_of(query.term)
    shown = SearchPage(
        text=text,
        examples=(),
        views=views_of(question, asked, cohorts.terminology),
        chips=cohorts.chips(text),
        python=python_of(text, sort, address),
    )
    shown = _with_rows(shown, cohorts, asker, asked, page, sort) if asker.may("rows") else shown
    counts = shown.counts or cohorts.counts(asker, text)
    shown = replace(shown, counts=counts)
    if counts.series == 0 or counts.patients is None:
        return shown
    found = refinements_of(cohorts, asker, question)
    return replace(shown, sections=(*found.wholeness, *found.sections), regions=found.regions)


def _with_rows(
    shown: SearchPage, cohorts: Cohorts, asker: Asker, asked: Asked, page: int, sort: str
) -> SearchPage:
    offset = (min(page, MOST_PAGES) - 1) * PER_PAGE
    order = cohorts.order(sort)
    found = cohorts.strips(asker, shown.text, PER_PAGE, offset, sort)
    series = found.counts.series or 0
    return replace(
        shown,
        counts=found.counts,
        among=found.among,
        milliseconds=found.milliseconds,
        sort="" if order == NEWEST else found.sort,
        sortings=sortings_of(order, asked, cohorts.terminology),
        cards=[
            card_of(hit, found.seen.get(hit.series_uid, ()), asked, order, cohorts)
            for hit in found.hits
        ],
        turn=Turn(
            page=offset // PER_PAGE + 1,
            last=min(MOST_PAGES, max(1, -(-series // PER_PAGE))),
            first_hit=offset + 1,
            last_hit=offset + len(found.hits),
        ),
    )


def card_of(hit: Hit, seen: Sequence[Seen], asked: Asked, order: Order, cohorts: Cohorts) -> Card:
    """What to show of a series."""
    scan = _numbers(hit, "scan_bottom_mm", "scan_top_mm")
    strip = strip_of(seen, scan, asked, cohorts.terminology)
    return Card(
        hit=hit,
        title=_title(hit, strip),
        who=_who(hit),
        how=" · ".join(_how(hit)),
        strip=strip,
        sorted_by=sorted_by(hit, seen, order, cohorts.terminology),
    )


def python_of(text: str, sort: str, address: str) -> str:
    """The same search for who programs."""
    order = f", sort={sort!r}" if sort else ""
    return (
        "from tomodex.client import Index\n\n"
        f"index = Index({address!r})\n"
        f"found = index.search({text!r}{order})\n"
        "print(found.counts)\n"
        "table = found.to_pandas()\n"
    )


def _wrong(text: str, wrong: BadQuery) -> Wrong:
    start, end = wrong.place or (len(text), len(text))
    sentence = str(wrong).partition("\n")[0]
    offers = [(offer, text[:start] + offer + text[end:]) for offer in wrong.suggestions]
    return Wrong(
        sentence=sentence[0].upper() + sentence[1:],
        before=text[:start],
        there=text[start:end],
        after=text[end:],
        offers=offers if wrong.place else (),
        hints=() if wrong.place else wrong.suggestions,
    )


def _title(hit: Hit, strip: Strip | None) -> str:
    words = strip.words if strip else ""
    header = str(hit.attributes.get("BodyPartExamined", "")).replace("_", " ").lower()
    title = words or header or str(hit.attributes.get("Modality", "Series"))
    return title[:1].upper() + title[1:]


def _who(hit: Hit) -> str:
    sex, age = hit.attributes.get("PatientSex", ""), hit.attributes.get("PatientAge")
    years = f"{int(age)}" if isinstance(age, float | int) else ""
    return " ".join(filter(None, (str(sex), years)))


def _how(hit: Hit) -> list[str]:
    said = []
    thickness = hit.attributes.get("SliceThickness")
    if isinstance(thickness, float | int):
        said.append(f"{thickness:g} mm")
    keys = ("ConvolutionKernel", "ManufacturerModelName", "ContrastBolusAgent")
    said += [str(hit.attributes[key]) for key in keys if hit.attributes.get(key)]
    if hit.attributes.get("segmented") == "waiting":
        said.append("not read yet")
    return said


def _numbers(hit: Hit, low: str, high: str) -> tuple[float, float] | None:
    ends = hit.attributes.get(low), hit.attributes.get(high)
    if isinstance(ends[0], float | int) and isinstance(ends[1], float | int):
        return float(ends[0]), float(ends[1])
    return None
