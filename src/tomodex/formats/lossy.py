"""Whether images were ever compressed with loss, which whatever is made from them has to say.

PS3.3 C.7.6.1.1.5: once lost is always lost, also where the pixels lie unpacked by now.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from tomodex.formats.dicom_header import header_in
from tomodex.header import Header
from tomodex.instance import Instance

#: Transfer syntaxes that lose something, and what PS3.3 C.7.6.1.1.5.1 calls their method. Those
#: that may but need not (JPEG 2000, HTJ2K, JPEG XL) lose nothing where the image does not say so.
METHODS = {
    "1.2.840.10008.1.2.4.50": "ISO_10918_1",
    "1.2.840.10008.1.2.4.51": "ISO_10918_1",
    "1.2.840.10008.1.2.4.81": "ISO_14495_1",
}
MAYBE = {
    "1.2.840.10008.1.2.4.91": "ISO_15444_1",
    "1.2.840.10008.1.2.4.203": "ISO_15444_15",
    "1.2.840.10008.1.2.4.112": "ISO_18181_1",
}

#: A Code String (PS3.5 6.2) has 16 characters, a Decimal String too.
_LONGEST = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Lossy:
    """How images were compressed with loss, step by step."""

    ratios: tuple[float, ...] = ()  #: (); nobody knows
    methods: tuple[str, ...] = ()


def read_lossy(instances: Iterable[Instance]) -> Lossy | None:
    """What the one that lost most says; None: none says that it lost anything.

    Raises:
        Unsuitable: a file is no DICOM.
        Unavailable: it cannot be read.
    """
    known = [_lossy(header_in(Path(one.path)), one) for one in instances]
    return max((one for one in known if one), key=lambda one: math.prod(one.ratios), default=None)


def put_lossy(ds: Dataset, lossy: Lossy | None) -> None:
    """Say so in an image that was made from them."""
    ds.LossyImageCompression = "01" if lossy else "00"
    if lossy and lossy.ratios:
        ds.LossyImageCompressionRatio = [f"{ratio:.6g}" for ratio in lossy.ratios]
    if lossy and lossy.methods:
        ds.LossyImageCompressionMethod = list(lossy.methods)


def _lossy(header: Header, instance: Instance) -> Lossy | None:
    said = header.elements.text("LossyImageCompression").strip()
    syntax = instance.transfer_syntax
    if said != "01" and syntax not in METHODS:
        return None
    text = header.elements.text
    methods = _parts(text("LossyImageCompressionMethod"))
    ratios = _ratios(_parts(text("LossyImageCompressionRatio")))
    # What it does not say, its own pixels show as far as they still lie there compressed.
    now = METHODS.get(syntax) or MAYBE.get(syntax)
    if not methods and now:
        methods = (now,)
    if not ratios and now:
        ratios = _ratio_now(instance)
    return Lossy(ratios=ratios, methods=methods)


def _parts(text: str) -> tuple[str, ...]:
    parts = (part.strip() for part in text.split("\\"))
    return tuple(part for part in parts if part and len(part) <= _LONGEST and part.isascii())


def _ratios(parts: Iterable[str]) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in parts)
    except ValueError:
        return ()
    return found if all(math.isfinite(one) and one > 0 for one in found) else ()


def _ratio_now(instance: Instance) -> tuple[float, ...]:
    """Bytes of the pixels unpacked to those in the file; () where that cannot be told."""
    if instance.pixel_data is None:
        return ()
    packed = Path(instance.path).stat().st_size - instance.pixel_data[0]
    pixels = instance.rows * instance.columns * instance.samples_per_pixel
    bytes_of_it = pixels * instance.bits_allocated / 8 * instance.number_of_frames
    return (round(bytes_of_it / packed, 2),) if packed > 0 and bytes_of_it > packed else ()
