"""The shape of a search: its grammar, and what is said where a text does not have it."""

from __future__ import annotations

from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, cast

from tomodex.search.complaint import Complaint

if TYPE_CHECKING:
    from lark import Lark, Token, Tree, UnexpectedInput
    from lark.exceptions import UnexpectedToken

#: Tokens that need something before and after them.
JOINTS = {
    "_AND",
    "_OR",
    "_BETWEEN",
    "_ABOVE",
    "_BELOW",
    "_RANGE",
    "_IN",
    "_WITH",
    "SIGN",
    "MEASURE",
}

#: Tokens that are words of the language, and may have been meant as a name.
RESERVED = {"STATE", "QUANTIFIER", "ARTICLE", "_COVERS", "_SHOWING", "_NOT"}


def tree_of(text: str) -> Tree[Token]:
    """The syntax tree of `text`, as query.lark names its parts."""
    from lark import Tree, UnexpectedInput

    try:
        tree = _parser().parse(text)
    except UnexpectedInput as fault:
        raise _complaint(text, fault) from None
    for child in tree.children:
        if not isinstance(child, Tree):  # a comma between two terms
            _refuse_decimal(text, child)
    return tree


# A page writes the same names hundreds of times, and to read one takes 0.4 ms.
@lru_cache(maxsize=4096)
def is_plain(text: str, words: int) -> bool:
    """Whether `text` is read back as it is: at most so many words, none of the language."""
    from lark import UnexpectedInput

    try:
        tokens = list(_parser().lex(text))
    except UnexpectedInput:
        return False
    named = len(tokens) <= words and all(token.type == "WORD" for token in tokens)
    return named and text == " ".join(tokens) != ""


@cache
def _parser() -> Lark:
    from lark import Lark

    grammar = files("tomodex.search").joinpath("query.lark").read_text(encoding="utf-8")
    # The basic lexer, so that "and" is never taken for a name where an "and" is out of place.
    return Lark(grammar, parser="lalr", lexer="basic", maybe_placeholders=False)


def _complaint(text: str, fault: UnexpectedInput) -> Complaint:
    from lark import UnexpectedCharacters
    from lark.exceptions import UnexpectedToken

    if isinstance(fault, UnexpectedCharacters):
        return _about_character(text, fault.pos_in_stream or 0)
    if isinstance(fault, UnexpectedToken):
        return _about_token(text, fault)
    return Complaint("the search is not complete", len(text), len(text))


def _about_character(text: str, place: int) -> Complaint:
    if text[place] in '"“„':
        return Complaint("this quote is not closed", place, place + 1)
    return Complaint("this means nothing in a search", place, place + 1)


def _about_token(text: str, fault: UnexpectedToken) -> Complaint:
    token, accepted = cast("Token", fault.token), fault.accepts or set()
    if token.type == "$END":
        end = len(text.rstrip())
        return Complaint(_missing(accepted), end, end)
    start, end = token.start_pos or 0, token.end_pos or 0
    if token.type == "COMMA":
        _refuse_decimal(text, token)
    if "WORD" in accepted:
        return _where_a_name_belongs(token, start, end)
    if token.type == "RPAR":
        return Complaint("there is no '(' for this", start, end)
    if "_AND" in accepted:
        return Complaint("'and' or 'or' is missing before this", start, end)
    return Complaint(f"{_missing(accepted)} before this", start, end)


def _where_a_name_belongs(token: Token, start: int, end: int) -> Complaint:
    if token.type in RESERVED:
        sentence = f"'{token}' is a word of the language; quotes make it a name or value"
        return Complaint(sentence, start, end, (f'"{token}"',))
    if token.type in JOINTS:
        return Complaint(f"something is missing before '{token}'", start, end)
    return Complaint("a name or value is missing before this", start, end)


def _missing(accepted: set[str]) -> str:
    if "WORD" in accepted:
        return "a name or value is missing"
    if "RPAR" in accepted:
        return "')' is missing"
    if "_AND" in accepted:
        return "'and' is missing"
    if "SIGN" in accepted:
        return "a comparison is missing, such as '> 100'"
    if "LPAR" in accepted:
        return "'(' is missing"
    return "something is missing"


def _refuse_decimal(text: str, comma: Token) -> None:
    place = comma.start_pos or 0
    if text[place - 1 : place].isdigit() and text[place + 1 : place + 2].isdigit():
        raise Complaint("decimals are written with a point", place, place + 1)
