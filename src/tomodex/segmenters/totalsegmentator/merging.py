"""The labels of several models in one label map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tomodex.errors import Misconfigured

Labels = npt.NDArray[np.uint8]


def number_labels(models: Sequence[Mapping[int, str]]) -> tuple[Mapping[int, str], list[Labels]]:
    """Names by their number in a common map, and for each model a table (256,) to those numbers.

    A name that several models have gets one number.

    Raises:
        Misconfigured: there are more names than a label map can hold.
    """
    names = dict.fromkeys(name for labels in models for name in labels.values())
    if len(names) > 255:
        raise Misconfigured(f"{len(names)} structures are more than a label map can hold, 255")
    numbers = {name: number for number, name in enumerate(names, start=1)}
    tables = []
    for labels in models:
        table = np.zeros(256, np.uint8)
        table[list(labels)] = [numbers[name] for name in labels.values()]
        tables.append(table)
    return {number: name for name, number in numbers.items()}, tables


def merge_labels(merged: Labels, labels: Labels, table: Labels) -> None:
    """Write what a model found into `merged`, over what others found before, as upstream does."""
    for into, found in zip(merged, labels, strict=True):
        np.copyto(into, table[found], where=found != 0)
