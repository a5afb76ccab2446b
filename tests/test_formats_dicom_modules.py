"""Masks and reports against the tables of the standard's modules, as highdicom brings them.

dicom3tools look at the same and more, but those of Debian 12 do not know label maps, and only a
machine with servers has them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache

import pytest
from highdicom._standard_utils import (
    get_iod_module_map,
    get_module_attribute_map,
    get_sop_class_iod_map,
)
from pydicom.dataset import Dataset

from tests.annotated import ONE
from tests.masked import AT, AXIAL, SUBJECT, masks_of, origin_of
from tomodex.formats.dicom_seg import Kind, write_segs
from tomodex.formats.dicom_sr import Evidence, measurement_report
from tomodex.terminology import load_terminology

TERMINOLOGY = load_terminology()

Path = tuple[str, ...]

#: Attributes at each place, and the types (PS3.5 7.4) that they have in modules that must be there;
#: "" where only others have them.
Table = Mapping[Path, Mapping[str, str]]

#: Where some of several are wanted, and the tables do not say which: groups that are the same for
#: all frames or of each, and what a content item has by its value type.
CHOSEN = frozenset(
    {
        ("segmentation-multi-frame-functional-groups", ("SharedFunctionalGroupsSequence",)),
        ("segmentation-multi-frame-functional-groups", ("PerFrameFunctionalGroupsSequence",)),
        ("sr-document-content", ()),
    }
)

#: The content of a report is within itself, of which the table has the first levels.
RECURSIVE = "ContentSequence"


@cache
def table_of(sop_class: str) -> Table:
    """The attributes of an object of this SOP class."""
    modules = get_iod_module_map()[get_sop_class_iod_map()[sop_class]]
    table: dict[Path, dict[str, str]] = defaultdict(dict)
    for module in modules:
        for one in get_module_attribute_map()[module["key"]]:
            path = tuple(one["path"])
            known = table[path]
            needed = module["usage"] == "M" and (module["key"], path) not in CHOSEN
            said = one["type"] if needed else ""
            # The module that wants most of it counts.
            known[one["keyword"]] = min(filter(None, (known.get(one["keyword"]), said)), default="")
    return table


def wrong_with(ds: Dataset) -> list[str]:
    """What is missing, empty, or not there in the tables."""
    return list(_wrong(ds, (), table_of(ds.SOPClassUID)))


def _wrong(ds: Dataset, path: Path, table: Table) -> Iterator[str]:
    known = table.get(path, {})
    for keyword, type_ in known.items():
        place = ".".join((*path, keyword))
        if type_ in ("1", "2") and keyword not in ds:
            yield f"{place} is missing"
        elif type_.startswith("1") and keyword in ds and ds[keyword].is_empty:
            yield f"{place} is empty"
    for element in ds:
        if element.tag.group == 0x0002 or element.tag.is_private:
            continue
        if element.keyword not in known:
            yield f"{'.'.join((*path, element.keyword))} does not belong there"
        elif element.VR == "SQ" and element.keyword != RECURSIVE:
            for item in element.value:
                yield from _wrong(item, (*path, element.keyword), table)


@pytest.mark.parametrize("kind", ["LABELMAP", "BINARY"])
def test_masks_have_all_that_their_modules_want_and_nothing_else(kind: Kind) -> None:
    origin = origin_of(AXIAL)
    for ds in write_segs(masks_of(origin), origin, TERMINOLOGY, kind, "native", AT):
        assert wrong_with(ds) == []


def test_a_report_has_all_that_its_modules_want_and_nothing_else() -> None:
    assert wrong_with(measurement_report(ONE, SUBJECT, TERMINOLOGY, Evidence(), AT)) == []


def test_what_is_missing_empty_or_does_not_belong_is_seen() -> None:
    origin = origin_of(AXIAL)
    (ds,) = write_segs(masks_of(origin), origin, TERMINOLOGY, "LABELMAP", "native", AT)
    del ds.PatientName
    del ds.SegmentSequence[0].SegmentLabel
    ds.Manufacturer = ""
    ds.KVP = 120
    assert sorted(wrong_with(ds)) == [
        "KVP does not belong there",
        "Manufacturer is empty",
        "PatientName is missing",
        "SegmentSequence.SegmentLabel is missing",
    ]
