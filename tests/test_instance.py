"""What a header says, however it is written; and that nothing in it can hurt."""

from __future__ import annotations

import io
import logging
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from tomodex.errors import Unavailable, Unsuitable
from tomodex.header import MAX_HEADER, inflate
from tomodex.instance import Instance, read_instance, read_instance_from

SYNTAXES: tuple[str, ...] = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)


def ct_slice(**elements: object) -> Dataset:
    """A small CT slice, with some elements changed (None: left out)."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = "1.2.3.4"
    ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.Modality = "1.2.3", "1.2", "CT"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.PatientID, ds.PatientName = "4711", "Doe^Jane"
    ds.ImageOrientationPatient = [1, 0, 0, 0, 0.5, 0.8660254]
    ds.ImagePositionPatient = [-10.5, 20, 30.25]
    ds.PixelSpacing = [0.9, 0.7]
    ds.Rows, ds.Columns = 3, 2
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.RescaleSlope, ds.RescaleIntercept = "1.5", "-1024"
    ds.PixelData = bytes(12)
    for keyword, value in elements.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def as_bytes(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """The dataset as a DICOM file."""
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    written = io.BytesIO()
    ds.save_as(written, enforce_file_format=True)
    return written.getvalue()


def read(data: bytes | Dataset, free_text: bool = False) -> Instance | None:
    """What `read_instance` makes of it; identifiers become themselves in brackets."""
    raw = as_bytes(data) if isinstance(data, Dataset) else data
    return read_instance_from(io.BytesIO(raw), "x.dcm", lambda who: f"<{who}>", free_text)


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """One explicit little endian element, which may claim another length than it has."""
    claimed = len(value) if length is None else length
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr in (b"SQ", b"OW", b"OB", b"UN", b"UT"):
        return head + struct.pack("<HI", 0, claimed) + value
    return head + struct.pack("<H", claimed) + value


def headless(data: bytes) -> bytes:
    """The dataset of a file, without preamble and file meta."""
    group_length = struct.unpack_from("<I", data, 140)[0]
    return data[144 + group_length :]


# --- how it is written --------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_header_says_the_same_in_every_transfer_syntax(syntax: str) -> None:
    instance = read(as_bytes(ct_slice(), syntax))
    assert instance is not None
    assert instance.transfer_syntax == syntax
    assert (instance.series_uid, instance.study_uid, instance.sop_uid) == (
        "1.2.3",
        "1.2",
        "1.2.3.4",
    )
    assert (instance.rows, instance.columns, instance.bits_stored) == (3, 2, 12)
    assert instance.image_type == ("ORIGINAL", "PRIMARY", "AXIAL")
    (frame,) = instance.frames
    assert frame.position_mm == (-10.5, 20.0, 30.25)
    assert frame.orientation == (1, 0, 0, 0, 0.5, 0.8660254)
    assert frame.pixel_spacing_mm == (0.9, 0.7)
    assert (frame.rescale_slope, frame.rescale_intercept) == (1.5, -1024)
    assert instance.has_pixels


@pytest.mark.parametrize("syntax", SYNTAXES[:3])
def test_a_file_without_preamble_and_meta_is_read(syntax: str) -> None:
    instance = read(headless(as_bytes(ct_slice(), syntax)))
    assert instance is not None
    assert (instance.series_uid, instance.transfer_syntax) == ("1.2.3", syntax)
    assert instance.frames[0].position_mm == (-10.5, 20.0, 30.25)


def test_a_file_whose_meta_names_the_wrong_syntax_is_read() -> None:
    implicit, explicit = as_bytes(ct_slice(), ImplicitVRLittleEndian), as_bytes(ct_slice())
    meta = explicit[: -len(headless(explicit))]
    instance = read(meta + headless(implicit))
    assert instance is not None
    assert instance.frames[0].pixel_spacing_mm == (0.9, 0.7)


def test_uids_come_from_the_file_meta_where_the_dataset_has_none() -> None:
    instance = read(ct_slice(SOPInstanceUID="", SeriesInstanceUID="", StudyInstanceUID=None))
    assert instance is not None
    assert (instance.sop_uid, instance.series_uid, instance.study_uid) == ("1.2.3.4", "", "")


def test_a_uid_that_is_none_counts_as_missing() -> None:
    data = as_bytes(ct_slice(SeriesInstanceUID="1.2.3.4.5.6.7")).replace(
        b"1.2.3.4.5.6.7", b"../../etc/pwd"
    )
    instance = read(data)
    assert instance is not None
    assert instance.series_uid == ""


def test_a_header_longer_than_the_first_read_is_read() -> None:
    long = ct_slice()
    long.add_new(0x00091010, "OB", bytes(40_000))  # passed over
    long.SourceImageSequence = Sequence([Dataset() for _ in range(20_000)])  # held
    instance = read(long)
    assert instance is not None
    assert instance.rows == 3
    assert instance.has_pixels


@pytest.mark.parametrize(("pixels", "there"), [(bytes(12), True), (b"", False), (None, False)])
def test_pixels_are_there_if_they_are_not_empty(pixels: bytes | None, there: bool) -> None:
    instance = read(ct_slice(PixelData=pixels))
    assert instance is not None
    assert instance.has_pixels is there


def test_compressed_pixels_are_there() -> None:
    data = as_bytes(ct_slice())
    cut = data.index(struct.pack("<HH", 0x7FE0, 0x0010))
    encapsulated = element(0x7FE00010, b"OB", struct.pack("<HHI", 0xFFFE, 0xE000, 0), 0xFFFFFFFF)
    instance = read(data[:cut] + encapsulated)
    assert instance is not None
    assert instance.has_pixels


@pytest.mark.parametrize("syntax", [*SYNTAXES, RLELossless])
def test_pixels_are_found_where_they_lie(syntax: str) -> None:
    stored = bytes(range(100, 112))
    fragments = encapsulate([stored])
    ds = ct_slice(PixelData=fragments if syntax == RLELossless else stored)
    ds["PixelData"].VR = "OW" if syntax == ImplicitVRLittleEndian else "OB"
    ds.IconImageSequence = [item(Rows=2, Columns=2, BitsAllocated=8, PixelData=b"icon")]
    ds.IconImageSequence[0]["PixelData"].VR = "OB"
    data = as_bytes(ds, syntax)
    instance = read(data)
    assert instance is not None
    assert instance.pixel_data is not None
    start, length = instance.pixel_data
    if syntax == DeflatedExplicitVRLittleEndian:
        data = inflate(io.BytesIO(data), 2**20)
    if syntax == RLELossless:
        assert length == 0xFFFFFFFF
        assert data[start : start + len(fragments)] == fragments
    else:
        assert data[start : start + length] == stored


def test_a_file_that_names_the_wrong_byte_order_is_read_as_it_is() -> None:
    """Else its pixels would be taken for big endian as well."""
    data = as_bytes(ct_slice()).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.2\0")
    instance = read(data)
    assert instance is not None
    assert (instance.transfer_syntax, instance.rows) == (ExplicitVRLittleEndian, 3)
    assert instance.has_pixels


# --- what it says -------------------------------------------------------------------------------


def pydicom_files() -> Iterator[Path]:
    """The test files that come with pydicom."""
    folder = Path(str(pydicom.__file__)).parent / "data" / "test_files"
    yield from sorted(path for path in folder.rglob("*") if path.suffix == ".dcm")


@pytest.mark.filterwarnings("ignore")
def test_every_file_of_pydicom_says_what_pydicom_reads() -> None:
    compared = 0
    for path in pydicom_files():
        try:
            ours = read_instance(path, lambda who: who)
        except Unsuitable:
            continue
        if ours is None or not ours.sop_class:
            continue
        theirs = pydicom.dcmread(path, force=True)
        meta = getattr(theirs, "file_meta", Dataset())
        assert ours.sop_class == (
            theirs.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID")
        ), path.name
        assert ours.series_uid == theirs.get("SeriesInstanceUID", ""), path.name
        assert ours.modality == theirs.get("Modality", ""), path.name
        assert ours.rows == theirs.get("Rows", 0), path.name
        assert ours.bits_stored == theirs.get("BitsStored", 0), path.name
        assert ours.has_pixels == bool(theirs.get("PixelData")), path.name
        if "ImagePositionPatient" in theirs:
            assert ours.frames[0].position_mm == tuple(theirs.ImagePositionPatient), path.name
        if "PatientID" in theirs and theirs.PatientID:
            assert ours.patient.startswith(theirs.PatientID), path.name
        compared += 1
    assert compared > 40


@pytest.mark.parametrize(
    ("elements", "years"),
    [
        ({"PatientAge": "045Y"}, 45),
        ({"PatientAge": "006M"}, 0.5),
        ({"PatientAge": "010D"}, 0.03),
        ({"PatientAge": "026W"}, 0.5),
        ({"PatientBirthDate": "19800229", "StudyDate": "20200228"}, 39),
        ({"PatientBirthDate": "19800229", "StudyDate": "20200301"}, 40),
        ({"PatientBirthDate": "20200101", "StudyDate": "20200701"}, 0.5),
        ({"PatientAge": "045Y", "PatientBirthDate": "19800101", "StudyDate": "20200701"}, 45),
        ({"PatientBirthDate": "20210101", "StudyDate": "20200701"}, None),
        ({"StudyDate": "20200701"}, None),
    ],
)
def test_age_is_in_years(elements: dict[str, str], years: float | None) -> None:
    instance = read(ct_slice(**elements))
    assert instance is not None
    assert instance.attributes.get("PatientAge") == years


def test_dates_are_written_as_iso_and_impossible_ones_left_out() -> None:
    instance = read(ct_slice(StudyDate="20240229", SeriesDate="20230229"))
    data = as_bytes(ct_slice(StudyDate="20240229"))
    old = read(data.replace(b"DA\x08\x0020240229", b"DA\x0a\x001996.12.02"))
    assert instance is not None
    assert instance.attributes["StudyDate"] == "2024-02-29"
    assert "SeriesDate" not in instance.attributes
    assert old is not None
    assert old.attributes["StudyDate"] == "1996-12-02"  # ACR-NEMA


def test_numbers_that_are_none_are_left_out() -> None:
    data = as_bytes(ct_slice(SliceThickness="1.25", KVP="120", GantryDetectorTilt="12"))
    data = data.replace(b"1.25", b"1A25").replace(b"120 ", b"1_0 ")
    instance = read(data)
    assert instance is not None
    assert "SliceThickness" not in instance.attributes
    assert "KVP" not in instance.attributes
    assert instance.attributes["GantryDetectorTilt"] == 12


def test_rows_that_are_two_numbers_are_none() -> None:
    data = as_bytes(ct_slice())
    one = element(0x00280010, b"US", struct.pack("<H", 3))
    two = element(0x00280010, b"US", struct.pack("<HH", 32768, 0))
    assert one in data
    instance = read(data.replace(one, two))
    assert instance is not None
    assert (instance.rows, instance.columns) == (0, 2)


@pytest.mark.parametrize("number", [b"99999999999999999999", b"1e300               "])
def test_whole_numbers_too_large_for_dicom_are_none(number: bytes) -> None:
    data = as_bytes(ct_slice())
    start = data.index(struct.pack("<HH2s", 0x0020, 0x0032, b"DS"))
    instance = read(data[:start] + element(0x00200012, b"IS", number) + data[start:])
    assert instance is not None
    assert instance.acquisition_number is None


def test_several_values_are_joined_as_dicom_does() -> None:
    instance = read(ct_slice(ConvolutionKernel=["Br40f", "3"]))
    assert instance is not None
    assert instance.attributes["ConvolutionKernel"] == "Br40f\\3"


def test_free_text_is_read_only_where_asked_for() -> None:
    ds = ct_slice(SeriesDescription="Abdomen", StudyDescription="CT", ProtocolName="Abd")
    without, with_it = read(ds), read(ds, free_text=True)
    assert without is not None
    assert with_it is not None
    assert not {"SeriesDescription", "StudyDescription", "ProtocolName"} & set(without.attributes)
    assert with_it.attributes["SeriesDescription"] == "Abdomen"
    assert without.description == "Abdomen"  # to judge by, not to keep


@pytest.mark.parametrize(
    ("charset", "text"),
    [
        ("ISO_IR 100", "Müller"),
        ("ISO_IR 144", "Дюжий"),
        ("ISO_IR 192", "王小東 Ä"),
        ("GB18030", "王小东"),
        (["", "ISO 2022 IR 87"], "Yamada 山田"),
    ],
)
def test_character_sets_become_unicode(charset: str | list[str], text: str) -> None:
    ds = ct_slice(SpecificCharacterSet=charset, Manufacturer=text, PatientID=text)
    instance = read(ds)
    assert instance is not None
    assert instance.attributes["Manufacturer"] == text
    assert instance.patient == f"<{text}>"


def test_text_without_a_character_set_is_guessed_and_never_fails() -> None:
    for raw, text in ((b"M\xc3\xbcller ", "Müller"), (b"M\xfcller", "Müller")):
        data = as_bytes(ct_slice(Manufacturer="X" * len(raw))).replace(b"X" * len(raw), raw)
        instance = read(data)
        assert instance is not None
        assert instance.attributes["Manufacturer"] == text


def test_an_unknown_character_set_neither_fails_nor_warns_nor_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = as_bytes(ct_slice(SpecificCharacterSet="ISO_IR 100", Manufacturer="XXXX"))
    instance = read(
        data.replace(b"ISO_IR 100", b"KLINGON_10").replace(b"XXXX", b"\xff\xfe\xfd\xfc")
    )
    assert instance is not None
    assert "Manufacturer" in instance.attributes
    assert caplog.records == []
    logging.getLogger("pydicom").error("heard")
    assert [record.message for record in caplog.records] == ["heard"]


def test_text_cannot_move_the_cursor_of_a_terminal() -> None:
    data = as_bytes(ct_slice(Manufacturer="XXXXXX")).replace(b"XXXXXX", b"a\x07b\x9bcd")
    instance = read(data)
    assert instance is not None
    assert str(instance.attributes["Manufacturer"]).isprintable()


def test_a_patient_is_known_by_id_and_issuer() -> None:
    plain, issued = read(ct_slice()), read(ct_slice(IssuerOfPatientID="Clinic A"))
    assert plain is not None
    assert issued is not None
    assert (plain.patient, issued.patient) == ("<4711>", "<4711^^^Clinic A>")


def test_a_patient_without_id_is_known_by_the_study() -> None:
    by_study = read(ct_slice(PatientID=""))
    by_instance = read(ct_slice(PatientID=None, StudyInstanceUID="", SeriesInstanceUID=""))
    assert by_study is not None
    assert by_instance is not None
    assert (by_study.patient, by_instance.patient) == ("<study:1.2>", "<study:1.2.3.4>")


def test_padding_has_the_sign_of_the_pixels() -> None:
    unsigned = ct_slice()
    unsigned.add_new(0x00280120, "US", 63536)
    signed = ct_slice(PixelRepresentation=1)
    signed.add_new(0x00280120, "SS", -2000)
    signed.add_new(0x00280121, "SS", -1990)
    padded = [read(ds) for ds in (unsigned, signed, ct_slice())]
    assert [one.pixel_padding for one in padded if one] == [(63536, 63536), (-2000, -1990), None]


def test_phases_are_told_apart_and_acquisition_times_are_not() -> None:
    phase = read(ct_slice(TemporalPositionIdentifier=3, NominalPercentageOfCardiacPhase=75))
    timed = read(ct_slice(AcquisitionTime="101112", TriggerTime=12))
    assert phase is not None
    assert timed is not None
    assert phase.frames[0].time_point == (
        "TemporalPositionIdentifier=3 NominalPercentageOfCardiacPhase=75"
    )
    assert timed.frames[0].time_point == ""


def test_hints_are_kept_for_selection() -> None:
    instance = read(ct_slice(MultienergyCTAcquisition="YES", ConversionType="WSD"))
    assert instance is not None
    assert instance.private == {"MultienergyCTAcquisition": "YES", "ConversionType": "WSD"}


# --- enhanced multi-frame -----------------------------------------------------------------------


def item(**elements: object) -> Dataset:
    """A sequence item."""
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def enhanced(frames: int = 3) -> Dataset:
    """An enhanced CT whose frames share all but their place and phase."""
    ds = ct_slice(
        SOPClassUID=EnhancedCTImageStorage,
        NumberOfFrames=frames,
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
        PixelSpacing=None,
        RescaleSlope=None,
        RescaleIntercept=None,
        PixelData=bytes(12 * frames),
    )
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelMeasuresSequence=[
            item(PixelSpacing=[0.9, 0.7], SliceThickness=2, SpacingBetweenSlices=1.5)
        ],
        PixelValueTransformationSequence=[
            item(RescaleSlope=2, RescaleIntercept=-1000, RescaleType="HU")
        ],
        CTXRayDetailsSequence=[item(KVP=120)],
        CTExposureSequence=[item(XRayTubeCurrentInmA=210.5, CTDIvol=7.5)],
        CTReconstructionSequence=[item(ConvolutionKernel="Br40", ReconstructionDiameter=350)],
    )
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 1.5 * k])],
            FrameContentSequence=[item(TemporalPositionIndex=k + 1)],
            CTImageFrameTypeSequence=[item(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", str(k)])],
        )
        for k in range(frames)
    ]
    return ds


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined_length", [False, True])
def test_each_frame_has_what_is_its_own_and_what_is_shared(
    syntax: str, undefined_length: bool
) -> None:
    ds = enhanced()
    for tag in (0x52009229, 0x52009230):
        ds[tag].is_undefined_length = undefined_length
        for group in ds[tag].value:
            group.is_undefined_length_sequence_item = undefined_length
            for macro in group:
                macro.is_undefined_length = undefined_length
    instance = read(as_bytes(ds, syntax))
    assert instance is not None
    assert instance.number_of_frames == len(instance.frames) == 3
    for k, frame in enumerate(instance.frames):
        assert frame.position_mm == (0, 0, 1.5 * k)
        assert frame.orientation == (1, 0, 0, 0, 1, 0)
        assert frame.pixel_spacing_mm == (0.9, 0.7)
        assert (frame.rescale_slope, frame.rescale_intercept) == (2, -1000)
        assert frame.rescale_type == "HU"
        assert frame.image_type == ("ORIGINAL", "PRIMARY", "VOLUME", str(k))
        assert frame.time_point == f"TemporalPositionIndex={k + 1}"


def test_attributes_of_enhanced_ct_are_found_in_the_functional_groups() -> None:
    instance = read(enhanced())
    assert instance is not None
    expected = {
        "SliceThickness": 2,
        "SpacingBetweenSlices": 1.5,
        "KVP": 120,
        "XRayTubeCurrent": 210.5,
        "CTDIvol": 7.5,
        "ConvolutionKernel": "Br40",
        "ReconstructionDiameter": 350,
    }
    assert {key: instance.attributes.get(key) for key in expected} == expected


def test_frames_that_are_not_described_are_not_made_up() -> None:
    instance = read(ct_slice(NumberOfFrames=2_000_000_000))
    assert instance is not None
    assert (instance.number_of_frames, len(instance.frames)) == (2_000_000_000, 1)


def test_more_frames_than_anyone_needs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tomodex.instance.MAX_FRAMES", 2)
    with pytest.raises(Unsuitable, match="more than 2 frames"):
        read(enhanced(3))


# --- references ---------------------------------------------------------------------------------


def test_a_segmentation_names_its_series() -> None:
    ds = ct_slice(SOPClassUID=SegmentationStorage, Modality="SEG")
    ds.ReferencedSeriesSequence = [item(SeriesInstanceUID=uid) for uid in ("1.9", "1.8", "1.9")]
    instance = read(ds)
    assert instance is not None
    assert (instance.references, instance.referenced_sop_uids) == (("1.8", "1.9"), ())
    assert instance.frames == ()


def test_a_segmentation_that_names_no_series_names_its_images() -> None:
    ds = enhanced(2)
    ds.SOPClassUID, ds.Modality = SegmentationStorage, "SEG"
    for k, group in enumerate(ds.PerFrameFunctionalGroupsSequence):
        source = item(ReferencedSOPInstanceUID=f"1.7.{k}")
        group.DerivationImageSequence = [item(SourceImageSequence=[source])]
    instance = read(ds)
    assert instance is not None
    assert (instance.references, instance.referenced_sop_uids) == ((), ("1.7.0", "1.7.1"))


def test_a_sequence_of_unknown_representation_is_read_as_implicit() -> None:
    """PS3.5 6.2.2: UN of undefined length is written in implicit VR, whatever is around it."""
    inner = struct.pack("<HHI", 0x0020, 0x000E, 4) + b"1.9\0"
    # An implicit length whose two low bytes would be taken for a VR.
    inner += struct.pack("<HHI", 0x0021, 0x1010, 0x4853) + bytes(0x4853)
    undefined = 0xFFFFFFFF
    group = struct.pack("<HHI", 0xFFFE, 0xE000, undefined) + inner
    group += struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    head = START + element(0x00080060, b"CS", b"PR")
    instance = read(head + element(0x00081115, b"UN", group, undefined) + ROWS)
    assert instance is not None
    assert (instance.references, instance.rows) == (("1.9",), 3)


def test_a_structure_set_names_its_series() -> None:
    ds = ct_slice(Modality="RTSTRUCT")
    series = item(SeriesInstanceUID="1.9")
    study = item(RTReferencedSeriesSequence=[series])
    ds.ReferencedFrameOfReferenceSequence = [item(RTReferencedStudySequence=[study])]
    instance = read(ds)
    assert instance is not None
    assert instance.references == ("1.9",)


START = bytes(128) + b"DICM" + element(0x00020010, b"UI", b"1.2.840.10008.1.2.1\0")
ROWS = element(0x00280010, b"US", b"\3\0")


# --- what is no DICOM ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b'{"0008": 1}',
        b"\x1f\x8b\x08\x00" + bytes(400),
        b"\x89PNG\r\n\x1a\n" + bytes(400),
        b"NRRD0004\n" + b"type: short\n" * 40,
        struct.pack("<I", 348) + bytes(400),  # NIfTI
        b"\x08\x00" + bytes(400),
        b"\x02\x00\x00\x00" * 100,
        bytes(128) + b"DICX" + bytes(200),
    ],
)
def test_other_files_are_passed_over(data: bytes) -> None:
    assert read(data) is None


def test_a_magic_number_at_the_very_start_counts_if_elements_follow() -> None:
    assert read(as_bytes(ct_slice())[128:]) is not None
    assert read(b"DICM" + bytes(200)) is None


@given(st.binary(max_size=600).filter(lambda data: data[128:132] != b"DICM"))
def test_arbitrary_bytes_are_no_dicom(data: bytes) -> None:
    assert read(data) is None


def test_a_file_that_cannot_be_opened_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="No such file"):
        read_instance(tmp_path / "gone.dcm", str)


@pytest.mark.parametrize("blank", ["", None])
def test_a_ct_image_without_modality_is_one_by_its_sop_class(blank: str | None) -> None:
    instance = read(ct_slice(Modality=blank))
    assert (instance.modality, instance.attributes["Modality"]) == ("CT", "CT")
    capture = read(ct_slice(Modality=blank, SOPClassUID=SecondaryCaptureImageStorage))
    assert (capture.modality, "Modality" in capture.attributes) == ("", False)


# --- what is hostile ----------------------------------------------------------------------------


def test_a_file_that_says_nothing_of_itself_is_unreadable() -> None:
    with pytest.raises(Unsuitable, match="neither a SOP Class UID nor a Modality") as refused:
        read(START + element(0x00100010, b"PN", b"Doe^Jane"))
    assert refused.value.reason == "unreadable"


@pytest.mark.parametrize("tag", [0x00081115, 0x00091010, 0x00080016])
def test_a_claimed_length_is_not_allocated(tag: int) -> None:
    said = element(0x00080005, b"CS", b"ISO_IR 100") + element(0x00080060, b"CS", b"CT")
    data = START + said + element(tag, b"UN", b"", 0xFFFFFFF0) + bytes(1000)
    tracemalloc.start()
    try:
        instance = read(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert instance is not None
    assert not instance.has_pixels
    assert peak < 2**20


@pytest.mark.parametrize("undefined", [True, False])
def test_sequences_nested_without_end_are_refused_or_passed_over(undefined: bool) -> None:
    nested = b""
    for _ in range(2_000):
        length = 0xFFFFFFFF if undefined else len(nested)
        inner = struct.pack("<HHI", 0xFFFE, 0xE000, length) + nested
        nested = element(0x00081115, b"SQ", inner, 0xFFFFFFFF if undefined else None)
    data = START + element(0x00080060, b"CS", b"CT") + nested
    if undefined:
        with pytest.raises(Unsuitable, match="make no sense") as refused:
            read(data)
        assert refused.value.reason == "unreadable"
    else:
        assert read(data) is not None


def test_a_deflated_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tomodex.header.MAX_HEADER", 2**20)
    deflate = zlib.compressobj(wbits=-15)
    bomb = deflate.compress(element(0x00091010, b"OB", bytes(2**22))) + deflate.flush()
    data = START.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    data = data.replace(b"UI\x14\0", b"UI\x16\0")
    with pytest.raises(Unsuitable, match="longer than"):
        read(data + bomb)


def test_an_endless_header_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tomodex.header.MAX_HEADER", 2**16)
    with pytest.raises(Unsuitable, match="longer than"):
        read(START + element(0x00091010, b"LO", b"") * 20_000)
    assert MAX_HEADER > 2**16


def test_more_items_than_anyone_needs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tomodex.header.MAX_ITEMS", 100)
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 101
    with pytest.raises(Unsuitable, match="more than 100 items"):
        read(START + element(0x00081115, b"SQ", items))


def test_half_a_value_is_none() -> None:
    """Half a UID would be another series."""
    data = as_bytes(ct_slice(SeriesInstanceUID="1.2.3.4.5.6.7"))
    instance = read(data[: data.index(b"1.2.3.4.5.6.7") + 7])
    assert instance is not None
    assert (instance.modality, instance.series_uid) == ("CT", "")


def test_a_file_cut_anywhere_is_read_as_far_as_it_goes_or_refused() -> None:
    data = as_bytes(enhanced())
    for end in range(132, len(data), 7):
        try:
            instance = read(data[:end])
        except Unsuitable as unsuitable:
            assert unsuitable.reason == "unreadable"  # noqa: PT017
        else:
            assert instance is not None


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(SYNTAXES),
    st.lists(st.tuples(st.integers(0, 1500), st.binary(min_size=1, max_size=8)), min_size=1),
)
def test_a_damaged_header_gives_an_instance_or_a_reason(
    syntax: str, damages: list[tuple[int, bytes]]
) -> None:
    data = bytearray(DAMAGED[syntax])
    for at, damage in damages:
        data[132 + at : 132 + at + len(damage)] = damage
    try:
        read(bytes(data))
    except Unsuitable as unsuitable:
        assert unsuitable.reason == "unreadable"  # noqa: PT017
        assert "Doe" not in unsuitable.sentence  # noqa: PT017


DAMAGED = {syntax: as_bytes(enhanced(), syntax) for syntax in SYNTAXES}
