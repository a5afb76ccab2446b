"""Draws lots for series, the same ones whichever engine has them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tomodex.search.keys import key_of


def lots(keys: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    """A number for each key that depends on the seed and the key alone.

    The last step of SplitMix64 (Steele 2014) spreads every bit of a value over all bits.
    """
    values = keys ^ np.uint64(key_of(str(seed)))
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)
