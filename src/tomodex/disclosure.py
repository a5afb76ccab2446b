"""What is told of a crowd to whoever may learn numbers and nothing of one person.

Fewer patients than a site's threshold are not told apart from none. Other numbers are moved by
noise that depends on the patients counted, so that asking again gives the same (the cell-key
method, Fraser and Wooton 2005), and rounded. A crowd that is nearly one that was asked before is
answered as that one: so two questions that differ by one person are told the same, whatever they
ask. What this protects from, and what not: docs/reference/privacy.md.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from tomodex.access import Asker
from tomodex.errors import BadQuery
from tomodex.search import Above, And, Below, Between, Has, Interval, Not, Or, Shows, Term
from tomodex.search.crowd import Crowd

#: Numbers of patients are moved by up to so many.
MOST_NOISE = 2

#: Series, studies and size are moved by up to this part.
NOISE_PART = 0.1

#: What may be asked of the header and the image, and how coarse the ends of a range must be;
#: 0: it is text. What is not here could be true of one person alone.
COARSE: Mapping[str, float] = {
    "Modality": 0,
    "StudyDate": 0,  # whole years, see `_require_years`
    "PatientAge": 5,
    "PatientSex": 0,
    "PatientPosition": 0,
    "BodyPartExamined": 0,
    "Manufacturer": 0,
    "ManufacturerModelName": 0,
    "ConvolutionKernel": 0,
    "SliceThickness": 0.25,
    "SpacingBetweenSlices": 0.25,
    "slice_spacing_mm": 0.25,
    "KVP": 10,
    "GantryDetectorTilt": 5,
    "tilt_deg": 5,
    "slice_count": 50,
    "scan_length_mm": 50,
    "plane": 0,
    "segmented": 0,
}

#: Fields whose values are counted for those who may learn numbers alone.
COUNTED = (
    "structure",
    "complete",
    "cut",
    "StudyYear",
    "AgeDecade",
    "SliceThicknessClass",
    *(k for k in COARSE if k in ("Modality", "PatientSex", "PatientPosition", "BodyPartExamined")),
    "Manufacturer",
    "ManufacturerModelName",
    "ConvolutionKernel",
    "plane",
    "segmented",
)

#: Those of them whose values add up to everything, as a series has one of them.
ADDING_UP = frozenset(COUNTED) - {"structure", "complete", "cut"}

#: Volumes and densities are asked for in steps of so much.
COARSE_HU = 10.0
COARSE_ML = ((100.0, 10.0), (1000.0, 50.0), (float("inf"), 100.0))

#: So much may a number miss a step by, as it was typed in another unit.
ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What is told of a crowd; None: nothing, as it is too small."""

    patients: int | None = None
    studies: int | None = None
    series: int | None = None
    size_bytes: int | None = None


class Answered(Protocol):
    """Remembers crowds that were told of."""

    def nearest(self, crowd: Crowd, reach: float) -> Crowd:
        """The crowd that this one is answered as, and nearly is; if there is none, this one, which
        is told of from now on."""

    def spend(self, asker: Asker, questions: int) -> None:
        """Count questions of somebody who may learn numbers alone.

        Raises:
            Forbidden: they were too many for today.
        """


class Disclosure:
    """Decides what is told.

    Args:
        key: a secret of the site; whoever knows it can take the noise away.
        fewest: patients; fewer are not told apart from none.
        answered: what was told so far.
    """

    def __init__(self, key: bytes, fewest: int, answered: Answered) -> None:
        self._key = key
        self.fewest = fewest
        self._answered = answered

    def tell(self, asker: Asker, term: Term | None, crowd: Crowd) -> Told:
        """What is told of all that a question found."""
        if term is not None:
            self._answered.spend(asker, 1)
        return self._told("", term, crowd)

    def tell_cells(
        self,
        asker: Asker,
        term: Term | None,
        cells: Mapping[str, Mapping[str, Crowd]],
        known: Mapping[str, Collection[str]] = MappingProxyType({}),
    ) -> Mapping[str, Mapping[str, Told]]:
        """What is told of the values of each field; a value that too few have is left out.

        Where that is one alone of those that are `known` to be in the index, the smallest of the
        others is left out too, as what is left of everything would be the one.
        """
        if term is not None:
            self._answered.spend(asker, len(cells))
        told = {
            field: {value: self._told(f"{field}={value}", term, crowd) for value, crowd in values}
            for field, values in ((field, values.items()) for field, values in cells.items())
        }
        return {
            field: _most_frequent(_not_alone(values, known.get(field, ())))
            for field, values in told.items()
        }

    def _told(self, cell: str, term: Term | None, crowd: Crowd) -> Told:
        question = f"{cell} {term}".encode()
        # Before it is looked what is near: else one person more, who makes a crowd of enough, would
        # have it answered as a larger one.
        if crowd.patients < self._enough(crowd):
            return Told()
        like = self._answered.nearest(crowd, self._reach(question))
        moved = like.patients + self._whole_noise(like)
        patients = _rounded(moved, self.fewest)
        return Told(
            patients=patients,
            studies=self._scaled("studies", like, like.studies, patients),
            series=self._scaled("series", like, like.series, patients),
            size_bytes=self._scaled("size", like, like.size_bytes, patients),
        )

    def _enough(self, crowd: Crowd) -> int:
        """How many patients are told of, drawn for each crowd: more than the fewest, up to twice
        as many.

        Drawn, as a fixed number would be a line that one person more crosses; for the crowd, as
        one drawn for each question could be averaged away by asking in other words.
        """
        return self.fewest + 1 + int(self._draw("enough", _seed(crowd)) * self.fewest)

    def _reach(self, question: bytes) -> float:
        """How far crowds may be apart to be answered alike, drawn for each question.

        Drawn, as a fixed one would be a line that one person more could cross.
        """
        return self.fewest * (1 + self._draw("reach", question))

    def _whole_noise(self, crowd: Crowd) -> int:
        return int(self._draw("patients", _seed(crowd)) * (2 * MOST_NOISE + 1)) - MOST_NOISE

    def _scaled(self, what: str, crowd: Crowd, many: int, patients: int) -> int:
        """In proportion to the patients that are told, moved, with two digits that count."""
        noise = 1 + NOISE_PART * (2 * self._draw(what, _seed(crowd)) - 1)
        return two_digits(many * patients / crowd.patients * noise)

    def _draw(self, what: str, seed: bytes) -> float:
        """A number from 0 to 1, without 1, that is always the same for the same seed."""
        drawn = hmac.digest(self._key, what.encode() + b"\0" + seed, "sha256")
        return int.from_bytes(drawn[:6], "big") / 2**48


