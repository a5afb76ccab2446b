"""What to do when a GPU has no memory left, or no longer answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tomodex.errors import Misconfigured, Unavailable

#: What is kept free, as other processes and torch's own parts need some.
_SPARE = 0.2
#: More tiles at once keep no GPU busier: one of TotalSegmentator's 3 mm model has 1.6 million
#: voxels. Not measured yet.
MOST_TILES = 4
#: Of an idle GPU's memory, so much is free.
_IDLE = 0.9
_GIB = 2**30


def is_full(error: RuntimeError) -> bool:
    """Whether it was raised for want of memory; CUDA's libraries have words of their own for it."""
    said = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError)
        or "out of memory" in said
        or "ALLOC_FAILED" in said
    )


def count_fitting(tile_bytes: int, device: torch.device) -> int:
    """How many tiles the device has room for at once, at least 1 and at most MOST_TILES."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + held
    return max(1, min(MOST_TILES, int(free * (1 - _SPARE)) // max(tile_bytes, 1)))


def let_go(device: torch.device) -> None:
    """Give memory that is kept for later back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextmanager
def naming_trouble(device: torch.device) -> Iterator[None]:
    """Says what helps where the device gave up.

    Raises:
        Unavailable: it has no memory left for a single tile, as others use it.
        Misconfigured: a single tile is more than it has, or it failed: nothing can be computed
            on it by this process any more.
    """
    try:
        yield
    except RuntimeError as error:
        if is_full(error):
            raise _too_little(device) from error
        if _is_lost(error):
            raise Misconfigured(
                f"the GPU failed and has to be looked at (nvidia-smi); until then take device=cpu: "
                f"{str(error).splitlines()[0]}"
            ) from error
        raise


def _is_lost(error: RuntimeError) -> bool:
    said = str(error)
    return isinstance(error, torch.AcceleratorError) or said.startswith(("cuDNN error", "CUDA err"))


def _too_little(device: torch.device) -> Unavailable | Misconfigured:
    if device.type != "cuda":
        return Unavailable("no memory is left for one tile")
    free, total = torch.cuda.mem_get_info(device)
    found = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB of the GPU are free"
    if free + torch.cuda.memory_reserved(device) > _IDLE * total:
        return Misconfigured(f"{found}, too little for one tile of this model: take device=cpu")
    return Unavailable(
        f"{found}, too little for one tile: end what else uses it, run fewer workers or device=cpu"
    )
