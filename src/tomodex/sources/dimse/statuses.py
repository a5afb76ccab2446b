"""What the status of an answer means, and what helps (PS3.4 C.4, PS3.7 C)."""

from __future__ import annotations

SUCCESS = 0x0000
PENDING = frozenset({0xFF00, 0xFF01})
CANCELLED = 0xFE00
OUT_OF_RESOURCES = 0xA700
UNKNOWN_DESTINATION = 0xA801
NOT_SUPPORTED = frozenset({0x0122, 0x0211})

_MEANINGS = {
    0x0110: "processing failure",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
    0x0210: "duplicate invocation",
    0x0211: "operation not recognised",
    0x0212: "mistyped argument",
    0x0213: "resource limitation",
    0xA700: "out of resources",
    0xA701: "out of resources: it cannot count the matches",
    0xA702: "out of resources: it cannot send the instances",
    0xA710: "invalid prior record key",
    0xA801: "it does not know where to send to",
    0xA900: "the question does not fit the SOP class",
    0xAA00: "none of the frames were found",
    0xB000: "some instances could not be sent",
    0xB001: "its limit of answers is reached",
    0xFE00: "cancelled",
}

_ADVICE = {
    0x0124: "allow our AE title to query and retrieve there",
    0xA801: "enter our AE title in the PACS, with this machine and the port of move_port",
}


def describe_status(status: int) -> str:
    """A status as an administrator can look it up, in hex, with its meaning and what helps."""
    meaning = _MEANINGS.get(status, "unable to process" if 0xC000 <= status <= 0xCFFF else "")
    words = f"status 0x{status:04X}" + (f", {meaning}" if meaning else "")
    return f"{words}; {_ADVICE[status]}" if status in _ADVICE else words


def says_it_cannot(status: int) -> bool:
    """Whether a status means that instances cannot be sent, now or later: not a lack of room."""
    return status in NOT_SUPPORTED or status in (0xA900, 0xB000) or 0xC000 <= status <= 0xCFFF


def says_too_many(status: int) -> bool:
    """Whether a status can mean that a question has more answers than the archive gives.

    The standard has 0xA700 for it; others answer "unable to process", a warning, or cancel.
    """
    return (
        status in (OUT_OF_RESOURCES, 0xA701, CANCELLED, 0x0213)
        or 0xB000 <= status <= 0xBFFF
        or 0xC000 <= status <= 0xCFFF
    )
