"""Reading the tables; see `docs/reference/terminology.md` for what their columns say."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import cast

from tomodex.terminology.codes import ForeignCode
from tomodex.terminology.structure import (
    RADLEX_SIDES,
    SNOMED_SIDES,
    Edge,
    Group,
    Laterality,
    Level,
    Range,
    Relation,
    Structure,
)
from tomodex.terminology.vocabulary import Language, Synonym

#: Tables that give a structure its name, codes or meaning; a change of one changes the version.
TABLES = (
    "structures", "groups", "edges", "synonyms", "numbered", "order", "ranges", "srt",
    "foreign_codes",
)  # fmt: skip

_ROMAN = ("", "I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII")

Row = dict[str, str]


def read_texts(folder: Path) -> Mapping[str, str]:
    """The text of every table, by its name; line ends are the same everywhere."""
    return {name: (folder / f"{name}.csv").read_text(encoding="utf-8") for name in TABLES}


def read_rows(texts: Mapping[str, str]) -> Mapping[str, Sequence[Row]]:
    """The rows of every table, by its name."""
    return {name: list(csv.DictReader(text.splitlines())) for name, text in texts.items()}


def read_version(folder: Path, texts: Mapping[str, str]) -> str:
    """The date of the tables and the start of their SHA-256, such as "2026-11-23+0f1e2d3c4b5a"."""
    digest = sha256("\0".join(texts[name] for name in TABLES).encode()).hexdigest()
    return f"{(folder / 'released.txt').read_text(encoding='utf-8').strip()}+{digest[:12]}"


def structures(rows: Sequence[Row]) -> Mapping[str, Structure]:
    """Every structure, by name, in the order of the table."""
    return {row["name"]: _structure(row) for row in rows}


def _structure(row: Row) -> Structure:
    side = cast(Laterality, row["laterality"])
    # A code that one doubtful source has is kept for review, and not published.
    coded = row["snomed_confidence"] in ("high", "medium")
    expression = row["snomed_expression"] if coded else ""
    kind, _, site = expression.partition("@")
    radlex = row["radlex_id"].split("|")
    return Structure(
        name=row["name"],
        display=row["display"],
        display_de=row["display_de"],
        laterality=side,
        same_as=row["same_as"],
        tasks=tuple(row["tasks"].split("|")),
        total_class=_integer(row["total_class"]),
        snomed=row["snomed_code"] if coded else "",
        snomed_display=row["snomed_term"] if coded else "",
        snomed_modifier=SNOMED_SIDES[side] if "=" in kind else "",
        snomed_expression=expression,
        snomed_degree=int(row["snomed_degree"]) if coded else 5,
        snomed_confidence=row["snomed_confidence"],
        snomed_base=row["snomed_base_code"] if coded else "",
        snomed_base_display=row["snomed_base_term"] if coded else "",
        type_modifier=row["dicom_type_modifier_code"] if coded else "",
        site_code=row["site_code"],
        site_display=row["site_term"],
        site_modifier=SNOMED_SIDES[side] if "=" in site else "",
        category_code=row["dicom_category_code"],
        category_display=row["dicom_category_term"],
        radlex=radlex[0] if len(radlex) == 1 else "",
        radlex_display=row["radlex_name"] if len(radlex) == 1 else "",
        radlex_modifier=RADLEX_SIDES[side] if row["radlex_side"] == "no" else "",
        radlex_degree=int(row["radlex_degree"]),
        radlex_parts=tuple(radlex) if len(radlex) > 1 else (),
        fma=row["fma_id"],
        fma_unsided=row["fma_scope"].startswith("unsided"),
        uberon=row["uberon_id"],
        uberon_unsided=row["uberon_scope"].startswith("unsided"),
        body_region=row["body_region"],
        organ_system=row["organ_system"],
        cc_rank=_integer(row["cc_rank"]),
    )


def edges(rows: Sequence[Row]) -> tuple[Edge, ...]:
    """Every edge; a relation that is misspelt would only never be followed, so tests check it."""
    return tuple(
        Edge(child=row["child"], relation=cast(Relation, row["relation"]), parent=row["parent"])
        for row in rows
    )


def groups(
    rows: Sequence[Row], edges: Sequence[Edge], names: Collection[str]
) -> Mapping[str, Group]:
    """Every group, with its members in the order of `names`."""
    below: dict[str, list[Edge]] = {}
    for edge in edges:
        below.setdefault(edge.parent, []).append(edge)

    def members(group: str, relations: Collection[str]) -> tuple[str, ...]:
        found = _descend(group, below, relations)
        return tuple(name for name in names if name in found)

    return {
        row["name"]: Group(
            name=row["name"],
            display=row["display"],
            kind=row["kind"],  # type: ignore[arg-type]  # the table's, checked by a test
            members=members(row["name"], row["expansion"].split("|")),
            kinds=members(row["name"], ("is_a",)),
            paired=row["paired"] == "yes",
            snomed=row["snomed_code"],
            snomed_display=row["snomed_term"],
            radlex=row["radlex_id"],
            fma=row["fma_id"],
            uberon=row["uberon_id"],
        )
        for row in rows
    }


def _descend(top: str, below: Mapping[str, Sequence[Edge]], relations: Collection[str]) -> set[str]:
    """Everything under `top` by these relations; ends also where a table has a cycle."""
    found: set[str] = set()
    waiting = [top]
    while waiting:
        for edge in below.get(waiting.pop(), ()):
            if edge.relation in relations and edge.child not in found:
                found.add(edge.child)
                waiting.append(edge.child)
    return found


def synonyms(written: Sequence[Row], numbered: Sequence[Row]) -> tuple[Synonym, ...]:
    """Those that are written out, and those of vertebrae, ribs and the like with their numbers."""
    return tuple(
        Synonym(text=text, language=cast(Language, language), target=target)
        for text, language, target in (
            *((row["term"], row["language"], row["target"]) for row in written),
            *_count(numbered),
        )
    )


def _count(rows: Sequence[Row]) -> Iterator[tuple[str, str, str]]:
    for row in rows:
        for n in range(int(row["first"]), int(row["last"]) + 1):
            text = row["pattern"].format(n=n, roman=_ROMAN[n])
            yield text, row["language"], row["target"].format(n=n)


def order(rows: Sequence[Row]) -> Mapping[str, Level]:
    """Where structures usually lie, by name."""
    return {
        row["name"]: Level(
            rank=int(row["cc_rank"]),
            top=row["top_level"],
            bottom=row["bottom_level"],
            top_score=float(row["bpr_top"]),
            bottom_score=float(row["bpr_bottom"]),
        )
        for row in rows
    }


def ranges(rows: Sequence[Row]) -> tuple[Range, ...]:
    """What volumes and densities are plausible."""
    return tuple(
        Range(
            names=tuple(row["names"].split("|")) if row["names"] else (),
            of=row["of"],
            population=row["population"],
            quantity=row["quantity"],
            value=_number(row["value"]),
            sd=_number(row["sd"]),
            low=_number(row["low"]),
            high=_number(row["high"]),
            kind=row["kind"],
            source=row["source"],
        )
        for row in rows
    )


def foreign_codes(rows: Sequence[Row]) -> tuple[ForeignCode, ...]:
    """Codes that other software is known to write for something else."""
    return tuple(
        ForeignCode(
            code=row["snomed_code"],
            laterality=cast(Laterality, row["laterality"]),
            name=row["name"],
        )
        for row in rows
    )


def _integer(text: str) -> int | None:
    return int(text) if text else None


def _number(text: str) -> float | None:
    return float(text) if text else None
