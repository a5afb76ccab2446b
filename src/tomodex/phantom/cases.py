"""The series that a phantom archive holds, as data: whose body, which part of it, scanned how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tomodex.instance import LPS
from tomodex.phantom.anatomy import Position
from tomodex.phantom.plan import Arms, Sex

Plane = Literal["axial", "coronal"]

#: How a scan becomes DICOM instances; all but the first two make a series that is rejected.
Form = Literal[
    "slices",
    "enhanced",
    "localizer",
    "single_slice",
    "few_slices",
    "gap",
    "time_points",
    "monoenergetic",
    "iodine",
    "projection",
    "capture",
]
Syntax = Literal["implicit", "explicit", "big_endian", "deflated", "rle", "jpegls", "j2k", "ljpeg"]
#: How HU are stored: 12 bit with an intercept of -1024, or 16 bit with a sign.
Stored = Literal["unsigned", "signed"]
Seg = Literal["", "LABELMAP", "BINARY"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """Somebody who does not exist."""

    id: str
    name: str
    sex: Sex
    birth_date: str  #: YYYYMMDD
    seed: int  #: of the body, added to that of the archive


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One series, and whether an index wants it."""

    name: str
    patient: Patient
    study: str  #: series with the same are of one study
    study_date: str  #: YYYYMMDD
    series_number: int
    description: str
    reach: tuple[str, str]  #: landmarks from which to which it goes, from above
    beyond_mm: tuple[float, float] = (6.0, 6.0)  #: how much further than these
    field_mm: tuple[float, float]  #: width and depth of what is seen
    center_mm: tuple[float, float] = (3.0, 4.0)  #: x and y of its middle
    spacing_mm: LPS  #: between (slices, rows, columns)
    thickness_mm: float
    plane: Plane = "axial"
    tilt_deg: float = 0.0  #: of the gantry, its top towards the feet when positive
    turn_deg: float = 0.0  #: of the image, round the body's long axis
    position: Position = "supine"
    arms: Arms = "up"
    enhancement_hu: int = 0
    noise_hu: float = 14.0
    kernel: str = "SOFT 30"
    manufacturer: str = "Phantom North"
    model: str = "N-64"
    kvp: int = 120
    stored: Stored = "unsigned"
    syntax: Syntax = "explicit"
    form: Form = "slices"
    reason: str = ""  #: why it is rejected, see `selection.REASONS`; "" is wanted
    seg: Seg = "LABELMAP"  #: what its DICOM SEG is; "" where the archive holds none
    numbered: Literal["down", "shuffled"] = "down"  #: how Instance Number runs

    @property
    def verdict(self) -> str:
        """What selection must say: "wanted", or the code of the reason why not."""
        return self.reason or "wanted"

    @property
    def age(self) -> int:
        """Of the patient on the day of the study, full years."""
        birth = self.patient.birth_date
        years = int(self.study_date[:4]) - int(birth[:4])
        return years - (self.study_date[4:] < birth[4:])


_ADA = Patient(id="PHANTOM-01", name="PHANTOM^ADA", sex="F", birth_date="19870611", seed=1)
_BEN = Patient(id="PHANTOM-02", name="PHANTOM^BEN", sex="M", birth_date="19600302", seed=2)
_CY = Patient(id="PHANTOM-03", name="PHANTOM^CY", sex="M", birth_date="19741120", seed=3)
_DORA = Patient(id="PHANTOM-04", name="PHANTOM^DÖRA", sex="F", birth_date="19690815", seed=4)
_EMIL = Patient(id="PHANTOM-05", name="PHANTOM^EMIL", sex="M", birth_date="19500101", seed=5)
_FINN = Patient(id="PHANTOM-06", name="PHANTOM^FINN", sex="M", birth_date="19920229", seed=6)
_GUDRUN = Patient(id="PHANTOM-07", name="PHANTOM^GUDRUN", sex="F", birth_date="19760930", seed=7)
_HEIDI = Patient(id="PHANTOM-08", name="PHANTOM^HEIDI", sex="F", birth_date="19551224", seed=8)

