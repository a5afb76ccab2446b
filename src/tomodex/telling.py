"""What those who may learn numbers alone are told of an index.

The patients of an answer are counted as crowds, and `disclosure.py` decides what is told of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from time import monotonic

from tomodex.access import Asker
from tomodex.disclosure import (
    ADDING_UP,
    Disclosure,
    Told,
    require_coarse,
    require_counted,
    two_digits,
)
from tomodex.indexes import Index
from tomodex.search import Query, Totals
from tomodex.search.crowd import Crowd

#: So old may the crowds of the whole index be: each letter that is typed asks for some.
CROWDS_S = 60.0

#: So old may the values be that a field is known to have.
KNOWN_S = 3600.0

EVERYTHING = Query(text="", term=None)


class Teller:
    """Tells numbers of an index, and nothing of one person.

    Every method raises BadQuery where what is asked is too fine, and Forbidden where the asker has
    asked too much today.
    """

    def __init__(self, index: Index, disclosure: Disclosure) -> None:
        self._index = index
        self._disclosure = disclosure
        self._of_all: dict[str, tuple[float, Mapping[str, Crowd]]] = {}
        self._told_values: dict[str, tuple[float, tuple[str, ...]]] = {}

    @property
    def fewest(self) -> int:
        """Fewer patients are not told apart from none."""
        return self._disclosure.fewest

    def tell(self, asker: Asker, query: Query) -> Told:
        """How much fits a query."""
        require_coarse(query.term)
        return self._disclosure.tell(asker, query.term, self._index.crowd(query))

    def facets(
        self, asker: Asker, query: Query, fields: Sequence[str]
    ) -> Mapping[str, Mapping[str, int]]:
        """How many of the series that fit have each value of these fields."""
        require_counted(fields)
        require_coarse(query.term)
        known = {f: self._known(asker, f) for f in fields if query.term and f in ADDING_UP}
        crowds = self._crowds(query, fields)
        cells = self._disclosure.tell_cells(asker, query.term, crowds, known)
        return {
            field: {value: told.series or 0 for value, told in values.items()}
            for field, values in cells.items()
        }

    def totals(self, asker: Asker, totals: Totals) -> Totals:
        """Near these, all in the same proportion; not when the newest study was."""
        told = self.tell(asker, EVERYTHING)
        part = (told.series or 0) / max(1, totals.series)
        return Totals(
            series=told.series or 0,
            studies=told.studies or 0,
            patients=told.patients or 0,
            segmented=two_digits(totals.segmented * part),
            waiting=two_digits(totals.waiting * part),
            newest=None,
        )

    def _known(self, asker: Asker, field: str) -> Collection[str]:
        """The values of a field that anybody may know to be in the index."""
        told_s, values = self._told_values.get(field, (0.0, ()))
        if field not in self._told_values or monotonic() - told_s > KNOWN_S:
            of_all = self._crowds(EVERYTHING, (field,))
            values = tuple(self._disclosure.tell_cells(asker, None, of_all)[field])
            self._told_values[field] = (monotonic(), values)
        return values

    def _crowds(self, query: Query, fields: Sequence[str]) -> Mapping[str, Mapping[str, Crowd]]:
        if query.term is not None:
            return self._index.crowds(query, fields)
        now = monotonic()
        old = [f for f in fields if f not in self._of_all or now - self._of_all[f][0] > CROWDS_S]
        counted = self._index.crowds(query, old) if old else {}
        self._of_all.update((field, (now, crowds)) for field, crowds in counted.items())
        return {field: self._of_all[field][1] for field in fields}
