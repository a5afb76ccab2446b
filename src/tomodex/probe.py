"""One thing that `tomodex doctor` looked at, and what to do if it is not as it should be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What was looked at, what was seen there, and what helps."""

    subject: str  #: such as "C-ECHO", "answer limit", "free disk"
    verdict: Literal["ok", "doubtful", "wrong"]
    sentence: str  #: what was seen, with numbers and versions; never a secret or patient data
    advice: str = ""  #: what to do, in words an administrator can follow; "" if it is ok
