"""Which of our structures a coded DICOM segment means, if it means one."""

from __future__ import annotations

from tomodex.segmenters.dicomseg.seg import Code, Segment, printable
from tomodex.terminology import SNOMED_SIDES, Laterality, Structure, Terminology

#: Categories (PS3.16 CID 7150) of what is anatomy; as a type they say no more than a category.
ANATOMY = frozenset(
    {
        ("SCT", "85756007"),  # Tissue
        ("SCT", "91723000"),  # Anatomical Structure
        ("SCT", "123037004"),  # Anatomical Structure, as written before 2020
        ("SCT", "113343008"),  # Organ
        ("SRT", "T-D0050"),  # Tissue
        ("SRT", "T-D0005"),  # Anatomical Structure
        ("SRT", "T-D000A"),  # Anatomical Structure
        ("SRT", "T-D0060"),  # Organ
    }
)

#: Scheme of our own names, in what we wrote of structures that no terminology has a code for.
OURS = "99TOMODEX"

_SIDES: dict[tuple[str, str], Laterality] = {
    **{("SCT", code): side for side, code in SNOMED_SIDES.items()},
    ("SRT", "G-A101"): "left",
    ("SRT", "G-A100"): "right",
    # "Right and left" and "unilateral" are no side: what has two of them is then none of ours.
    ("SCT", "51440002"): "",
    ("SCT", "66459002"): "",
    ("SRT", "G-A102"): "",
    ("SRT", "G-A103"): "",
}


def name_segment(segment: Segment, terminology: Terminology) -> str | None:
    """Our name of the structure that a segment is, None where it is something else.

    Its type code counts first, with its side. Where the type says no more than "tissue" or
    "organ", its anatomic region counts. Where no code is known, words do, if they mean exactly
    one structure: first the code's meaning, then the label, unless the type contradicts it. What
    is no anatomy by its category (a tumor, an edema) is never taken for the organ it is in.
    """
    kind, region = segment.kind, segment.region
    modifiers = (*segment.kind_modifiers, *segment.region_modifiers)
    # Another modifier, such as "cortex", makes the type something smaller than it says.
    if kind is None or any(_key(modifier) not in _SIDES for modifier in modifiers):
        return None
    if kind.scheme == OURS:
        return kind.value if kind.value in terminology.structures else None
    side: Laterality = next((s for m in modifiers if (s := _SIDES[_key(m)])), "")
    found = terminology.find_code(kind.scheme, kind.value, side, region.value if region else "")
    if found or not _is_anatomy(segment):
        # Our findings (a kidney cyst) have a site, which `find_code` compared with the region.
        return found.name if found and (_is_anatomy(segment) or found.site_code) else None
    if region and _key(kind) in ANATOMY:
        found = terminology.find_code(region.scheme, region.value, side)
        return found.name if found else None
    return _name_by_words(segment, kind, side, terminology)


def describe(segment: Segment) -> str:
    """Code and meaning of a segment that we have no name for; never its label, which is free."""
    kind = segment.kind
    return printable(f"{kind.scheme}:{kind.value} {kind.meaning}") if kind else "without a code"


def is_background(segment: Segment) -> bool:
    """Is it what a label map has where nothing is segmented?"""
    return segment.kind is not None and _key(segment.kind) == ("DCM", "125040")


def _key(code: Code) -> tuple[str, str]:
    # Older names of SNOMED-RT (PS3.16 section 8).
    scheme = "SRT" if code.scheme in ("SNM3", "99SDM") else code.scheme
    return scheme, code.value


def _is_anatomy(segment: Segment) -> bool:
    return segment.category is None or _key(segment.category) in ANATOMY


def _name_by_words(
    segment: Segment, kind: Code, side: Laterality, terminology: Terminology
) -> str | None:
    group = terminology.find_group_code(kind.scheme, kind.value)
    says_little = _key(kind) in ANATOMY or kind.scheme.startswith("99")
    by_meaning = _resolve(kind.meaning, side, terminology)
    by_label = _resolve(segment.label, side, terminology)
    for structure in (by_meaning, by_label if says_little or group else None):
        if structure and (not group or structure.name in group):
            return structure.name
    return None


def _resolve(text: str, side: Laterality, terminology: Terminology) -> Structure | None:
    """The one structure that a text means, on that side if one is given."""
    for words in (f"{side} {text}", text) if side else (text,):
        names = terminology.resolve(printable(words))
        structure = terminology.structures[names[0]] if len(names) == 1 else None
        if structure and structure.laterality == (side or structure.laterality):
            return structure
    return None
