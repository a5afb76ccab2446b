"""What can be asked of the index: a query as text, and as a tree that no index engine owns.

query.py        the tree: Query, its terms, Page
searchable.py   attributes that can be asked for
language.py     text -> tree; its grammar is query.lark
writing.py      tree -> text
"""

from tomodex.search.language import parse
from tomodex.search.query import (
    TOLERANCE_MM,
    Above,
    And,
    Below,
    Between,
    Has,
    Hit,
    Interval,
    Not,
    Or,
    Page,
    Query,
    Shows,
    Term,
    is_anatomical,
)
from tomodex.search.searchable import DERIVED, SEARCHABLE, attributes_of
from tomodex.search.writing import format

__all__ = [
    "DERIVED",
    "SEARCHABLE",
    "TOLERANCE_MM",
    "Above",
    "And",
    "Below",
    "Between",
    "Has",
    "Hit",
    "Interval",
    "Not",
    "Or",
    "Page",
    "Query",
    "Shows",
    "Term",
    "attributes_of",
    "format",
    "is_anatomical",
    "parse",
]
