"""Synthetic CT series whose every answer is known: for the demo, tests and benchmarks.

cases.py     which series there are            writing.py  writes them, with their answers
anatomy.py   a body, drawn from solids         truth.py    works out the answers
voxels.py    what a scanner sees of it         dicom.py    what every file says of itself
"""

from __future__ import annotations

from tomodex.phantom.cases import DEMO, Case, Patient
from tomodex.phantom.truth import StructureTruth, Truth
from tomodex.phantom.writing import write_phantom, write_phantoms

__all__ = ["DEMO", "Case", "Patient", "StructureTruth", "Truth", "write_phantom", "write_phantoms"]
