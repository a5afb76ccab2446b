"""Images that were compressed with loss, and what is made from them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

from tomodex.errors import Unavailable
from tomodex.formats.lossy import Lossy, put_lossy, read_lossy
from tomodex.instance import Instance, read_instance


def written(folder: Path, name: str, **said: object) -> Instance:
    """An image of 64 x 64 pixels, unpacked, that says these of itself."""
    return saved(
        folder / name, np.zeros((64, 64), np.uint8).tobytes(), ExplicitVRLittleEndian, said
    )


def jpeg(folder: Path, **said: object) -> Instance:
    """The same as JPEG, which always loses something."""
    pixels = np.random.default_rng(1).integers(0, 255, (64, 64), np.uint8)
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "JPEG", quality=20)
    return saved(folder / "jpeg.dcm", encapsulate([packed.getvalue()]), JPEGBaseline8Bit, said)


def saved(path: Path, pixels: bytes, syntax: str, said: dict[str, object]) -> Instance:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = f"1.2.{path.stem.__hash__() % 99}"
    ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.Modality = "1.2.3", "1.2", "CT"
    ds.Rows = ds.Columns = 64
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    for keyword, value in said.items():
        setattr(ds, keyword, value)
    ds.PixelData = pixels
    ds["PixelData"].is_undefined_length = ds.file_meta.TransferSyntaxUID.is_compressed
    ds.save_as(path, enforce_file_format=True)
    found = read_instance(path, pseudonymize=str)
    assert isinstance(found, Instance)
    return found


def said_of(lossy: Lossy | None) -> Dataset:
    ds = Dataset()
    put_lossy(ds, lossy)
    return ds


def test_images_that_lost_nothing_make_one_that_lost_nothing(tmp_path):
    plain = written(tmp_path, "a.dcm"), written(tmp_path, "b.dcm", LossyImageCompression="00")
    made = said_of(read_lossy(plain))
    assert made.LossyImageCompression == "00"
    assert "LossyImageCompressionRatio" not in made
    assert "LossyImageCompressionMethod" not in made


def test_what_one_of_many_images_lost_is_said_with_each_of_its_steps(tmp_path):
    steps = {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": ["8", "2.5"],
        "LossyImageCompressionMethod": ["ISO_10918_1", "ISO_15444_1"],
    }
    less = {
        **steps,
        "LossyImageCompressionRatio": "3",
        "LossyImageCompressionMethod": "ISO_14495_1",
    }
    images = [
        written(tmp_path, "a.dcm"),
        written(tmp_path, "b.dcm", **steps),
        written(tmp_path, "c.dcm", **less),
    ]
    made = said_of(read_lossy(images))
    assert made.LossyImageCompression == "01"
    assert list(made.LossyImageCompressionRatio) == [8.0, 2.5]
    assert list(made.LossyImageCompressionMethod) == ["ISO_10918_1", "ISO_15444_1"]


def test_pixels_that_lie_there_as_jpeg_lost_something_whatever_the_image_says(tmp_path):
    image = jpeg(tmp_path, LossyImageCompression="00")
    made = said_of(read_lossy([image]))
    assert made.LossyImageCompression == "01"
    assert made.LossyImageCompressionMethod == "ISO_10918_1"
    size = Path(image.path).stat().st_size
    assert 64 * 64 / size < float(made.LossyImageCompressionRatio) < 64 * 64 / (size - 700)


@pytest.mark.parametrize("ratio", ["", "many", "-3", "0", "nan"])
def test_a_ratio_that_is_none_is_not_said(tmp_path, ratio):
    image = written(tmp_path, "a.dcm", LossyImageCompression="01")
    path = Path(image.path)
    text = path.read_bytes()
    mark = b"(\x00\x10\x21CS\x02\x0001"
    assert mark in text
    value = ratio.encode().ljust(8)
    path.write_bytes(text.replace(mark, mark + b"(\x00\x12\x21DS\x08\x00" + value))
    found = read_lossy([replace(image, path=str(path))])
    assert found == Lossy()
    assert "LossyImageCompressionRatio" not in said_of(found)


def test_an_image_that_went_away_is_tried_again(tmp_path):
    image = written(tmp_path, "a.dcm")
    Path(image.path).unlink()
    with pytest.raises(Unavailable):
        read_lossy([image])
