from __future__ import annotations

import ast
import re
from dataclasses import asdict, replace
from math import cos, inf, nan, radians, sin
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tomodex
from tomodex.errors import Misconfigured
from tomodex.geometry import Tolerances
from tomodex.instance import Frame, Instance
from tomodex.selection import REASONS, load_rules, select
from tomodex.series import Listing, Series

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED = "1.2.840.10008.5.1.4.1.1.2.1"
CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
REPORT = "1.2.840.10008.5.1.4.1.1.88.22"

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
CORONAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
RULES = load_rules()
TOLERANCES = asdict(Tolerances())


def image(k: float = 0, *, frame: dict | None = None, **changes) -> Instance:
    """Slice `k` of an axial CT with 2.5 mm between slices; `frame` and `changes` replace fields."""
    place = {
        "position_mm": (-100.0, -120.0, 2.5 * k),
        "orientation": AXIAL,
        "pixel_spacing_mm": (0.7, 0.7),
        "rescale_slope": 1.0,
        "rescale_intercept": -1024.0,
        "rescale_type": "HU",
    }
    header = {
        "path": f"{k}.dcm",
        "series_uid": "1.2.3",
        "study_uid": "1.2",
        "sop_uid": f"1.2.3.{k}",
        "sop_class": CT,
        "modality": "CT",
        "transfer_syntax": "1.2.840.10008.1.2.1",
        "rows": 64,
        "columns": 48,
        "photometric": "MONOCHROME2",
        "bits_allocated": 16,
        "bits_stored": 12,
        "has_pixels": True,
        "image_type": ("ORIGINAL", "PRIMARY", "AXIAL"),
        "frames": (Frame(**{**place, **(frame or {})}),),
    }
    return Instance(**{**header, **changes})


def stack(count: int = 12, **changes) -> tuple[Instance, ...]:
    """So many slices of one series."""
    return tuple(image(k, **changes) for k in range(count))


def of(instances: tuple[Instance, ...], **changes) -> Listing:
    """A source's listing of these instances; `changes` replace fields of the series."""
    series = {"series_uid": "1.2.3", "study_uid": "1.2", "patient": "p", "modality": "CT"}
    return Listing(series=Series(**{**series, **changes}), instances=instances)


def tilted(degrees: float, count: int = 12) -> tuple[Instance, ...]:
    """Axial slices of a tilted gantry: each is shifted against the one below."""
    turn = radians(degrees)
    orientation = (1.0, 0.0, 0.0, 0.0, cos(turn), -sin(turn))
    positions = [(-100.0, -120.0, 2.5 * k) for k in range(count)]
    return tuple(
        image(k, frame={"position_mm": p, "orientation": orientation})
        for k, p in enumerate(positions)
    )


def turned(*euler_deg: float, count: int = 12) -> tuple[Instance, ...]:
    """Slices turned about the x and then the y axis, stacked along their own normal."""
    axes = np.eye(3)
    for degrees, (one, other) in zip(euler_deg, ((1, 2), (2, 0)), strict=False):
        turn, angle = np.eye(3), radians(degrees)
        turn[[one, other], [one, other]] = cos(angle)
        turn[other, one], turn[one, other] = sin(angle), -sin(angle)
        axes = turn @ axes
    orientation = (*map(float, axes[:, 0]), *map(float, axes[:, 1]))
    positions = [tuple(map(float, 2.5 * k * axes[:, 2])) for k in range(count)]
    return tuple(
        image(k, frame={"position_mm": p, "orientation": orientation})
        for k, p in enumerate(positions)
    )


def phases(count: int = 12, times: int = 2) -> tuple[Instance, ...]:
    """The same stack at several time points."""
    return tuple(
        image(k, sop_uid=f"1.2.3.{t}.{k}", frame={"time_point": str(t)})
        for t in range(times)
        for k in range(count)
    )


def test_an_axial_ct_in_hu_is_wanted_whole():
    selection = select(of(stack(12)), RULES)
    assert (selection.wanted, selection.reason, selection.sentence) == (True, "", "")
    assert len(selection.instances) == 12
    assert selection.geometry is not None
    assert selection.geometry.shape == (12, 64, 48)
    assert selection.left_out == {}