#: What `tomodex phantom` and `tomodex demo` write. No two axes share a spacing or a size.
DEMO: tuple[Case, ...] = (
    Case(
        name="head-neck", patient=_ADA, study="head-neck", study_date="20210704",
        series_number=2, description="HEAD NECK 2.5", reach=("vertex", "T3"),
        field_mm=(402, 300), center_mm=(2, -2), spacing_mm=(2.5, 2.1, 1.9), thickness_mm=2.5,
        arms="down", kernel="SOFT 40", syntax="big_endian", stored="signed", noise_hu=10,
    ),
    Case(
        name="chest", patient=_BEN, study="chest", study_date="20210318", series_number=3,
        description="CHEST 3.0", reach=("lung_apex", "L1"), beyond_mm=(14, 0),
        field_mm=(386, 300), spacing_mm=(3.0, 2.5, 2.3), thickness_mm=3.0, kernel="LUNG 60",
        noise_hu=24, syntax="jpegls", manufacturer="Phantom South", model="S Flash",
    ),
    Case(
        name="chest-coronal", patient=_BEN, study="chest", study_date="20210318",
        series_number=4, description="CHEST COR 4.0", reach=("lung_apex", "L1"),
        beyond_mm=(14, 0), field_mm=(386, 300), spacing_mm=(4.0, 2.7, 2.4), thickness_mm=4.0,
        plane="coronal", kernel="LUNG 60", noise_hu=18, manufacturer="Phantom South",
        model="S Flash", syntax="explicit",
    ),
    Case(
        name="abdomen", patient=_CY, study="abdomen", study_date="20190521", series_number=5,
        description="ABDOMEN PV 5.0", reach=("liver_dome", "L5"), beyond_mm=(16, 0),
        field_mm=(388, 296), spacing_mm=(5.0, 2.4, 2.2), thickness_mm=5.0, enhancement_hu=110,
        kernel="SOFT 30", syntax="implicit", manufacturer="Phantom East", model="E 320", kvp=100,
    ),
    Case(
        name="abdomen-follow-up", patient=_CY, study="abdomen-follow-up", study_date="20200609",
        series_number=2, description="ABDOMEN PV 4.0", reach=("liver_dome", "promontory"),
        beyond_mm=(20, 8), field_mm=(380, 290), center_mm=(-4, 2), spacing_mm=(4.0, 2.6, 2.5),
        thickness_mm=5.0, enhancement_hu=125, kernel="SOFT 30", syntax="ljpeg", turn_deg=6.0,
        manufacturer="Phantom East", model="E 320", kvp=100, seg="",
    ),
    Case(
        name="abdomen-pelvis", patient=_DORA, study="abdomen-pelvis", study_date="20211002",
        series_number=4, description="ABDOMEN PELVIS 1.5", reach=("T10", "perineum"),
        field_mm=(372, 280), spacing_mm=(1.5, 2.8, 2.6), thickness_mm=1.5, enhancement_hu=130,
        stored="signed", syntax="explicit", manufacturer="Phantom North", model="N-128",
    ),
    Case(
        name="pelvis", patient=_EMIL, study="pelvis", study_date="20200115", series_number=7,
        description="PELVIS 4.0", reach=("L4", "mid_thigh"), field_mm=(396, 270),
        spacing_mm=(4.0, 2.3, 2.1), thickness_mm=5.0, position="prone", syntax="deflated",
        kernel="BONE 70", noise_hu=28, manufacturer="Phantom South", model="S Flash",
        numbered="shuffled", seg="BINARY",
    ),
    Case(
        name="thorax-abdomen", patient=_FINN, study="trauma", study_date="20220912",
        series_number=6, description="TRAUMA 2.5", reach=("C7", "sacrum_tip"),
        field_mm=(384, 290), spacing_mm=(2.5, 2.7, 2.9), thickness_mm=2.5, enhancement_hu=180,
        stored="signed", syntax="explicit", manufacturer="Phantom North", model="N-128",
    ),
    Case(
        name="head-tilted", patient=_GUDRUN, study="head-tilted", study_date="20180228",
        series_number=2, description="HEAD SEQ 4.0", reach=("vertex", "C2"), field_mm=(236, 270),
        center_mm=(1, -6), spacing_mm=(4.0, 1.7, 1.5), thickness_mm=4.0, tilt_deg=-16.0,
        arms="down", kernel="SOFT 31", syntax="rle", noise_hu=6,
        manufacturer="Phantom South", model="S 16",
    ),
    Case(
        name="enhanced-abdomen", patient=_HEIDI, study="enhanced", study_date="20230416",
        series_number=9, description="ABDOMEN 3.5 MULTIFRAME", reach=("T11", "L5"),
        field_mm=(366, 284), spacing_mm=(3.5, 2.6, 2.3), thickness_mm=3.5, enhancement_hu=60,
        form="enhanced", syntax="j2k", manufacturer="Phantom East", model="E 640",
    ),
    Case(
        name="lumbar-spine", patient=_HEIDI, study="enhanced", study_date="20230416",
        series_number=10, description="LUMBAR SPINE 1.4", reach=("T11", "sacrum_tip"),
        field_mm=(180, 160), center_mm=(-3, 36), spacing_mm=(1.4, 1.7, 1.5), thickness_mm=1.4,
        kernel="BONE 70", noise_hu=34, syntax="explicit", manufacturer="Phantom East",
        model="E 640",
    ),
    Case(
        name="localizer", patient=_BEN, study="chest", study_date="20210318", series_number=1,
        description="SCOUT", reach=("C4", "promontory"), field_mm=(440, 320),
        spacing_mm=(8.0, 2.2, 2.0), thickness_mm=320, plane="coronal", form="localizer",
        reason="localizer", manufacturer="Phantom South", model="S Flash",
    ),
    Case(
        name="chest-mip", patient=_BEN, study="chest", study_date="20210318", series_number=5,
        description="CHEST MIP 10/5", reach=("lung_apex", "T10"), field_mm=(380, 300),
        spacing_mm=(5.0, 3.4, 3.1), thickness_mm=10.0, form="projection", reason="projection",
        manufacturer="Phantom South", model="S Flash",
    ),
    Case(
        name="mono-40kev", patient=_FINN, study="trauma", study_date="20220912", series_number=20,
        description="MonoE 40keV", reach=("liver_dome", "L3"), field_mm=(384, 290),
        spacing_mm=(6.0, 3.2, 3.0), thickness_mm=6.0, enhancement_hu=420, form="monoenergetic",
        reason="spectral", manufacturer="Phantom North", model="N-128",
    ),
    Case(
        name="iodine-map", patient=_FINN, study="trauma", study_date="20220912", series_number=21,
        description="Iodine Density", reach=("liver_dome", "L3"), field_mm=(384, 290),
        spacing_mm=(6.0, 3.3, 3.1), thickness_mm=6.0, enhancement_hu=180, form="iodine",
        reason="spectral", manufacturer="Phantom North", model="N-128",
    ),
    Case(
        name="monitoring", patient=_FINN, study="trauma", study_date="20220912", series_number=3,
        description="PREMONITORING", reach=("T8", "T8"), field_mm=(384, 290),
        spacing_mm=(10.0, 2.7, 2.5), thickness_mm=10.0, form="single_slice",
        reason="single_slice", manufacturer="Phantom North", model="N-128",
    ),
    Case(
        name="few-slices", patient=_EMIL, study="pelvis", study_date="20200115", series_number=8,
        description="HIP 5.0", reach=("symphysis", "perineum"), field_mm=(396, 270),
        spacing_mm=(5.0, 3.1, 2.8), thickness_mm=5.0, form="few_slices",
        reason="too_few_slices", manufacturer="Phantom South", model="S Flash",
    ),
    Case(
        name="missing-slice", patient=_ADA, study="neck", study_date="20220105", series_number=2,
        description="NECK 3.0", reach=("C2", "T2"), field_mm=(330, 260),
        spacing_mm=(3.0, 2.9, 2.7), thickness_mm=3.0, arms="down", form="gap",
        reason="missing_slice",
    ),
    Case(
        name="heart-4d", patient=_GUDRUN, study="heart", study_date="20190911", series_number=4,
        description="HEART 10 PHASES", reach=("T6", "T10"), field_mm=(300, 240),
        center_mm=(12, -10), spacing_mm=(7.0, 3.0, 2.6), thickness_mm=7.0, enhancement_hu=260,
        form="time_points", reason="4d", manufacturer="Phantom South", model="S Flash",
    ),
    Case(
        name="screenshot", patient=_CY, study="abdomen", study_date="20190521", series_number=99,
        description="SCREEN", reach=("liver_dome", "L5"), field_mm=(388, 296),
        spacing_mm=(8.0, 3.0, 2.7), thickness_mm=8.0, plane="coronal", form="capture",
        reason="secondary_capture", manufacturer="Phantom East", model="E 320",
    ),
)  # fmt: skip
