"""Instances as files in the transfer syntaxes that archives hold; all of these lose nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tomodex.phantom.cases import Syntax
from tomodex.phantom.dicom import file_meta

Frame = npt.NDArray[np.integer]


def _j2k(frame: Frame, bits: int) -> bytes:
    return cast(
        bytes,
        imagecodecs.jpeg2k_encode(
            frame, level=0, codecformat="j2k", reversible=True, bitspersample=bits
        ),
    )


def _jpeg_lossless(frame: Frame, bits: int) -> bytes:
    return cast(bytes, imagecodecs.ljpeg_encode(frame, bitspersample=bits))


_SYNTAXES: dict[Syntax, UID] = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big_endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpegls": JPEGLSLossless,
    "j2k": JPEG2000Lossless,
    "ljpeg": JPEGLosslessSV1,
}

#: Encoders that pydicom does not bring; it does RLE and JPEG-LS itself.
_ENCODERS: dict[Syntax, Callable[[Frame, int], bytes]] = {"j2k": _j2k, "ljpeg": _jpeg_lossless}


def save(ds: Dataset, path: Path, syntax: Syntax) -> None:
    """Write one instance, whose pixels are not compressed yet."""
    uid = _SYNTAXES[syntax]
    ds.file_meta = file_meta(ds, uid if not uid.is_encapsulated else ExplicitVRLittleEndian)
    if syntax in _ENCODERS:
        _encode(ds, uid, _ENCODERS[syntax])
    elif uid.is_encapsulated:
        ds.compress(uid, encoding_plugin="pyjpegls" if syntax == "jpegls" else "pydicom",
                    generate_instance_uid=False)  # fmt: skip
    elif syntax == "big_endian":
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
        ds["PixelData"].VR = "OW"
    ds.save_as(path, enforce_file_format=True)


def _encode(ds: Dataset, uid: UID, encoder: Callable[[Frame, int], bytes]) -> None:
    """Compress each frame, and say so."""
    kind = "<i2" if ds.PixelRepresentation else "<u2"
    frames = np.frombuffer(ds.PixelData, kind).reshape(-1, ds.Rows, ds.Columns)
    encoded = [encoder(np.ascontiguousarray(f), ds.BitsStored) for f in frames]
    ds.PixelData = encapsulate(encoded)
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    ds.file_meta.TransferSyntaxUID = uid
