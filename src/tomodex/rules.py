"""The rules that choose series: data that a site can read, switch and change.

`selection.toml` beside this file holds them; a site overlays it with a file of its own.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cached_property, lru_cache
from hashlib import sha256
from importlib.resources import files
from math import isfinite, prod
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tomodex.errors import Misconfigured
from tomodex.geometry import Geometry, Plane, Tolerances
from tomodex.instance import HINTS, Frame, Instance
from tomodex.series import Series

#: Why a series, or an instance of one, is left out: stable code -> what it means. Codes are stored
#: and counted, so one that is here is never renamed.
REASONS: Mapping[str, str] = {
    "segmentation": "an existing segmentation, used for the series it refers to",
    "sop_class": "not a CT image object: a report, a plan, a presentation state, a document ...",
    "not_ct": "another modality",
    "secondary_capture": "a capture of a screen, a dose sheet or a rendering",
    "localizer": "a localizer: scout, topogram, surview",
    "derived": "computed from other images and no HU: perfusion map, subtraction, colours",
    "spectral": "a spectral result: material map, virtual non-contrast, mono-energetic",
    "projection": "a projection, rendering or average through a volume",
    "reformatted": "reformatted from another series",
    "local": "left out by a rule of the site's own",
    "no_pixels": "no pixel data",
    "not_hu": "pixel values that are not Hounsfield units",
    "no_rescale": "no way to turn pixel values into Hounsfield units",
    "no_geometry": "no position, orientation or spacing, or an absurd one",
    "mixed_orientation": "slices that are not parallel",
    "mixed_size": "slices that differ in rows, columns or pixel spacing",
    "repeated_position": "several different images at one place",
    "4d": "several complete volumes over time or over the heart's phases",
    "other_series": "images that belong to another series than the one that was asked for",
    "missing_slice": "a gap where one or more slices should be",
    "uneven_spacing": "slice gaps too uneven to be resampled honestly",
    "single_slice": "one slice",
    "too_few_slices": "fewer slices than make a volume",
    "too_large": "more voxels than a volume may have",
    "not_axial": "slices in a plane that the site does not want",
    "oblique": "slices far from every plane of the body",
    "tilt": "slices shifted more than a gantry can tilt",
    "duplicate": "an instance that is there twice; the other one is used",
    "truncated": "pixel data that ends too early",
    "unreadable": "a header or pixel data that cannot be read",
    "not_a_phantom": "no phantom, and only the phantom model is there to segment it",
    "archive": "an archive file that is damaged, encrypted or larger than is safe",
    "no_instances": "no instance, or none whose header could be read",
}

#: What a hostile header may make us search through, in characters.
_LONGEST = 256


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Pattern(_Strict):
    """A label as some scanner or workstation writes it."""

    field: Literal["image_type", "description", "rescale_type", "modality", "sop_class", "private"]
    regex: str
    tag: str = ""  #: with field "private": one of `HINTS`
    image_type: str = ""  #: a regular expression that a value of Image Type must match as well
    on: bool = True

    @field_validator("regex", "image_type")
    @classmethod
    def _compiles(cls, regex: str) -> str:
        try:
            re.compile(regex)
        except re.error as wrong:
            raise ValueError(f"not a regular expression: {wrong}") from wrong
        return regex

    @model_validator(mode="after")
    def _names_its_tag(self) -> Pattern:
        if (self.field == "private") != bool(self.tag):
            raise ValueError('`tag` goes with field = "private", and only with it')
        if self.tag and self.tag not in HINTS:
            raise ValueError(f"no tag {self.tag!r} is read{_meant(self.tag, HINTS)}")
        return self

    def matches(self, instance: Instance) -> bool:
        """Whether the instance carries this label."""
        return (
            self.on
            and _found(self.regex, tuple(sorted(_labels(instance, self.field, self.tag))))
            and (not self.image_type or _found(self.image_type, _image_types(instance)))
        )


class _Rule(_Strict):
    """What every rule but the geometry has."""

    on: bool
    reason: str
    sentence: str  #: for a person; {found} is what was found, other fields are the rule's own

    @field_validator("reason")
    @classmethod
    def _known(cls, reason: str) -> str:
        if reason not in REASONS:
            raise ValueError(f"unknown reason{_meant(reason, REASONS)}")
        return reason

    @model_validator(mode="after")
    def _says_something(self) -> _Rule:
        try:
            self.say("")
        except (LookupError, AttributeError, ValueError) as wrong:
            raise ValueError(f"sentence asks for {wrong}, which the rule has not") from wrong
        return self

    def say(self, found: str) -> str:
        """The sentence, filled in."""
        own = {name: _plain(value) for name, value in self.model_dump().items()}
        return self.sentence.format(**{**own, "found": found})


class LabelRule(_Rule):
    """Leaves out instances that carry one of some labels."""

    kind: Literal["label"]
    pattern: dict[str, Pattern]

    def find(self, instance: Instance) -> str | None:
        """Name of the first pattern that matches; never the text it matched."""
        return next((name for name, p in self.pattern.items() if p.matches(instance)), None)


class ModalityRule(_Rule):
    """Leaves out instances of other modalities."""

    kind: Literal["modality"]
    modalities: tuple[str, ...]

    def find(self, instance: Instance) -> str | None:
        if instance.modality in self.modalities:
            return None
        return _code(instance.modality)


class SopClassRule(_Rule):
    """Leaves out instances of other SOP classes; one that names none is let through."""

    kind: Literal["sop_class"]
    classes: tuple[str, ...]

    def find(self, instance: Instance) -> str | None:
        if not instance.sop_class or instance.sop_class in self.classes:
            return None
        return _code(instance.sop_class)


class PixelsRule(_Rule):
    """Leaves out instances without an image."""

    kind: Literal["pixels"]

    def find(self, instance: Instance) -> str | None:
        if not instance.has_pixels:
            return "the element is absent or empty"
        if instance.rows < 1 or instance.columns < 1:
            return f"{instance.rows} rows and {instance.columns} columns"
        return None


class ColourRule(_Rule):
    """Leaves out instances whose pixels are colours."""

    kind: Literal["colour"]
    photometric: tuple[str, ...]

    def find(self, instance: Instance) -> str | None:
        if instance.samples_per_pixel != 1:
            return f"{instance.samples_per_pixel} samples per pixel"
        if instance.photometric and instance.photometric not in self.photometric:
            return _code(instance.photometric)
        return None


class UnitsRule(_Rule):
    """Leaves out instances whose values are not in HU, by unit, bits and reach."""

    kind: Literal["units"]
    hu: tuple[str, ...]  #: in capitals, as all units are compared
    unspecified: tuple[str, ...]  #: the same
    range_hu: tuple[float, float]  #: what values of an unspecified unit must be able to reach
    min_bits: int = Field(ge=1, le=32)

    def find(self, instance: Instance) -> str | None:
        if 0 < instance.bits_stored < self.min_bits:
            return f"{instance.bits_stored} bits"
        return next((why for f in instance.frames if (why := self._in(f, instance))), None)

    def _in(self, frame: Frame, instance: Instance) -> str | None:
        unit = frame.rescale_type.strip().upper()
        if unit in self.hu:
            return None
        if unit not in self.unspecified:
            return f"unit {_code(frame.rescale_type)}"
        low, high = _reach(frame, instance)
        if low <= self.range_hu[0] and high >= self.range_hu[1]:
            return None
        return f"unit {_code(frame.rescale_type)}, values from {low:g} to {high:g}"


class RescaleRule(_Rule):
    """Leaves out instances whose values cannot be turned into HU."""

    kind: Literal["rescale"]
    signed_is_hu: bool

    def find(self, instance: Instance) -> str | None:
        return next((why for f in instance.frames if (why := self._in(f, instance))), None)

    def _in(self, frame: Frame, instance: Instance) -> str | None:
        slope, intercept = frame.rescale_slope, frame.rescale_intercept
        if slope is not None and intercept is not None:
            usable = slope != 0 and isfinite(slope) and isfinite(intercept)
            return None if usable else f"slope {slope:g}, intercept {intercept:g}"
        if self.signed_is_hu and instance.pixel_representation == 1:
            return None
        return "no slope and intercept"


class PositionRule(_Rule):
    """Leaves out instances that do not say where they lie."""

    kind: Literal["position"]

    def find(self, instance: Instance) -> str | None:
        if not len(instance.frames) == instance.number_of_frames > 0:
            return f"{len(instance.frames)} of {instance.number_of_frames} frames are described"
        return next((why for f in instance.frames if (why := self._in(f))), None)

    @staticmethod
    def _in(frame: Frame) -> str | None:
        if frame.position_mm is None:
            return "no position"
        if frame.orientation is None:
            return "no orientation"
        return "no pixel spacing" if frame.pixel_spacing_mm is None else None


class GeometryRule(_Strict):
    """Turns instances into a volume; without it there is none, so it cannot be switched off."""

    kind: Literal["geometry"]
    on: Literal[True]
    tolerances: dict[str, float]  #: by the names that `geometry.Tolerances` has

    @field_validator("tolerances")
    @classmethod
    def _known(cls, given: dict[str, float]) -> dict[str, float]:
        known = {f.name for f in fields(Tolerances)}
        for name in given.keys() - known:
            raise ValueError(f"{name} is no tolerance{_meant(name, known)}")
        return given

    def limits(self) -> Tolerances:
        """The tolerances, with the site's in place."""
        return Tolerances(**self.tolerances)


