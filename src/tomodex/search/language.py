"""Reads a search as a person types it, such as "sacrum complete and PatientAge 40..60"."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from tomodex.search.complaint import Complaint, bad_query
from tomodex.search.meaning import Meaning
from tomodex.search.query import Query
from tomodex.search.syntax import tree_of

if TYPE_CHECKING:
    from lark import Token, Tree

    from tomodex.terminology import Terminology

MAX_CHARACTERS = 2000
MAX_TERMS = 100
MAX_DEPTH = 20  #: of and, or, not inside each other

JOINED = {"disjunction", "conjunction", "opposite"}


def parse(text: str, terminology: Terminology) -> Query:
    """The query that `text` means; an empty text finds everything.

    Raises:
        BadQuery: with the place in the text, and what was probably meant.
    """
    # A name typed on a Mac may have its umlauts in two characters.
    composed = unicodedata.normalize("NFC", text)
    try:
        _check_length(composed)
        tree = tree_of(composed)
        _check_size(tree, len(composed))
        return Query(text=text, term=Meaning(terminology).of(tree))
    except Complaint as complaint:
        raise bad_query(composed, complaint) from None


def _check_length(text: str) -> None:
    if len(text) > MAX_CHARACTERS:
        sentence = f"a search has at most {MAX_CHARACTERS:,} characters, this has {len(text):,}"
        raise Complaint(sentence, MAX_CHARACTERS, MAX_CHARACTERS)


def _check_size(tree: Tree[Token], end: int) -> None:
    """Refuse what would take the index long, before anything walks down the tree."""
    from lark import Tree

    terms, waiting = 0, [(tree, 0)]
    while waiting:
        branch, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise Complaint(f"more than {MAX_DEPTH} parts inside each other", 0, end)
        if branch.data not in {*JOINED, "start"}:
            terms += 1
            continue
        waiting += [(child, depth + 1) for child in branch.children if isinstance(child, Tree)]
    if terms > MAX_TERMS:
        raise Complaint(f"a search has at most {MAX_TERMS} terms, this has {terms}", 0, end)
