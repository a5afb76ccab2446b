"""An anatomical structure and a group of them, with the codes that others know them by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Laterality = Literal["left", "right", ""]

Relation = Literal["is_a", "part_of", "has_part", "located_in", "overlaps"]

#: SNOMED CT qualifier of each side, for 272741003 |Laterality|.
SNOMED_SIDES: Mapping[Laterality, str] = {"left": "7771000", "right": "24028007"}

#: RadLex has the sides as concepts of their own.
RADLEX_SIDES: Mapping[Laterality, str] = {"left": "RID5824", "right": "RID5825"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """An anatomical structure that a segmenter can find.

    A few are findings or devices (a kidney cyst, a hip implant): those have a `site_code`, and are
    coded as their kind at that site, never as a body structure.
    """

    name: str  #: our key, the same as TotalSegmentator's class name, such as "kidney_left"
    display: str  #: for people, such as "Left kidney"
    laterality: Laterality
    snomed: str  #: SNOMED CT code to publish, side pre-coordinated where attested; "" where none
    snomed_display: str
    radlex: str  #: RadLex id; "" where there is none
    radlex_display: str

    display_de: str = ""  #: for people, in German, such as "Niere links"
    same_as: str = ""  #: the structure that this one is, under the name another task gives it
    tasks: tuple[str, ...] = ()  #: TotalSegmentator tasks that have it
    total_class: int | None = None  #: class number in task "total"; None where it is not in there
    snomed_modifier: str = ""  #: code of the side, where `snomed` does not say it
    snomed_expression: str = ""  #: `snomed` with its side and site; no two structures share one
    snomed_degree: int = 5  #: ISO/TR 12300 degree of the expression: 1, 2 equivalent ... 5 no map
    snomed_confidence: str = "none"  #: "high": two sources or more; "low" is never published
    snomed_base: str = ""  #: the code without a side, as DICOM SEG wants it
    snomed_base_display: str = ""
    type_modifier: str = ""  #: DICOM's Segmented Property Type Modifier for `snomed_base`
    site_code: str = ""  #: SNOMED CT code of where a finding or device is; "" for anatomy
    site_display: str = ""
    site_modifier: str = ""  #: code of the side of the site, where `site_code` does not say it
    category_code: str = "91723000"  #: DICOM's Segmented Property Category, CID 7150
    category_display: str = "Anatomical Structure"
    radlex_modifier: str = ""  #: RadLex id of the side, where `radlex` does not say it
    radlex_degree: int = 5  #: ISO/TR 12300 degree of the bare `radlex`
    radlex_parts: tuple[str, ...] = ()  #: RadLex ids of what it is made of, where none is the whole
    fma: str = ""  #: such as "FMA:7205"
    fma_unsided: bool = False  #: `fma` is the code of either side
    uberon: str = ""  #: such as "UBERON:0004538"
    uberon_unsided: bool = False  #: `uberon` is the code of either side
    body_region: str = ""
    organ_system: str = ""
    cc_rank: int | None = None  #: usual order from head to foot, 1 is uppermost; see `order.csv`


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Structures that people have one word for: an organ with two sides, a system, a region."""

    name: str  #: our key, such as "lumbar_spine"; no structure has the same
    display: str
    kind: Literal["structure", "system", "region"]
    members: tuple[str, ...]  #: names of the structures that a search for it means
    kinds: tuple[str, ...] = ()  #: those among them that are one (is_a), not parts of one
    paired: bool = False  #: it has a left and a right, so that "left ..." may be asked for
    snomed: str = ""
    snomed_display: str = ""
    radlex: str = ""
    fma: str = ""
    uberon: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """`child` is in this relation to `parent`; both are names of structures or groups."""

    child: str
    relation: Relation
    parent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Where along the body a structure usually lies; for plausibility only."""

    rank: int  #: 1 is uppermost
    top: str  #: vertebral level or landmark of its upper end
    bottom: str
    top_score: float  #: Body Part Regression score: 0 lower end of the pelvis, 100 of the eyes
    bottom_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A published value, or an editorial gate for plausibility that is no reference range."""

    names: tuple[str, ...]  #: each of these; () where it is for a tissue only
    of: str  #: the tissue it is for, such as "blood"; "" for all that the label covers
    population: str
    quantity: str  #: with its unit: "volume_ml", "mass_g", "mean_HU_of_mask", "HU", ...
    value: float | None
    sd: float | None
    low: float | None
    high: float | None
    kind: str  #: "published" or "editorial_gate"
    source: str