def require_coarse(term: Term | None) -> None:
    """Refuse questions that could be about one person.

    Raises:
        BadQuery: the question names a series or a study, or is finer than may be asked. It depends
            on the question alone, and on nothing that is in the index.
    """
    match term:
        case And(terms=terms) | Or(terms=terms):
            for part in terms:
                require_coarse(part)
        case Not(term=part):
            require_coarse(part)
        case Has():
            _require_coarse_attribute(term)
        case Shows():
            _require_coarse_shows(term)
        case Between(subject=one, one=two, other=three):
            for shows in (one, two, three):
                _require_coarse_shows(shows)
        case Above(subject=one, landmark=two) | Below(subject=one, landmark=two):
            for shows in (one, two):
                _require_coarse_shows(shows)


def require_counted(fields: Iterable[str]) -> None:
    """Refuse to list the values of what could be true of one person alone.

    Raises:
        BadQuery: of one of these.
    """
    for field in fields:
        if field not in COUNTED:
            raise BadQuery(
                f"values of {field[:100]!r} are not listed for viewers; known: {', '.join(COUNTED)}"
            )


def _require_coarse_attribute(has: Has) -> None:
    step = COARSE.get(has.keyword)
    if step is None:
        raise BadQuery(f"{has.keyword} can tell one person from others; viewers may not ask for it")
    if has.interval is None:
        return
    if has.keyword == "StudyDate":
        _require_years(has.interval)
        return
    for end in (has.interval.low, has.interval.high):
        _require_step(has.keyword, end, step)


def _require_years(interval: Interval) -> None:
    low, high = str(interval.low or "-01-01"), str(interval.high or "-12-31")
    first = "-12-31" if interval.low and interval.low_open else "-01-01"
    last = "-01-01" if interval.high and interval.high_open else "-12-31"
    if not (low.endswith(first) and high.endswith(last)):
        raise BadQuery("viewers ask for whole years", suggestions=("StudyDate = 2025",))


def _require_coarse_shows(shows: Shows) -> None:
    for what, interval, unit in (
        ("volume", shows.volume_ml, "ml"),
        ("mean", shows.mean_hu, "HU"),
    ):
        if interval is None:
            continue
        for end in (interval.low, interval.high):
            if end is not None:
                step = COARSE_HU if unit == "HU" else _step_ml(abs(float(end)))
                _require_step(f"{what} in {unit}", end, step)


def _step_ml(volume_ml: float) -> float:
    return next(step for below, step in COARSE_ML if volume_ml <= below)


def _require_step(what: str, end: float | str | None, step: float) -> None:
    if end is None or not step:
        return
    number = float(end)
    near = round(number / step) * step
    if abs(number - near) > ROUNDING * max(1.0, abs(near)):
        raise BadQuery(f"viewers ask for {what} in steps of {step:g}", suggestions=(f"{near:g}",))


def _seed(crowd: Crowd) -> bytes:
    return f"{crowd.patients} {crowd.bits}".encode()


def _rounded(number: int, step: int) -> int:
    return max(step, (2 * number + step) // (2 * step) * step)


def two_digits(number: float) -> int:
    """A number near this one, of which no more than two digits are not 0."""
    return int(float(f"{number:.1e}"))


def _not_alone(told: Mapping[str, Told], known: Collection[str]) -> Mapping[str, Told]:
    """Those of which something is told, without the smallest where just one known is not.

    It follows from what is told anyway, so it tells nothing: a value that nobody has, and one that
    few have, are both not told.
    """
    shown = {value: one for value, one in told.items() if one.patients is not None}
    if shown and len(set(known) - shown.keys()) == 1:
        del shown[min(shown, key=lambda value: (shown[value].patients or 0, value))]
    return shown


def _most_frequent(told: Mapping[str, Told]) -> Mapping[str, Told]:
    """In an order that tells no more than the numbers do."""
    return dict(sorted(told.items(), key=lambda one: (-(one[1].patients or 0), one[0])))