class SlicesRule(_Rule):
    """Rejects volumes of few slices."""

    kind: Literal["slices"]
    min_slices: int = Field(ge=2)
    min_slices_segmented: int = Field(ge=2)  #: where the archive holds a segmentation of them
    single_frame: tuple[str, ...]  #: SOP classes of one slice each; "" is one that is not listed

    def judge(self, geometry: Geometry, series: Series) -> tuple[str, bool]:
        """How many slices it has, and whether they are enough."""
        return str(len(geometry.slices)), len(geometry.slices) >= self._least(series)

    def judge_listed(self, series: Series) -> tuple[str, bool] | None:
        """The same by the number of instances; None where they may hold many slices each."""
        classes = series.sop_classes or ("",)
        if series.instance_count is None or not set(classes) <= set(self.single_frame):
            return None
        return str(series.instance_count), series.instance_count >= self._least(series)

    def _least(self, series: Series) -> int:
        return self.min_slices_segmented if series.segmentations else self.min_slices


class VoxelsRule(_Rule):
    """Rejects volumes that would not fit into memory."""

    kind: Literal["voxels"]
    max_voxels: int = Field(ge=1)

    def judge(self, geometry: Geometry, series: Series) -> tuple[str, bool]:
        """How many voxels it has, and whether they are not too many."""
        return str(prod(geometry.shape)), prod(geometry.shape) <= self.max_voxels


