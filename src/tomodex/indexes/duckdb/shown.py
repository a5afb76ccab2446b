"""What a series shows, as a condition on its bits and on its annotations."""

from __future__ import annotations

from collections.abc import Mapping

from tomodex.indexes.duckdb.schema import COMPLETE, SHOWN, words_of
from tomodex.indexes.duckdb.sql import NEVER, Condition, all_of, any_of, within
from tomodex.search import Shows


def in_bits(shows: Shows, labels: Mapping[str, int]) -> Condition:
    """The rows of `series` that show it, as far as their bits tell: not how large and dense.

    It is `NEVER` where the index has not seen such structures.
    """
    known = [labels[name] for name in shows.structures if name in labels]
    if shows.match == "all" and len(known) < len(shows.structures):
        return NEVER
    bits = [_bits(shows, index, word) for index, word in enumerate(words_of(known)) if word]
    return all_of(bits) if bits and shows.match == "all" else any_of(bits)


def rows_of(shows: Shows, labels: Mapping[str, int]) -> Condition:
    """The rows of `annotation` that are as `shows` says, of any one of its structures."""
    numbers = [labels[name] for name in shows.structures if name in labels]
    if not numbers:
        return NEVER
    places = ", ".join("?" for _ in numbers)
    conditions = [Condition(f"structure in ({places})", tuple(numbers))]
    if shows.completeness != "any":
        negated = "" if shows.completeness == "complete" else "not "
        conditions.append(Condition(f"{negated}complete"))
    if shows.volume_ml:
        conditions.append(within("volume_ml", shows.volume_ml, "?::float"))
    if shows.mean_hu:
        conditions.append(within("mean_hu", shows.mean_hu, "?::float"))
    return all_of(conditions)


def _bits(shows: Shows, index: int, word: int) -> Condition:
    match shows.completeness:
        case "any":
            column = SHOWN[index]
        case "complete":
            column = COMPLETE[index]
        case "cut":
            column = f"({SHOWN[index]} & ~{COMPLETE[index]})"
    if shows.match == "all":
        return Condition(f"({column} & ?::ubigint) = ?::ubigint", (word, word))
    return Condition(f"({column} & ?::ubigint) != 0", (word,))
