"""Who asks, and what they may do and learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tomodex.errors import Forbidden

Role = Literal["viewer", "researcher", "steward", "operator", "service"]

#: count: numbers that tell nothing of one person. rows: single series, by pseudonym. identify:
#: whose a pseudonym is. operate: queue, rates, failures; no patient data. order: have series
#: indexed.
Right = Literal["count", "rows", "identify", "operate", "order"]

RIGHTS: Mapping[Role, frozenset[Right]] = {
    "viewer": frozenset({"count"}),
    "researcher": frozenset({"count", "rows"}),
    "steward": frozenset({"count", "rows", "identify"}),
    "operator": frozenset({"operate"}),
    "service": frozenset({"order", "operate"}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """A person or a program that asks."""

    name: str  #: as the audit log names them
    roles: frozenset[Role]

    def may(self, right: Right) -> bool:
        return any(right in RIGHTS[role] for role in self.roles)

    def require(self, right: Right) -> None:
        """Raises Forbidden: none of the roles has this right."""
        if not self.may(right):
            roles = " or ".join(role for role, rights in RIGHTS.items() if right in rights)
            raise Forbidden(f"only a {roles} may do that")


#: Whoever has the data folder in their hands can read it without us.
OWNER = Asker(name="owner", roles=frozenset(RIGHTS))
