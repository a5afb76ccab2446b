"""The order of what is found, as a server sorts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tomodex.search import NEWEST, Measured, Order

Sort = Sequence[Mapping[str, object]]

_NEWEST_FIRST: Sort = (
    {"a.StudyDate": {"order": "desc", "missing": "_last"}},
    {"series_uid": "asc"},
)

#: Fields of what is measured of a structure.
_MEASURES = {"volume_ml": "v", "mean_hu": "h"}


def sort_of(order: Order) -> Sort:
    """How a server sorts by an order; what it is alike in comes newest study first."""
    if order == NEWEST:
        return _NEWEST_FIRST
    match order.by:
        case Measured(structure=structure, what=what):
            field = f"m.{structure}.{_MEASURES[what]}"
        case keyword:
            field = f"a.{keyword}"
    by = {
        "order": "desc" if order.greatest_first else "asc",
        "missing": "_last",
        # A structure that no series shows is no field yet.
        "unmapped_type": "float",
    }
    return ({field: by}, *_NEWEST_FIRST)
