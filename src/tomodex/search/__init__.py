"""What can be asked of the index: a query as text, and as a tree that no index engine owns.

query.py        the tree: Query, its terms, Page
searchable.py   attributes that can be asked for, and fields whose values are counted
keys.py         numbers that stand for UIDs, and for sets of patients
language.py     text -> tree; its grammar is query.lark
writing.py      tree -> text
order.py        the order of what was found, and its text
"""

from tomodex.search.keys import key_of, patients_key
from tomodex.search.language import parse
from tomodex.search.order import NEWEST, Measured, Order, format_order, parse_order
from tomodex.search.query import (
    TOLERANCE_MM,
    Above,
    And,
    Below,
    Between,
    CellCount,
    Has,
    Hit,
    Interval,
    Not,
    Or,
    Page,
    Query,
    Sample,
    Seen,
    Shows,
    Term,
    Totals,
    is_anatomical,
)
from tomodex.search.searchable import (
    ASKABLE,
    DERIVED,
    FIELDS,
    IDENTIFIERS,
    SEARCHABLE,
    THICKNESSES,
    attributes_of,
)
from tomodex.search.writing import format

__all__ = [
    "ASKABLE",
    "DERIVED",
    "FIELDS",
    "IDENTIFIERS",
    "NEWEST",
    "SEARCHABLE",
    "THICKNESSES",
    "TOLERANCE_MM",
    "Above",
    "And",
    "Below",
    "Between",
    "CellCount",
    "Has",
    "Hit",
    "Interval",
    "Measured",
    "Not",
    "Or",
    "Order",
    "Page",
    "Query",
    "Sample",
    "Seen",
    "Shows",
    "Term",
    "Totals",
    "attributes_of",
    "format",
    "format_order",
    "is_anatomical",
    "key_of",
    "parse",
    "parse_order",
    "patients_key",
]
