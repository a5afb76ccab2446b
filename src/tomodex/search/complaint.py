"""How a search is told what is wrong with it: a sentence, the place, what was probably meant."""

from __future__ import annotations

from collections.abc import Sequence

from tomodex.errors import BadQuery

#: How much of a long search is shown on either side of the place.
AROUND = 60


class Complaint(Exception):
    """Something is wrong from `start` to `end` of a text; whoever has the text says it."""

    def __init__(
        self, sentence: str, start: int, end: int, suggestions: Sequence[str] = ()
    ) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.start = start
        self.end = end
        self.suggestions = tuple(suggestions)


def bad_query(text: str, complaint: Complaint) -> BadQuery:
    """The error for a person: the sentence, the line with a mark under the place, the offers."""
    lines = [complaint.sentence, *_marked(text, complaint.start, complaint.end)]
    if complaint.suggestions:
        lines.append(f"did you mean: {', '.join(complaint.suggestions)}?")
    return BadQuery(
        "\n".join(lines),
        place=(complaint.start, complaint.end),
        suggestions=complaint.suggestions,
    )


def _marked(text: str, start: int, end: int) -> tuple[str, str]:
    first, last = max(0, start - AROUND), min(len(text), max(end, start) + AROUND)
    shown = "".join(char if char.isprintable() else " " for char in text[first:last])
    return f"  {shown}", f"  {' ' * (start - first)}{'^' * max(1, end - start)}"
