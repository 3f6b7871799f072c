"""A context as lines to read, with each token as it is stored: no digit of a number and no escape in a string is lost.

The text is split into tokens and laid out. It is parsed only to check that it is JSON.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from towpath.eventlog.query.matching import context_value
from towpath.eventlog.query.numbers import number
from towpath.eventlog.query.operators import Operator
from towpath.eventlog.query.parser import MOST_KEYS
from towpath.eventlog.query.syntax import (
    CONSTANTS,
    NUMBER_OR_CONSTANT,
    Comparison,
    Constant,
    Number,
    Path,
    Text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The most lines that a page shows. A context of many megabytes can have millions.
MOST_LINES = 2_000
#: The content of a bracket is folded at first if it has more lines than this, so that the fields around it stay in
#: sight.
FOLDED_LINES = 12
#: The most characters of a value that a query can ask for: a query has 4,000.
_MOST_ASKED = 1_000

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
_OPENING, _CLOSING = {"{": "}", "[": "]"}, {"}", "]"}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the layout: a key, if it is a member of an object, and a value, a bracket, or an empty pair of
    brackets."""

    depth: int
    #: Both as they are stored.
    key: str
    value: str
    #: The term of a query that finds this value at its path. None if the query language cannot ask for it.
    term: Comparison | None = None
    has_comma: bool = False
    #: For an opening bracket: how many values it holds directly, and whether they are folded at first.
    items: int = 0
    is_folded: bool = False
    #: True if it is inside a bracket that is folded at first.
    is_hidden: bool = False

    @property
    def kind(self) -> str:
        """The kind of the value: string, number, literal or bracket."""
        if self.value[0] == '"':
            return "string"
        if self.value[0] in "{}[]":
            return "bracket"
        return "literal" if self.value in CONSTANTS else "number"

    @property
    def column(self) -> str:
        """The name of the column that shows such values."""
        return str(self.term.field) if self.term else ""


@dataclass(frozen=True, slots=True)
class ContextText:
    """The lines of a context, up to MOST_LINES, and whether these are all of them."""

    lines: tuple[Line, ...]
    is_whole: bool
    #: If False, the context is shown line by line, as it is.
    is_json: bool = True


def read(context: str) -> ContextText:
    """Return the lines of a context."""
    if not _is_json(context):
        own = context.splitlines() or [""]
        as_it_is = tuple(Line(0, "", f'"{line}"') for line in own[:MOST_LINES])
        return ContextText(as_it_is, len(own) <= MOST_LINES, is_json=False)
    lines: list[Line] = []
    for line in _lines(context, has_paths=_has_paths(context)):
        if len(lines) == MOST_LINES:
            return ContextText(_folded(lines), is_whole=False)
        if line.value == ",":
            lines[-1] = replace(lines[-1], has_comma=True)
        else:
            lines.append(line)
    return ContextText(_folded(lines), is_whole=True)


def _folded(lines: list[Line]) -> tuple[Line, ...]:
    """Return the lines with the number of values in each bracket, and long brackets folded, except the outermost."""
    found = list(lines)
    opened: list[int] = []
    for at, line in enumerate(lines):
        if line.value in _CLOSING:
            start = opened.pop()
            inside = at - start - 1
            if opened and inside > FOLDED_LINES:
                found[start] = replace(found[start], is_folded=True)
            continue
        if opened:
            found[opened[-1]] = replace(found[opened[-1]], items=found[opened[-1]].items + 1)
        if line.value in _OPENING:
            opened.append(at)
    # In one pass: brackets may be nested hundreds deep.
    folded_at: int | None = None
    for at, line in enumerate(found):
        if folded_at is not None and line.depth > folded_at:
            found[at] = replace(line, is_hidden=True)
        else:
            folded_at = line.depth if line.is_folded else None
    return tuple(found)


def _is_json(context: str) -> bool:
    try:
        # Numbers stay text: Python refuses to convert one with very many digits.
        json.loads(context, parse_int=str, parse_float=str, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(text: str) -> object:
    raise ValueError(text)


def _has_paths(context: str) -> bool:
    """True if the paths of a query can lead into the context."""
    try:
        return isinstance(context_value(context), dict)
    except ValueError:
        return False


def _lines(context: str, *, has_paths: bool) -> Iterator[Line]:
    """Yield a line for each value and bracket, and a line with only a comma after each that has one."""
    parts = (match[0] for match in _TOKEN.finditer(context))
    #: For each open bracket: the bracket, and the path of what is in it. None if no query can lead there.
    opened: list[tuple[str, tuple[str, ...] | None]] = []
    key = ""
    pending = next(parts, "")
    while pending:
        part, pending = pending, next(parts, "")
        if part == ",":
            yield Line(len(opened), "", ",")
            continue
        if part in _CLOSING:
            opened.pop()
            yield Line(len(opened), "", part)
            continue
        if pending == ":":
            key, pending = part, next(parts, "")
            continue
        path = _path(opened, key)
        if part in _OPENING:
            if pending == _OPENING[part]:
                yield Line(len(opened), key, part + pending)
                pending = next(parts, "")
            else:
                yield Line(len(opened), key, part)
                opened.append((part, path))
        else:
            yield Line(len(opened), key, part, _term(path, part) if has_paths else None)
        key = ""


def _path(opened: list[tuple[str, tuple[str, ...] | None]], key: str) -> tuple[str, ...] | None:
    """Return the path of the next value. Elements of an array have the array's path, unless it is in another array."""
    if not opened:
        return ()
    bracket, path = opened[-1]
    if path is None:
        return None
    if bracket == "{":
        # A member of an object in an array has no path.
        return None if _is_element(opened) else (*path, str(json.loads(key)))
    return None if _is_element(opened) else path


def _is_element(opened: list[tuple[str, tuple[str, ...] | None]]) -> bool:
    return any(bracket == "[" for bracket, _ in opened[:-1])


def _term(path: tuple[str, ...] | None, part: str) -> Comparison | None:
    if not path or len(path) > MOST_KEYS or len(part) + sum(map(len, path)) > _MOST_ASKED:
        return None
    value: Text | Number | Constant
    if part[0] == '"':
        value = Text(str(json.loads(part)))
    elif part in CONSTANTS:
        value = Constant(part)
    elif NUMBER_OR_CONSTANT.fullmatch(part) and math.isfinite(number(part)):
        value = Number(part)
    else:
        return None
    return Comparison(Path(path), Operator.IS, (value,))
