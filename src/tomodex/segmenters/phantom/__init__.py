"""Finds the 117 structures in the phantoms that this package draws, and refuses everything else.

The model beside this file is small, in the files of nnU-Net, and has seen nothing but phantoms:
`tools/train_phantom_network.py` made it. It is there so that the demo and the tests segment for
real with nothing to download.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from urllib.parse import quote, urlencode, urlunsplit

from pydantic import BaseModel

from tomodex.errors import Unsuitable
from tomodex.options import read_options
from tomodex.segmentation import Algorithm, Segmentation
from tomodex.segmenters.phantom.pieces import keep_large_pieces
from tomodex.segmenters.totalsegmentator import NnUNet
from tomodex.segmenters.totalsegmentator.options import Options
from tomodex.terminology import Terminology
from tomodex.volume import Volume

MODEL = Path(__file__).parent / "model"

#: Pieces of fewer voxels are taken for noise, 6 of 5 mm are 0.75 ml; so are those that are smaller
#: than this share of the structure's largest piece.
LEAST_VOXELS, LEAST_SHARE = 6, 0.2
#: No scan of a phantom is larger: 0.5 m x 0.5 m x 1.6 m. To tell pieces apart takes 0.9 GB at most.
MAX_LITRES = 400

_REFUSED = (
    "this series is no phantom of tomodex, and the phantom model knows no patients; "
    "set segmenters to totalsegmentator: or dicomseg:"
)


class Training(BaseModel):
    """`training.json`: how the model came to be."""

    scans: int  #: of one phantom body each
    body_seeds: tuple[int, int]  #: the lowest and the highest
    steps: int


class PhantomSegmenter:
    """`phantom:`, with the options that every model takes, such as `phantom:?threads=1`.

    Raises:
        Misconfigured: the URL has another option.
    """

    reads_stored = False

    def __init__(self, url: str, terminology: Terminology | None = None) -> None:
        options = read_options(url, Options)
        given = urlencode(options.model_dump(mode="json", exclude_none=True))
        self._model = NnUNet(urlunsplit(("nnunet", "", quote(str(MODEL)), given, "")), terminology)
        self._training = Training.model_validate_json((MODEL / "training.json").read_bytes())

    def segment(self, volume: Volume, stored: Sequence[Path]) -> Segmentation | None:
        """All that is found in a phantom.

        Raises:
            Unsuitable: it is none ("not_a_phantom"), or too large (too_large).
        """
        if not volume.is_phantom:
            raise Unsuitable("not_a_phantom", _REFUSED)
        litres = prod(volume.shape) * volume.voxel_volume_ml / 1000
        if litres > MAX_LITRES:
            raise Unsuitable("too_large", f"{litres:.0f} l, and no phantom takes {MAX_LITRES} l")
        found = self._model.segment(volume, stored)
        if found is None:
            return None
        return replace(
            found,
            layers=tuple(
                keep_large_pieces(labels, LEAST_SHARE, LEAST_VOXELS) for labels in found.layers
            ),
            algorithm=_described(found.algorithm, self._training),
        )

    def seconds(self, volume: Volume) -> float:
        """About how long that takes on two cores."""
        return self._model.seconds(volume)


def _described(algorithm: Algorithm, training: Training) -> Algorithm:
    first, last = training.body_seeds
    trained = f"{training.scans} phantoms, bodies {first} to {last}, {training.steps} steps"
    return replace(
        algorithm,
        name="Tomodex phantom model",
        options={
            **algorithm.options,
            "least_piece": f"{LEAST_VOXELS} voxels, {LEAST_SHARE:g} of the largest",
            "made_for": "synthetic phantoms; not for patients",
            "trained_on": trained,
        },
    )
