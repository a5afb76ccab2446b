"""The whole product on phantoms: what comes out beside what is known to be in them.

The archive of phantoms holds a DICOM SEG of almost each, which is the truth. It is left alone: what
is indexed comes from the phantom model, which looks at pixels as TotalSegmentator does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from urllib.parse import urlencode

from rich.table import Table

from tomodex import tables
from tomodex.indexing import ProgressOf, Summary, index_source
from tomodex.phantom import StructureTruth, Truth, write_phantoms
from tomodex.queues import Queue
from tomodex.search import parse
from tomodex.settings import Settings
from tomodex.terminology import load_terminology
from tomodex.wiring import index_of, queue_of, source_url

Structures = Mapping[str, StructureTruth]

#: mm by which extents may miss each other and still meet, as in a search.
TOLERANCE_MM = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the demo has to show."""

    lines: Sequence[str | Table]
    right: bool  #: everything came out as it is known of the phantoms


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A search, and how to tell from what is known of a phantom whether it must be found."""

    text: str
    answer: Callable[[Truth, Structures], bool]


def _whole(structures: Structures, *names: str) -> bool:
    return any(name in structures and not structures[name].cut for name in names)


def _between_heart_and_l1(structures: Structures, name: str) -> bool:
    if not {name, "heart", "vertebrae_L1"} <= structures.keys():
        return False
    bottom = structures["vertebrae_L1"].box_max_mm[2]
    top = structures["heart"].box_min_mm[2]
    foot, head = structures[name].box_min_mm[2], structures[name].box_max_mm[2]
    inside = foot >= bottom - TOLERANCE_MM and head <= top + TOLERANCE_MM
    through = foot <= bottom + TOLERANCE_MM and head >= top - TOLERANCE_MM
    return bottom < top and (inside or through)


QUESTIONS = (
    Question(
        text="the whole sacrum and PatientSex = F and PatientAge 40..60 and SliceThickness <= 1.5",
        answer=lambda truth, found: (
            _whole(found, "sacrum")
            and truth.patient_sex == "F"
            and 40 <= truth.patient_age <= 60
            and truth.slice_thickness_mm <= 1.5
        ),
    ),
    Question(
        text="left autochthonous muscle between heart and L1",
        answer=lambda truth, found: _between_heart_and_l1(found, "autochthon_left"),
    ),
    Question(
        text="kidney complete and not lung",
        answer=lambda truth, found: (
            _whole(found, "kidney_left", "kidney_right")
            and not any(name.startswith("lung_") for name in found)
        ),
    ),
)


def run_demo(
    folder: Path, settings: Settings, progress: ProgressOf, command: str = "tomodex"
) -> Report:
    """Make phantoms in `folder`, index them by what the phantom model finds, ask the questions.

    `command` is how somebody calls us from the folder that they are in.
    """
    truths = write_phantoms(folder / "phantoms", progress=progress("making phantom series"))
    with_model = settings.model_copy(update={"segmenters": (_segmenter(settings.data),)})
    url = source_url(str(folder / "phantoms"))
    summary = index_source(with_model, url, "on-demand", progress)
    verdicts, right = _verdicts(truths, queue_of(settings))
    answers = [ask(question, truths, settings) for question in QUESTIONS]
    return Report(
        lines=[
            *_what_came(summary, len(truths)),
            verdicts,
            *(line for lines, _ in answers for line in lines),
            "",
            *_what_next(settings.data, command),
        ],
        right=right and all(is_right for _, is_right in answers),
    )


def _what_next(data: Path, command: str = "tomodex") -> list[str]:
    """How to ask more, in words for a shell."""
    tomodex = f"{quote(command)} --data {quote(str(data))}"
    return [
        f"Ask more: {tomodex} search 'covers T12..L5'",
        f"In a browser: {tomodex} serve",
    ]


def _segmenter(data: Path) -> str:
    """The phantom model; what it keeps lies where the rest of the demo does."""
    return f"phantom:?{urlencode({'cache': data.absolute() / 'models'})}"


def _what_came(summary: Summary, made: int) -> list[str]:
    """Segmentations are series too, which are not indexed; here they are not used either."""
    stored = summary.rejected.get(tables.STORED, 0)
    rejected = sum(summary.rejected.values()) - stored
    return [
        f"{made} phantom series: {summary.indexed} segmented by the phantom model and indexed, "
        f"{rejected} rejected, {summary.failed} failed, in {summary.seconds:.0f} s",
        f"(rejected too, so `status` says {rejected + stored}: {stored} stored segmentations of "
        "them, which are the known answers)",
        "",
    ]


def _verdicts(truths: Sequence[Truth], queue: Queue) -> tuple[Table, bool]:
    """What became of each series, beside what had to."""
    rows, right = [], True
    for truth in truths:
        states = queue.states(truth.series_uid)
        became = (states[0].reason or states[0].status) if states else "never listed"
        expected = "completed" if truth.verdict == "wanted" else truth.verdict
        right = right and became == expected
        why = states[0].sentence if states else ""
        rows.append((truth.name, became, why, "" if became == expected else f"not {expected}!"))
    return tables.rows_table(("series", "became", "because", ""), rows), right


def ask(question: Question, truths: Sequence[Truth], settings: Settings) -> tuple[list[str], bool]:
    """The answer to a question beside what had to be found, and whether they agree."""
    page = index_of(settings).search(parse(question.text, load_terminology()))
    names = {truth.series_uid: truth.name for truth in truths}
    found = {names.get(hit.series_uid, hit.series_uid) for hit in page.hits}
    expected = {
        truth.name
        for truth in truths
        if truth.verdict == "wanted" and question.answer(truth, truth.structures)
    }
    verdict = "as known" if found == expected else f"wrong: expected {', '.join(sorted(expected))}"
    listed = ", ".join(sorted(found)) or "nothing"
    return ["", f"? {question.text}", f"  {tables.counts_line(page)}: {listed} ({verdict})"], (
        found == expected and bool(expected)
    )
