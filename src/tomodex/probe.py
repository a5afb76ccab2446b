"""One thing that `tomodex doctor` looked at, and what to do if it is not as it should be."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

#: Less free disk than this is worth a word, and less than this is too little to go on, bytes.
SCARCE_BYTES = 10_000_000_000
TOO_LITTLE_BYTES = 500_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What was looked at, what was seen there, and what helps."""

    subject: str  #: such as "C-ECHO", "answer limit", "free disk"
    verdict: Literal["ok", "doubtful", "wrong"]
    sentence: str  #: what was seen, with numbers and versions; never a secret or patient data
    advice: str = ""  #: what to do, in words an administrator can follow; "" if it is ok
    commands: tuple[str, ...] = ()  #: what whoever may can type to do it


def probe_room(folder: Path) -> Probe:
    """Look whether a folder can be written to, and how much room its disk has."""
    if not os.access(folder, os.W_OK | os.X_OK):
        sentence, advice = f"{folder} cannot be written", "give it to the user that runs Tomodex"
        return Probe(subject="free disk", verdict="wrong", sentence=sentence, advice=advice)
    free = shutil.disk_usage(folder).free
    sentence = f"{free / 1e9:,.1f} GB free in {folder}"
    if free >= SCARCE_BYTES:
        return Probe(subject="free disk", verdict="ok", sentence=sentence)
    return Probe(
        subject="free disk",
        verdict="wrong" if free < TOO_LITTLE_BYTES else "doubtful",
        sentence=sentence,
        advice="free some room there, or move it to a larger disk",
    )
