"""What a peer asks for on an association, as a command set, and what it is answered (PS3.7 6.3).

Commands are read and written here, not by pynetdicom, as that takes 2 ms for each slice (measured).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

#: Values of Command Field (0000,0100), PS3.7 E.1.
C_STORE, C_ECHO, C_CANCEL = 0x0001, 0x0030, 0x0FFF

#: A response has this bit set in its Command Field (PS3.7 E.1).
RESPONSE = 0x8000

#: Value of Command Data Set Type (0000,0800) where no data set follows (PS3.7 E.1).
NO_DATA_SET = 0x0101

_GROUP_LENGTH, _SOP_CLASS, _FIELD, _MESSAGE_ID = 0x0000, 0x0002, 0x0100, 0x0110
_ANSWERED_ID, _DATA_SET_TYPE, _STATUS, _SOP_INSTANCE = 0x0120, 0x0800, 0x0900, 0x1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What a peer asks for."""

    field: int  #: Command Field: what is to be done
    message_id: int
    has_data_set: bool  #: one follows
    sop_class: str = ""  #: Affected SOP Class UID
    sop_instance: str = ""  #: Affected SOP Instance UID


def read_command(encoded: bytes) -> Command:
    """The command of a command set, which is always in Implicit VR Little Endian.

    Raises:
        ValueError: it is none.
    """
    values = dict(_elements(encoded))
    return Command(
        field=_number(values, _FIELD),
        message_id=_number(values, _MESSAGE_ID) if _MESSAGE_ID in values else 0,
        has_data_set=_number(values, _DATA_SET_TYPE) != NO_DATA_SET,
        sop_class=_uid(values, _SOP_CLASS),
        sop_instance=_uid(values, _SOP_INSTANCE),
    )


def answer_to(command: Command, status: int) -> bytes:
    """The command set of the response to a C-STORE or C-ECHO request (PS3.7 9.3.1.2, 9.3.5.2)."""
    named = [(_SOP_CLASS, _padded(command.sop_class))] if command.sop_class else []
    elements = [
        *named,
        (_FIELD, struct.pack("<H", command.field | RESPONSE)),
        (_ANSWERED_ID, struct.pack("<H", command.message_id)),
        (_DATA_SET_TYPE, struct.pack("<H", NO_DATA_SET)),
        (_STATUS, struct.pack("<H", status)),
    ]
    if command.sop_instance:
        elements.append((_SOP_INSTANCE, _padded(command.sop_instance)))
    encoded = b"".join(_element(number, value) for number, value in elements)
    return _element(_GROUP_LENGTH, struct.pack("<L", len(encoded))) + encoded


def _elements(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """Element numbers of group 0000 with their values."""
    at = 0
    while at < len(encoded):
        if len(encoded) < at + 8:
            raise ValueError("a command set ends within an element")
        group, number, length = struct.unpack_from("<HHL", encoded, at)
        value = encoded[at + 8 : at + 8 + length]
        if group != 0 or len(value) != length:
            raise ValueError("a command set has an element that is none")
        yield number, value
        at += 8 + length


def _number(values: dict[int, bytes], number: int) -> int:
    value = values.get(number, b"")
    if len(value) != 2:
        raise ValueError(f"a command set has no element (0000,{number:04X}) of 16 bits")
    return int.from_bytes(value, "little")


def _uid(values: dict[int, bytes], number: int) -> str:
    return values.get(number, b"").decode("latin-1").rstrip("\0 ")


def _padded(uid: str) -> bytes:
    encoded = uid.encode("latin-1")
    return encoded + b"\0" * (len(encoded) % 2)


def _element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, number, len(value)) + value