REJECTED = {
    "segmentation": stack(1, sop_class=SEG, modality="SEG"),
    "sop_class": stack(1, sop_class=REPORT, modality="SR"),
    "not_ct": stack(modality="MR"),
    "secondary_capture": stack(sop_class=CAPTURE),
    "localizer": stack(2, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")),
    "derived": stack(image_type=("DERIVED", "PRIMARY", "PERFUSION", "RCBF")),
    "spectral": stack(image_type=("DERIVED", "PRIMARY", "AXIAL", "EFF_ATOMIC_NUM")),
    "projection": stack(image_type=("DERIVED", "SECONDARY", "REFORMATTED", "MIP")),
    "no_pixels": stack(has_pixels=False),
    "not_hu": stack(frame={"rescale_type": "OD"}),
    "no_rescale": stack(frame={"rescale_slope": None, "rescale_intercept": None}),
    "no_geometry": stack(frame={"position_mm": None}),
    "mixed_orientation": (*stack(6), *(image(k, frame={"orientation": CORONAL}) for k in (7, 8))),
    "mixed_size": (*stack(11), image(11, rows=128)),
    "repeated_position": (*stack(11), image(3, sop_uid="1.2.3.99"), image(3, sop_uid="1.2.3.98")),
    "4d": phases(),
    "missing_slice": (*stack(11), image(14)),
    "uneven_spacing": tuple(image(k**1.5) for k in range(12)),
    "single_slice": stack(1),
    "too_few_slices": stack(9),
    "oblique": turned(45, 40),
    "tilt": tilted(35),
}


@pytest.mark.parametrize("reason", REJECTED)
def test_a_series_is_rejected_for(reason):
    selection = select(of(REJECTED[reason]), RULES)
    assert (selection.wanted, selection.reason) == (False, reason)
    assert selection.sentence
    assert selection.instances == ()
    assert selection.geometry is None
    assert [c.verdict for c in selection.checks].count("rejected") == 1


def test_rules_that_are_off_reject_once_they_are_on(tmp_path):
    coronal = tuple(
        image(k, frame={"orientation": CORONAL, "position_mm": (0.0, 2.5 * k, 0.0)})
        for k in range(12)
    )
    reformatted = stack(image_type=("DERIVED", "SECONDARY", "MPR"))
    local = stack(description="Study 4711, do not index")
    rules = overlaid(
        tmp_path,
        """
        rule.plane.on = true
        rule.reformatted.on = true
        rule.local.pattern.study_4711 = { field = "description", regex = '\\bstudy 4711\\b' }
        rule.max_voxels.max_voxels = 40_000
        """,
    )
    expected = {"not_axial": coronal, "reformatted": reformatted, "local": local}
    for reason, instances in {**expected, "too_large": stack(14)}.items():
        assert select(of(instances), rules).reason == reason
    for instances in expected.values():
        assert select(of(instances), RULES).wanted


def test_every_reason_is_given_by_a_rule_or_raised_where_the_series_is_read():
    source = Path(tomodex.__file__).parent
    # What cannot take a result, or an order of masks, does not reject its series.
    others = {"sinks", "formats", "stores", "indexes", "kafka_door.py", "masks.py", "segmenting.py"}
    files = [f for f in source.rglob("*.py") if not others & set(f.parts)]
    raised = {code for file in files for code in reasons_raised(file)}
    assert raised - {"unknown"} <= set(REASONS)
    given = {*REJECTED, "not_axial", "reformatted", "local", "too_large"}
    assert set(REASONS) - given - raised == {"duplicate"}


def reasons_raised(file: Path) -> set[str]:
    """Codes that a module puts into `Unsuitable(...)` as they are."""
    calls = [n for n in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(n, ast.Call)]
    named = [c for c in calls if getattr(c.func, "id", "") == "Unsuitable" and c.args]
    return {c.args[0].value for c in named if isinstance(c.args[0], ast.Constant)}


def test_instances_that_are_no_part_of_the_volume_are_left_out_and_counted():
    strangers = (
        image(90, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"), frame={"orientation": CORONAL}),
        image(91, sop_class=CAPTURE, frames=()),
        image(92, sop_class=CAPTURE, frames=()),
        image(93, sop_class=REPORT, modality="SR", has_pixels=False, frames=()),
        image(94, frame={"position_mm": None}),
    )
    selection = select(of((*strangers, *stack(12))), RULES)
    assert selection.wanted
    assert selection.instances == stack(12)
    assert selection.left_out == {
        "localizer": 1,
        "secondary_capture": 2,
        "sop_class": 1,
        "no_geometry": 1,
    }
    assert "left out" in {c.verdict for c in selection.checks}


def test_an_instance_that_is_there_twice_is_used_once():
    twice = (replace(image(5), path="copy.dcm"), *stack(12))
    selection = select(of(twice), RULES)
    assert selection.left_out == {"duplicate": 1}
    assert len(selection.instances) == 12
    assert sorted(i for i, _ in selection.geometry.slices) == list(range(12))


def test_the_geometry_counts_the_instances_that_are_returned():
    shuffled = (image(90, sop_class=CAPTURE), *reversed(stack(12)))
    selection = select(of(shuffled), RULES)
    heights = [
        selection.instances[i].frames[f].position_mm[2] for i, f in selection.geometry.slices
    ]
    assert heights == [2.5 * k for k in range(12)]


def test_the_most_frequent_reason_is_that_of_the_series():
    mixed = (
        *stack(2, sop_class=CAPTURE),
        *stack(3, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")),
    )
    selection = select(of(mixed), RULES)
    assert selection.reason == "localizer"
    assert selection.left_out == {"secondary_capture": 2, "localizer": 3}
    assert selection.sentence == "a localizer (image_type)"


def test_the_most_frequent_finding_stands_for_all():
    lost = (image(0, frame={"orientation": None}), *stack(3, frame={"position_mm": None}))
    sentence = select(of(lost), RULES).sentence
    assert sentence == "the header does not say where it lies in the patient: no position"


def test_facts_count_before_labels():
    coronal = {"orientation": CORONAL}
    lies = tuple(
        image(k, frame={**coronal, "position_mm": (0.0, 2.5 * k, 0.0)}, image_type=("AXIAL",))
        for k in range(12)
    )
    assert select(of(lies), RULES).geometry.plane == "coronal"
    assert select(of(stack(image_type=())), RULES).wanted
    assert select(of(stack(image_type=("DERIVED", "SECONDARY", "AXIAL"))), RULES).wanted
    assert select(of(stack(sop_class=CAPTURE)), RULES).reason == "secondary_capture"


def test_an_enhanced_ct_is_judged_by_its_frames():
    frames = tuple(replace(f, image_type=()) for i in stack(12) for f in i.frames)
    one = image(0, sop_class=ENHANCED, number_of_frames=12, frames=frames)
    assert select(of((one,)), RULES).geometry.shape == (12, 64, 48)
    a_map = (*frames[:-1], replace(frames[-1], image_type=("DERIVED", "PRIMARY", "AXIAL", "RCBV")))
    assert select(of((replace(one, frames=a_map),)), RULES).reason == "derived"


@pytest.mark.parametrize(
    ("instances", "reason"),
    [
        (stack(frame={"rescale_type": ""}), ""),
        (stack(frame={"rescale_type": "HU_MOD"}), ""),
        (stack(frame={"rescale_type": "US"}), ""),
        (stack(frame={"rescale_type": "US", "rescale_slope": 0.1}), ""),
        (stack(frame={"rescale_type": "hu"}), ""),
        (stack(frame={"rescale_type": "Hounsfield Units"}), ""),
        (stack(frame={"rescale_type": "Houndsfield Unit"}), ""),
        (stack(frame={"rescale_type": "normalized"}), "not_hu"),
        (stack(frame={"rescale_type": "US"}, bits_stored=65535), ""),
        (stack(frame={"rescale_type": "MGML"}), "spectral"),
        (stack(bits_stored=8, bits_allocated=8), "not_hu"),
        (stack(bits_stored=0), ""),
        (stack(private={"VolumeBasedCalculationTechnique": "MIN_IP"}), "projection"),
        (stack(private={"VolumeBasedCalculationTechnique": "NONE"}), ""),
        (stack(private={"VolumetricProperties": "DISTORTED"}), "projection"),
        (stack(private={"MultienergyCTAcquisition": "YES"}), ""),
        (stack(samples_per_pixel=3), "derived"),
        (stack(photometric="PALETTE COLOR"), "derived"),
        (stack(photometric="MONOCHROME1"), ""),
        (stack(frame={"rescale_slope": 0.0}), "no_rescale"),
        (stack(frame={"rescale_slope": nan}), "no_rescale"),
        (stack(frame={"rescale_intercept": inf}), "no_rescale"),
        (stack(frame={"rescale_intercept": None}, pixel_representation=1), ""),
        (stack(rows=0), "no_pixels"),
        (stack(frames=()), "no_geometry"),
        (stack(number_of_frames=2), "no_geometry"),
        (stack(frame={"orientation": None}), "no_geometry"),
        (stack(frame={"pixel_spacing_mm": None}), "no_geometry"),
        (stack(sop_class=""), ""),
        (stack(sop_class="1.3.12.2.1107.5.9.1"), "sop_class"),
        (stack(modality=""), "not_ct"),
        (tilted(18), ""),
        (turned(26), ""),
    ],
)
def test_pixels_and_places_are_judged_by_what_they_are(instances, reason):
    assert select(of(instances), RULES).reason == reason


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        ("MonoE 70keV[HU]", "spectral"),
        ("Thorax 40 keV", "spectral"),
        ("Monoenergetic Plus 55", "spectral"),
        ("Abdomen_VNC_1.5", "spectral"),
        ("Virtual Non-Contrast", "spectral"),
        ("Bone VNCa 1.0", "spectral"),
        ("VUE-Liver", "spectral"),
        ("Abdomen Mono 70", "spectral"),
        ("Perfusion Map", "derived"),
        ("Mono 5.0", ""),
        ("Iodine no Water [mg/ml]", "spectral"),
        ("Iodine(Water)", "spectral"),
        ("MD: HAP(Water)", "spectral"),
        ("Z Effective", "spectral"),
        ("Z-Eff 1 mm", "spectral"),
        ("Rho/Z", "spectral"),
        ("Electron Density[%EDW]", "spectral"),
        ("CaSupp-I 25", "spectral"),
        ("Lung PBV", "spectral"),
        ("CBF map", "derived"),
        ("Tmax (s)", "derived"),
        ("Thorax nativ 1.0 Br40", ""),
        ("Abdomen mit KM oral iodine", ""),
        ("CT Abdomen 120 kV", ""),
        ("Monoblock", ""),
        ("Thorax/Abdomen Water bolus", ""),
        ("Skip 3D", ""),
        ("HWS cor MPR 2.0", ""),
    ],
)
def test_labels_of_vendors_are_understood(description, reason):
    assert select(of(stack(description=description)), RULES).reason == reason


@pytest.mark.parametrize("description", ["Axial MIP 8/2", "VRT range", "CTA 0.6 for MIP"])
def test_slices_that_are_named_after_a_projection_are_one_only_if_derived(description):
    named = stack(description=description)
    assert select(of(named), RULES).wanted
    for kind in (("DERIVED", "PRIMARY", "AXIAL"), ("ORIGINAL", "SECONDARY", "AXIAL")):
        derived = tuple(replace(i, image_type=kind) for i in named)
        assert select(of(derived), RULES).reason == "projection"


def test_an_original_3d_image_is_no_rendering():
    assert select(of(stack(image_type=("ORIGINAL", "PRIMARY", "3D"))), RULES).wanted


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("VMI", "spectral"),
        ("MAT_REMOVED", "spectral"),
        ("CT_SOM5 TOP", "localizer"),
        ("TOPOGRAM", "localizer"),
        ("CT_SOM7 MIP", "projection"),
        ("PROJECTION IMAGE", "projection"),
        ("AVERAGE", "projection"),
        ("VOLREN", "projection"),
        ("3D", "projection"),
        ("SUBTRACTION", "derived"),
        ("SCREEN SAVE", "secondary_capture"),
        ("CT_SOM5 PROT", "secondary_capture"),
        ("CT_SOM5 SPI", ""),
        ("CT_SOM5 SPI DUAL", ""),
        ("ADD", ""),
        ("MARCONI ", ""),
        ("HELIX", ""),
        ("PERFUSION", ""),
        ("RESAMPLED", ""),
    ],
)
def test_image_types_are_understood(value, reason):
    kind = ("DERIVED", "SECONDARY", "AXIAL", value)
    assert select(of(stack(image_type=kind)), RULES).reason == reason