class PlaneRule(_Rule):
    """Rejects volumes whose slices lie in other planes of the body."""

    kind: Literal["plane"]
    planes: tuple[Plane, ...]

    def judge(self, geometry: Geometry, series: Series) -> tuple[str, bool]:
        """The plane its slices are nearest to, and whether it is wanted."""
        return geometry.plane, geometry.plane in self.planes


class AngleRule(_Rule):
    """Rejects volumes that are turned or sheared too far."""

    kind: Literal["angle"]
    angle: Literal["oblique_deg", "tilt_deg"]
    max_deg: float = Field(ge=0, le=90)

    def judge(self, geometry: Geometry, series: Series) -> tuple[str, bool]:
        """The angle, and whether it is small enough."""
        degrees = abs(float(getattr(geometry, self.angle)))
        return f"{degrees:.1f}", degrees <= self.max_deg


InstanceRule = (
    LabelRule | ModalityRule | SopClassRule | PixelsRule | ColourRule
    | UnitsRule | RescaleRule | PositionRule
)  # fmt: skip
VolumeRule = SlicesRule | VoxelsRule | PlaneRule | AngleRule
Rule = Annotated[InstanceRule | GeometryRule | VolumeRule, Field(discriminator="kind")]


class _File(_Strict):
    rule: dict[str, Rule]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules of a site, in the order in which they are judged."""

    by_name: Mapping[str, InstanceRule | GeometryRule | VolumeRule]
    digest: str  #: changes when any rule does

    @cached_property
    def of_instances(self) -> Mapping[str, InstanceRule]:
        """Rules that leave single instances out."""
        return _only(self.by_name, InstanceRule)

    @cached_property
    def of_volumes(self) -> Mapping[str, VolumeRule]:
        """Rules that judge the volume which the rest makes."""
        return _only(self.by_name, VolumeRule)

    @cached_property
    def geometry(self) -> tuple[str, GeometryRule]:
        """The rule between them, with its name."""
        return next(iter(_only(self.by_name, GeometryRule).items()))


def load_rules(path: Path | None = None) -> Rules:
    """The packaged rules, overlaid with those of a site.

    Raises:
        Misconfigured: the file cannot be read, or changes something that is not there.
    """
    packaged = tomllib.loads(files("tomodex").joinpath("selection.toml").read_text("utf-8"))
    merged = packaged if path is None else _overlay(packaged, _read(path))
    try:
        rules = _File.model_validate(merged).rule
    except ValidationError as wrong:
        told = "; ".join(_tell(error, merged["rule"]) for error in wrong.errors())
        raise Misconfigured(f"selection rules in {path}: {told}") from wrong
    return Rules(by_name=rules, digest=_digest(rules))


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as wrong:
        raise Misconfigured(f"cannot read the selection rules in {path}: {wrong}") from wrong


def _overlay(packaged: dict[str, Any], site: dict[str, Any]) -> dict[str, Any]:
    """The packaged rules with a site's values in their place."""
    for name in site.keys() - {"rule"}:
        raise Misconfigured(f"selection rules: {name!r} is not known; rules are [rule.NAME]")
    own = site.get("rule", {})
    if not isinstance(own, dict) or not all(isinstance(rule, dict) for rule in own.values()):
        raise Misconfigured("selection rules: a rule is a table, [rule.NAME]")
    for name in own.keys() - packaged["rule"].keys():
        raise Misconfigured(f"selection rules: no rule {name!r}{_meant(name, packaged['rule'])}")
    return {"rule": {n: _merged(rule, own.get(n, {})) for n, rule in packaged["rule"].items()}}


