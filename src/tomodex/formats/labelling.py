"""What the labels of a file mean, for files that cannot say it themselves."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import orjson

from tomodex.annotation import Annotation
from tomodex.formats.dicom_coding import coded
from tomodex.masks import Masks
from tomodex.terminology import Terminology

#: Successive hues differ by this share of the circle, so that neighbours look different.
_GOLDEN = 0.618034

_MM3 = 1000.0  #: in a millilitre

#: What ITK-SNAP expects before the first label.
_HEAD = """################################################
# ITK-SnAP Label Description File
# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL
################################################
    0     0    0    0        0  0  0    "Clear Label"
"""


def write_labels_json(path: Path, masks: Masks, series_uid: str, terminology: Terminology) -> None:
    """Names and codes of the labels of every layer, where they lie, and what made them."""
    document = {
        "series_uid": series_uid,
        "layers": [
            [_described(label, name, terminology) for label, name in names.items()]
            for names in masks.names
        ],
        "affine_lps": masks.affine.tolist(),
        "algorithm": {**asdict(masks.algorithm), "options": dict(masks.algorithm.options)},
        "terminology": terminology.version,
    }
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))


def write_statistics(path: Path, annotations: Iterable[Annotation]) -> None:
    """Volume and mean of structures, as TotalSegmentator writes them beside its masks.

    It sets to zero whatever touches the border; here it stays, and `cut` names the sides.
    """
    document = {
        one.structure: {
            "volume": one.measurement.volume_ml * _MM3,
            "intensity": one.measurement.mean_hu,
            "cut": list(one.measurement.cut),
        }
        for one in annotations
    }
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))


def _described(label: int, name: str, terminology: Terminology) -> dict[str, object]:
    structure = terminology.structures[name]
    codes = coded(structure)
    said = {
        "type": codes.kind,
        "type_modifier": codes.kind_side,
        "region": codes.site,
        "region_modifier": codes.site_side,
    }
    return {
        "label": label,
        "structure": name,
        "display": structure.display,
        "snomed": structure.snomed,
        "radlex": structure.radlex,
        **{key: code._asdict() for key, code in said.items() if code},
    }


def write_label_file(path: Path, names: Mapping[int, str]) -> None:
    """Names and colours of labels as ITK-SNAP and 3D Slicer read them."""
    lines = [
        f'{label:5d}  {red:4d} {green:4d} {blue:4d}        1  1  1    "{name}"\n'
        for label, name in names.items()
        for red, green, blue in [colour(label)]
    ]
    path.write_text(_HEAD + "".join(lines))


def colour(label: int) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255: always the same for a label."""
    rgb = colorsys.hsv_to_rgb(label * _GOLDEN % 1, 0.6 + 0.4 * (label % 2), 0.95)
    red, green, blue = (round(255 * part) for part in rgb)
    return red, green, blue