def test_every_rule_says_what_it_found_in_its_order():
    for instances in (stack(12), *REJECTED.values(), ()):
        checks = select(of(instances), RULES).checks
        assert [c.rule for c in checks] == list(RULES.by_name)
        assert {c.rule for c in checks if c.verdict == "off"} == {"reformatted", "plane"}
        assert all(bool(c.sentence) == (c.verdict in ("rejected", "left out")) for c in checks)


def test_every_rule_and_tolerance_is_documented_with_its_default():
    page = (Path(__file__).parents[1] / "docs/reference/selection.md").read_text("utf-8")
    listed = [line.split("`")[1] for line in page.split("\n") if line.startswith("| `")]
    assert [name for name in listed if name in RULES.by_name][-len(RULES.by_name) :] == list(
        RULES.by_name
    )
    assert [name for name in TOLERANCES if f"`{name}`" not in page] == []
    assert [str(v) for v in TOLERANCES.values() if str(v) not in page] == []


def examples() -> list[str]:
    """The rules files that the guide shows."""
    page = (Path(__file__).parents[1] / "docs/how-to/change-the-rules.md").read_text("utf-8")
    blocks = re.findall(r"(?:^(?: {4}.*)?\n)+", page, re.MULTILINE)
    return [block for block in blocks if "[rule." in block]