def _merged(rule: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """One rule: values replaced, patterns merged by their name and then by key."""
    patterns, added = rule.get("pattern", {}), own.get("pattern", {})
    if not (patterns or added) or not isinstance(added, dict):
        return {**rule, **own}
    both = {n: _replaced(patterns.get(n, {}), added.get(n, {})) for n in {**patterns, **added}}
    return {**rule, **own, "pattern": both}


def _replaced(pattern: dict[str, Any], own: object) -> object:
    return {**pattern, **own} if isinstance(own, dict) else own


def _digest(rules: Mapping[str, BaseModel]) -> str:
    told = json.dumps({name: rule.model_dump() for name, rule in rules.items()})
    return sha256(told.encode()).hexdigest()


def _only(rules: Mapping[str, object], kind: Any) -> dict[str, Any]:
    return {name: rule for name, rule in rules.items() if isinstance(rule, kind)}


def _tell(error: Mapping[str, Any], rules: Mapping[str, Mapping[str, Any]]) -> str:
    """One sentence for one mistake in a rules file; pydantic puts the kind into its path."""
    where = [str(step) for step in error["loc"]]
    name = where[1] if len(where) > 1 else ""
    path = ".".join(where[:2] + where[3:])
    if error["type"] != "extra_forbidden":
        return f"{path}: {error['msg'].removeprefix('Value error, ')}"
    known = Pattern.model_fields if "pattern" in where[:-1] else rules[name]
    return f"{path} is not known{_meant(where[-1], set(known) - {where[-1]})}"


def _meant(given: str, known: Iterable[str]) -> str:
    """What was probably meant; else all there is."""
    close = get_close_matches(given, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(sorted(known))}"


def _labels(instance: Instance, field: str, tag: str) -> set[str]:
    """Texts of one kind in a header, each short enough to search."""
    if field == "image_type":
        return {*_image_types(instance)}
    if field == "description":
        return {re.sub(r"[\W_]+", " ", instance.description[:_LONGEST]).strip()}
    if field == "rescale_type":
        return {f.rescale_type.strip()[:_LONGEST] for f in instance.frames}
    if field == "private":
        return {instance.private.get(tag, "")[:_LONGEST]}
    return {(instance.modality if field == "modality" else instance.sop_class)[:_LONGEST]}


def _image_types(instance: Instance) -> tuple[str, ...]:
    values = {v for f in instance.frames for v in f.image_type} | {*instance.image_type}
    return tuple(sorted({v.strip()[:_LONGEST] for v in values}))


@lru_cache(maxsize=20_000)
def _found(regex: str, values: tuple[str, ...]) -> bool:
    """Whether one of the texts matches; slices of a series share theirs, hence the cache."""
    return any(re.search(regex, value, re.IGNORECASE) for value in values if value)


def _reach(frame: Frame, instance: Instance) -> tuple[float, float]:
    """Lowest and highest value that the stored bits can hold, rescaled."""
    bits, signed = min(max(instance.bits_stored, 1), 32), instance.pixel_representation == 1
    stored = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    slope = 1.0 if frame.rescale_slope is None else frame.rescale_slope
    ends = [value * slope + (frame.rescale_intercept or 0.0) for value in stored]
    return min(ends), max(ends)


def _code(text: str) -> str:
    """A coded value of a header, if it looks like one: headers are not trusted with words."""
    if not text:
        return "none"
    return text if re.fullmatch(r"[A-Z0-9_.]{1,64}", text) else "no valid code"


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
