"""The 117 structures of the phantom, in the order of TotalSegmentator's task `total`."""

from __future__ import annotations


def _vertebrae() -> tuple[str, ...]:
    """From S1 up to C1."""
    runs = (("S", 1), ("L", 5), ("T", 12), ("C", 7))
    return tuple(f"vertebrae_{run}{n}" for run, last in runs for n in range(last, 0, -1))


def _ribs() -> tuple[str, ...]:
    return tuple(f"rib_{side}_{n}" for side in ("left", "right") for n in range(1, 13))


def _pairs(first: str, second: str, *stems: str) -> tuple[str, ...]:
    return tuple(f"{stem}_{side}" for stem in stems for side in (first, second))


#: Label n of the phantom's label map is `STRUCTURES[n - 1]`; 0 is background. These are the names
#: and numbers of TotalSegmentator v2, task `total`.
STRUCTURES: tuple[str, ...] = (
    "spleen",
    *_pairs("right", "left", "kidney"),
    "gallbladder",
    "liver",
    "stomach",
    "pancreas",
    *_pairs("right", "left", "adrenal_gland"),
    "lung_upper_lobe_left",
    "lung_lower_lobe_left",
    "lung_upper_lobe_right",
    "lung_middle_lobe_right",
    "lung_lower_lobe_right",
    "esophagus",
    "trachea",
    "thyroid_gland",
    "small_bowel",
    "duodenum",
    "colon",
    "urinary_bladder",
    "prostate",
    *_pairs("left", "right", "kidney_cyst"),
    "sacrum",
    *_vertebrae(),
    "heart",
    "aorta",
    "pulmonary_vein",
    "brachiocephalic_trunk",
    *_pairs("right", "left", "subclavian_artery", "common_carotid_artery"),
    *_pairs("left", "right", "brachiocephalic_vein"),
    "atrial_appendage_left",
    "superior_vena_cava",
    "inferior_vena_cava",
    "portal_vein_and_splenic_vein",
    *_pairs("left", "right", "iliac_artery", "iliac_vena"),
    *_pairs("left", "right", "humerus", "scapula", "clavicula", "femur", "hip"),
    "spinal_cord",
    *_pairs("left", "right", "gluteus_maximus", "gluteus_medius", "gluteus_minimus"),
    *_pairs("left", "right", "autochthon", "iliopsoas"),
    "brain",
    "skull",
    *_ribs(),
    "sternum",
    "costal_cartilages",
)

LABELS = {name: number for number, name in enumerate(STRUCTURES, start=1)}
