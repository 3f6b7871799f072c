"""A query as a tree, and its canonical text, which `parse` makes the same tree of.

Trees are made by `all_of` and `any_of`, so that no AND has another one in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from towpath.eventlog.columns import Kind
from towpath.eventlog.query.numbers import NUMBER
from towpath.eventlog.query.operators import Operator

AND, OR, NOT = "AND", "OR", "NOT"
#: The word with which a path begins.
CONTEXT = "context"
CONSTANTS = ("true", "false", "null")

_BARE_WORD = re.compile(r"[\w.@/][-\w.@/]*")
_BARE_KEY = re.compile(r"[-\w]+")
_BARE_TEXT = re.compile(r"""[^\s()",*<>=][^\s()",*]*""")
#: What is written after a backslash in quotes, by the character that it stands for. The backslash is the first one.
ESCAPES = {"\\": "\\", '"': '"', "\n": "u000a", "\r": "u000d"}
#: Words that are constants in JSON, unless they are quoted.
NUMBER_OR_CONSTANT = re.compile(f"{NUMBER}|{'|'.join(CONSTANTS)}")


@dataclass(frozen=True, slots=True)
class Text:
    """The text itself."""

    text: str


@dataclass(frozen=True, slots=True)
class Pattern:
    """These texts in this order, with any characters between them: at least two texts, no inner one empty."""

    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Number:
    """A number, as it is written."""

    text: str


@dataclass(frozen=True, slots=True)
class Constant:
    """One of CONSTANTS."""

    text: str


@dataclass(frozen=True, slots=True)
class Period:
    """A time as it is written, and the period that it names: from its start to before its end."""

    text: str
    start: datetime
    end: datetime


Value: TypeAlias = Text | Pattern | Number | Constant | Period


@dataclass(frozen=True, slots=True)
class ColumnField:
    """A column of the OBT."""

    name: str
    kind: Kind

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Path:
    """The keys that lead through the context's objects to a value."""

    keys: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join([CONTEXT, *(key if _BARE_KEY.fullmatch(key) else quoted(key) for key in self.keys)])


Field: TypeAlias = ColumnField | Path


@dataclass(frozen=True, slots=True)
class FullText:
    """A word or phrase in the context's text."""

    text: str

    def __str__(self) -> str:
        is_bare = _BARE_WORD.fullmatch(self.text) and self.text not in {AND, OR, NOT}
        return self.text if is_bare else quoted(self.text)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A field that compares like this with any of the values."""

    field: Field
    operator: Operator
    values: tuple[Value, ...]

    def __str__(self) -> str:
        values = ",".join(_printed(value, is_of_path=isinstance(self.field, Path)) for value in self.values)
        return f"{self.field}{self.operator}{values}"


@dataclass(frozen=True, slots=True)
class Has:
    """A path that exists, or a text column that is not empty."""

    field: Field

    def __str__(self) -> str:
        return f"has:{self.field}"


@dataclass(frozen=True, slots=True)
class Not:
    """Finds what the term does not find."""

    term: Term

    def __str__(self) -> str:
        return f"-({self.term})" if isinstance(self.term, All | Any) else f"-{self.term}"


@dataclass(frozen=True, slots=True)
class All:
    """Finds what all of the terms find: at least two, none of them an All."""

    terms: tuple[Term, ...]

    def __str__(self) -> str:
        return " ".join(f"({term})" if isinstance(term, Any) else str(term) for term in self.terms)


@dataclass(frozen=True, slots=True)
class Any:
    """Finds what any of the terms finds: at least two, none of them an Any."""

    terms: tuple[Term, ...]

    def __str__(self) -> str:
        return f" {OR} ".join(map(str, self.terms))


Term: TypeAlias = FullText | Comparison | Has | Not | All | Any


@dataclass(frozen=True, slots=True)
class Query:
    """A query. Without a term, it finds every event."""

    term: Term | None = None

    def __str__(self) -> str:
        """Its canonical text."""
        return "" if self.term is None else str(self.term)


def all_of(terms: list[Term]) -> Term:
    """Return the terms as one: all of them hold. There is at least one."""
    flat = [inner for term in terms for inner in (term.terms if isinstance(term, All) else (term,))]
    return flat[0] if len(flat) == 1 else All(tuple(flat))


def any_of(terms: list[Term]) -> Term:
    """Return the terms as one: any of them holds. There is at least one."""
    flat = [inner for term in terms for inner in (term.terms if isinstance(term, Any) else (term,))]
    return flat[0] if len(flat) == 1 else Any(tuple(flat))


def quoted(text: str) -> str:
    """Return the text in quotes, with the possible escapes. It is one line: forms change line breaks."""
    for character, escape in ESCAPES.items():
        text = text.replace(character, f"\\{escape}")
    return f'"{text}"'


def _printed(value: Value, *, is_of_path: bool) -> str:
    match value:
        case Text(text):
            is_bare = _BARE_TEXT.fullmatch(text) and not (is_of_path and NUMBER_OR_CONSTANT.fullmatch(text))
            return text if is_bare else quoted(text)
        case Pattern(parts):
            return "*".join(part if not part or _BARE_TEXT.fullmatch(part) else quoted(part) for part in parts)
        case Number(text) | Constant(text) | Period(text):
            return text