@pytest.mark.parametrize("example", examples())
def test_the_examples_of_the_guide_are_rules(example, tmp_path):
    assert overlaid(tmp_path, example).digest != RULES.digest


def test_the_example_of_the_guide_for_mono_energetic_images_keeps_70_kev(tmp_path):
    rules = overlaid(tmp_path, next(e for e in examples() if "keV" in e))
    reasons = [
        select(of(stack(description=d)), rules).reason
        for d in ("MonoE 70 keV", "MonoE 40keV", "Mono 190 keV", "VNC")
    ]
    assert reasons == ["", "spectral", "spectral", "spectral"]


@given(text=st.text(min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_nothing_that_a_person_typed_is_repeated(text):
    name = f"Doe^J\N{LATIN SMALL LETTER O WITH DIAERESIS}rg {text}"
    changes = {"description": f"VNC {name}", "photometric": name, "image_type": (name, "MIP")}
    for field in ("modality", "sop_class", "description", "photometric", "image_type"):
        selection = select(of(stack(2, **{**changes, field: changes.get(field, name)})), RULES)
        told = [selection.sentence, *(c.found + c.sentence for c in selection.checks)]
        assert not [
            t for t in told if "Doe" in t or "J\N{LATIN SMALL LETTER O WITH DIAERESIS}" in t
        ]
    selection = select(of(stack(2, frame={"rescale_type": name})), RULES)
    assert "Doe" not in selection.sentence


NUMBERS = st.floats() | st.sampled_from([0.0, 1e308, -1e308])
HOSTILE = st.builds(
    image,
    st.floats(-5, 5),
    frame=st.fixed_dictionaries(
        {},
        optional={
            "position_mm": st.none() | st.tuples(NUMBERS, NUMBERS, NUMBERS),
            "orientation": st.none() | st.lists(NUMBERS, max_size=9).map(tuple),
            "pixel_spacing_mm": st.none() | st.tuples(NUMBERS, NUMBERS),
            "rescale_slope": st.none() | NUMBERS,
            "rescale_intercept": st.none() | NUMBERS,
            "rescale_type": st.sampled_from(["", "HU", "US", "US" * 5000]),
        },
    ),
    rows=st.integers(-1, 70000),
    columns=st.integers(-1, 2),
    modality=st.sampled_from(["CT", "CT", "CT", "MR", ""]),
    sop_class=st.sampled_from([CT, CT, CT, ENHANCED, CAPTURE, REPORT, ""]),
    has_pixels=st.sampled_from([True, True, True, False]),
    samples_per_pixel=st.sampled_from([1, 1, 1, 3]),
    photometric=st.sampled_from(["MONOCHROME2", "", "RGB"]),
    number_of_frames=st.sampled_from([1, 1, 1, 2]),
    private=st.sampled_from([{}, {"VolumetricProperties": "DISTORTED"}]),
    bits_stored=st.integers(-70000, 70000),
    pixel_representation=st.integers(-1, 9),
    image_type=st.lists(st.text(max_size=30) | st.just("MIP"), max_size=3).map(tuple),
    description=st.text(max_size=600) | st.just("VNC"),
)


@given(instances=st.lists(HOSTILE, min_size=1, max_size=12))
@settings(max_examples=150, deadline=None)
def test_no_header_is_bad_enough_to_crash_it(instances):
    selection = select(of(tuple(instances)), RULES)
    assert selection.wanted == (selection.geometry is not None)
    assert selection.wanted or selection.reason in REASONS


@given(instances=st.lists(HOSTILE, min_size=2, max_size=12))
@settings(max_examples=150, deadline=None)
def test_what_is_left_out_of_a_series_is_what_each_header_alone_is_left_out_for(instances):
    reasons = [first_finding(instance) for instance in instances]
    left_out = dict(select(of(tuple(instances)), RULES).left_out)
    assert left_out.pop("duplicate", 0) <= reasons.count(None)
    assert left_out == {r: reasons.count(r) for r in set(reasons) - {None}}


def first_finding(instance: Instance) -> str | None:
    """Reason of the first rule that finds something in one header."""
    rules = RULES.of_instances.values()
    return next((r.reason for r in rules if r.on and r.find(instance) is not None), None)


class TestListedWithoutHeaders:
    def test_a_ct_is_wanted_until_its_headers_are_there(self):
        selection = select(of(()), RULES)
        assert (selection.wanted, selection.geometry) == (True, None)
        assert selection.reason == "no_instances"
        assert "only what the archive lists" in selection.sentence

    @pytest.mark.parametrize(
        ("listed", "reason"),
        [
            ({"modality": "MR"}, "not_ct"),
            ({"modality": "SEG"}, "segmentation"),
            ({"sop_classes": (CAPTURE,)}, "secondary_capture"),
            ({"attributes": {"SeriesDescription": "MonoE 40 keV"}}, "spectral"),
            ({"instance_count": 0}, "no_instances"),
            ({"instance_count": 3, "sop_classes": (CT,)}, "too_few_slices"),
        ],
    )
    def test_what_the_archive_lists_is_enough_to_reject(self, listed, reason):
        selection = select(of((), **listed), RULES)
        assert (selection.wanted, selection.reason) == (False, reason)
        assert selection.sentence

    @pytest.mark.parametrize(
        "listed",
        [
            {"instance_count": 1},
            {"instance_count": 1, "sop_classes": (ENHANCED,)},
            {"instance_count": 10, "sop_classes": (CT,)},
            {"sop_classes": (CT, CAPTURE)},
        ],
    )
    def test_what_may_still_be_a_volume_is_not_rejected(self, listed):
        assert select(of((), **listed), RULES).wanted

    def test_a_site_may_say_that_unlisted_classes_hold_one_slice_each(self, tmp_path):
        rules = overlaid(tmp_path, f'rule.min_slices.single_frame = ["{CT}", ""]')
        assert select(of((), instance_count=2), rules).reason == "too_few_slices"


def overlaid(folder: Path, text: str):
    """The packaged rules under a site's own."""
    path = folder / "rules.toml"
    path.write_text("\n".join(line.strip() for line in text.splitlines()), "utf-8")
    return load_rules(path)


def test_few_slices_are_enough_where_a_segmentation_is_stored():
    """A model needs context; a segmentation that is there already needs a volume."""
    assert select(of(stack(3)), RULES).reason == "too_few_slices"
    assert select(of(stack(3), segmentations=1), RULES).wanted
    assert select(of(stack(1), segmentations=1), RULES).reason == "single_slice"


class TestRulesOfASite:
    def test_a_value_is_replaced_and_the_rest_stays(self, tmp_path):
        rules = overlaid(tmp_path, "rule.min_slices.min_slices = 5")
        assert select(of(stack(5)), rules).wanted
        assert list(rules.by_name) == list(RULES.by_name)
        assert select(of(stack(4)), rules).sentence == "4 slices, fewer than 5"

    def test_an_unspecified_unit_can_be_held_to_the_range_of_hu(self, tmp_path):
        """As exporters write it for plain CT too, the packaged rule takes it as HU."""
        rules = overlaid(tmp_path, 'rule.units = { hu = ["HU", ""], unspecified = ["US"] }')
        unspecified = stack(frame={"rescale_type": "US", "rescale_slope": 0.1})
        assert select(of(unspecified), rules).reason == "not_hu"
        assert select(of(unspecified), RULES).wanted

    def test_a_rule_is_switched_off(self, tmp_path):
        rules = overlaid(tmp_path, "rule.spectral_monoenergetic.on = false")
        assert select(of(stack(description="MonoE 70 keV")), rules).wanted
        assert not select(of(stack(description="VNC")), rules).wanted

    def test_a_pattern_is_switched_off_added_or_changed(self, tmp_path):
        rules = overlaid(
            tmp_path,
            """
            rule.projection.pattern.average.on = false
            rule.derived.pattern.own = { field = "private", tag = "ConversionType", regex = "W" }
            rule.localizer.pattern.image_type.regex = "^SCOUT$"
            """,
        )
        assert select(of(stack(image_type=("AVERAGE",))), rules).wanted
        assert select(of(stack(private={"ConversionType": "WSD"})), rules).reason == "derived"
        assert select(of(stack(image_type=("LOCALIZER",))), rules).wanted
        assert select(of(stack(image_type=("SCOUT",))), rules).reason == "localizer"

    def test_signed_values_without_a_rescale_can_be_doubted(self, tmp_path):
        rules = overlaid(tmp_path, "rule.rescale.signed_is_hu = false")
        signed = stack(pixel_representation=1, frame={"rescale_slope": None})
        assert select(of(signed), RULES).wanted
        assert select(of(signed), rules).reason == "no_rescale"

    def test_the_tolerances_of_the_geometry_are_set(self, tmp_path):
        name, value = next(iter(TOLERANCES.items()))
        rules = overlaid(tmp_path, f"rule.geometry.tolerances.{name} = {value * 2}")
        assert getattr(rules.geometry[1].limits(), name) == value * 2

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("rule.localiser.on = false", "no rule 'localiser'; did you mean 'localizer'?"),
            ("rule.xyz.on = false", "no rule 'xyz'; known: colour, derived"),
            ("rules.localizer.on = false", "'rules' is not known; rules are [rule.NAME]"),
            ("rule.localizer = false", "a rule is a table"),
            ("rule = 1", "a rule is a table"),
            (
                "rule.min_slices.min_slice = 3",
                "rule.min_slices.min_slice is not known; did you mean 'min_slices'?",
            ),
            (
                'rule.local.pattern.x = { field = "image_type", regexp = "A" }',
                "did you mean 'regex'?",
            ),
            ('rule.local.pattern.x = { field = "image_type", regex = "(" }', "regular expression"),
            (
                'rule.local.pattern.x = { field = "name", regex = "A" }',
                "rule.local.pattern.x.field",
            ),
            ('rule.local.pattern.x = { field = "private", regex = "A" }', "tag"),
            (
                'rule.local.pattern.x = { field = "private", tag = "Conversion", regex = "A" }',
                "no tag 'Conversion' is read; did you mean 'ConversionType'?",
            ),
            ("rule.local.pattern.x = 3", "rule.local.pattern.x"),
            ("rule.local.pattern = 3", "rule.local.pattern"),
            ('rule.min_slices.min_slices = "many"', "rule.min_slices.min_slices: "),
            ("rule.min_slices.min_slices = 1", "greater than or equal to 2"),
            ("rule.geometry.on = false", "rule.geometry.on"),
            ("rule.geometry.tolerances.wide = 1.0", "wide is no tolerance"),
            ('rule.tilt.reason = "tilted"', "unknown reason; did you mean 'tilt'?"),
            ('rule.tilt.sentence = "{degrees}"', "asks for 'degrees'"),
            ('rule.tilt.kind = "lable"', "rule.tilt"),
            ("rule.tilt.on = maybe", "cannot read the selection rules"),
        ],
    )
    def test_a_mistake_is_told_with_what_was_probably_meant(self, tmp_path, text, told):
        with pytest.raises(Misconfigured) as raised:
            overlaid(tmp_path, text)
        assert told in str(raised.value)

    def test_a_file_that_is_not_there_is_told(self, tmp_path):
        with pytest.raises(Misconfigured, match="cannot read the selection rules"):
            load_rules(tmp_path / "none.toml")

    def test_the_digest_changes_with_a_rule_and_only_then(self, tmp_path):
        assert overlaid(tmp_path, "# nothing").digest == RULES.digest
        assert overlaid(tmp_path, "rule.min_slices.min_slices = 5").digest != RULES.digest
