"""A hospital of some thousand patients, one series each, that is asked very often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tomodex.search import (
    NEWEST,
    And,
    Has,
    Hit,
    Interval,
    Not,
    Or,
    Order,
    Page,
    Query,
    Shows,
    Term,
    Totals,
)
from tomodex.search.crowd import Crowd, bits_of

STRUCTURES = (
    "liver",
    "spleen",
    "pancreas",
    "stomach",
    "kidney_left",
    "kidney_right",
    "sacrum",
    "heart",
    "aorta",
    "urinary_bladder",
    "gallbladder",
    "prostate",
)
MANUFACTURERS = ("SIEMENS", "GE MEDICAL SYSTEMS", "Philips", "TOSHIBA")

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Hospital:
    """An index of these patients; `there` says which of them it really has."""

    seed: int
    size: int
    there: Mask

    @cached_property
    def keys(self) -> npt.NDArray[np.uint64]:
        return np.random.default_rng(self.seed + 1).integers(0, 2**64, self.size, np.uint64)

    @cached_property
    def female(self) -> Mask:
        return np.random.default_rng(self.seed + 2).random(self.size) < 0.5

    @cached_property
    def age(self) -> npt.NDArray[np.int64]:
        ages = np.random.default_rng(self.seed + 3).normal(60, 16, self.size)
        return np.clip(ages.astype(np.int64), 0, 99)

    @cached_property
    def year(self) -> npt.NDArray[np.int64]:
        return np.random.default_rng(self.seed + 4).integers(2018, 2027, self.size)

    @cached_property
    def maker(self) -> npt.NDArray[np.int64]:
        return np.random.default_rng(self.seed + 5).integers(0, len(MANUFACTURERS), self.size)

    @cached_property
    def shown(self) -> Mask:
        """(patients, structures)"""
        random = np.random.default_rng(self.seed + 6)
        return random.random((self.size, len(STRUCTURES))) < random.uniform(
            0.3, 0.9, len(STRUCTURES)
        )

    @cached_property
    def volume_ml(self) -> npt.NDArray[np.float64]:
        random = np.random.default_rng(self.seed + 7)
        return random.uniform(50, 2000, (self.size, len(STRUCTURES)))

    def crowd(self, query: Query) -> Crowd:
        return self._crowd(self.matching(query.term))

    def crowds(self, query: Query, fields: Sequence[str]) -> Mapping[str, Mapping[str, Crowd]]:
        found = self.matching(query.term)
        crowds = {
            field: {value: self._crowd(found & mask) for value, mask in self._values(field)}
            for field in fields
        }
        return {
            field: {
                value: replace(crowd, studies=0, size_bytes=0)
                for value, crowd in values.items()
                if crowd.patients
            }
            for field, values in crowds.items()
        }

    def search(self, query: Query, limit: int = 50, offset: int = 0, order: Order = NEWEST) -> Page:
        found = np.flatnonzero(self.matching(query.term))
        hits = tuple(
            Hit(series_uid=f"1.2.{n}", study_uid=f"1.{n}") for n in found[offset : offset + limit]
        )
        return Page(series=len(found), studies=len(found), patients=len(found), hits=hits)

    def totals(self) -> Totals:
        many = int(self.there.sum())
        return Totals(
            series=many,
            studies=many,
            patients=many,
            segmented=many,
            waiting=0,
            newest=date(2026, 11, 23),
        )

    def matching(self, term: Term | None) -> Mask:
        return self.there & self._matching(term)

    def _crowd(self, found: Mask) -> Crowd:
        many = int(found.sum())
        return Crowd(
            patients=many,
            bits=bits_of(self.keys[found]),
            series=many,
            studies=many,
            size_bytes=many * 10**8,
        )

    def _matching(self, term: Term | None) -> Mask:
        match term:
            case None:
                return np.ones(self.size, np.bool_)
            case And(terms=terms):
                return np.logical_and.reduce([self._matching(part) for part in terms])
            case Or(terms=terms):
                return np.logical_or.reduce([self._matching(part) for part in terms])
            case Not(term=part):
                return ~self._matching(part)
            case Shows():
                return self._showing(term)
            case Has():
                return self._having(term)
        raise NotImplementedError(term)

    def _showing(self, shows: Shows) -> Mask:
        columns = [STRUCTURES.index(name) for name in shows.structures if name in STRUCTURES]
        fits = self.shown[:, columns]
        if shows.volume_ml:
            fits = fits & _within(self.volume_ml[:, columns], shows.volume_ml)
        return fits.all(axis=1) if shows.match == "all" else fits.any(axis=1)

    def _having(self, has: Has) -> Mask:
        match has.keyword:
            case "PatientAge":
                assert has.interval
                return _within(self.age, has.interval)
            case "StudyDate":
                assert has.interval
                return _within(self.year, _years(has.interval))
        values = dict(self._values(has.keyword))
        return np.logical_or.reduce(
            [mask for value, mask in values.items() if value in has.values]
            or [np.zeros(self.size, np.bool_)]
        )

    def _values(self, field: str) -> list[tuple[str, Mask]]:
        match field:
            case "PatientSex":
                return [("F", self.female), ("M", ~self.female)]
            case "Manufacturer":
                return [(name, self.maker == n) for n, name in enumerate(MANUFACTURERS)]
            case "StudyYear":
                return [(str(year), self.year == year) for year in range(2018, 2027)]
            case "structure":
                return [(name, self.shown[:, n]) for n, name in enumerate(STRUCTURES)]
            case "ManufacturerModelName":
                # Each patient has one of their own; all but the first hundred have the usual one.
                own = np.arange(self.size) < 100
                rare = [(f"Model {n}", np.arange(self.size) == n) for n in range(100)]
                return [*rare, ("Usual", ~own)]
        return []


def _years(interval: Interval) -> Interval:
    low, high = (int(str(end)[:4]) if end else None for end in (interval.low, interval.high))
    return Interval(low=low, high=high)


def _within(values: npt.NDArray[np.generic], interval: Interval) -> Mask:
    fits = np.ones(values.shape, np.bool_)
    if interval.low is not None:
        low = float(interval.low)
        fits &= (values > low) if interval.low_open else (values >= low)
    if interval.high is not None:
        high = float(interval.high)
        fits &= (values < high) if interval.high_open else (values <= high)
    return fits
