"""Whether a query finds an event, in Python: what every store's WHERE must agree with."""

from __future__ import annotations

import json
import operator
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from towpath.eventlog.columns import Kind
from towpath.eventlog.query import syntax
from towpath.eventlog.query.numbers import number, whole
from towpath.eventlog.query.operators import Operator
from towpath.eventlog.query.syntax import (
    ColumnField,
    Comparison,
    Constant,
    FullText,
    Has,
    Not,
    Number,
    Path,
    Pattern,
    Period,
    Query,
    Text,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from towpath.eventlog.stored import StoredEvent

#: The meaning of each operator.
COMPARE: dict[Operator, Callable[[Any, Any], bool]] = {
    Operator.IS: operator.eq,
    Operator.BELOW: operator.lt,
    Operator.AT_MOST: operator.le,
    Operator.ABOVE: operator.gt,
    Operator.AT_LEAST: operator.ge,
}
#: Letters that are folded: A to Z.
_FOLDED = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
#: An escape as a whole, so that an escaped backslash does not begin another one.
_NUL = re.compile(r"(?:^|[^\\])(?:\\\\)*\\u0000")
#: Stands for a value that a path does not lead to.
_MISSING = object()


def matches(query: Query, event: StoredEvent) -> bool:
    """True if the query finds the event."""
    return query.term is None or _Event(event).is_found_by(query.term)


def folded(text: str) -> str:
    """Return the text as full-text search compares it."""
    return text.translate(_FOLDED)


def context_value(context: str) -> object:
    """Return the context as paths see it. Raises ValueError if they see nothing in it."""
    if _NUL.search(context):
        raise ValueError("it has U+0000")
    try:
        value = _DECODER.decode(context)
        if "\\u" in context:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise ValueError("it is not JSON") from None
    return value


class _Event:
    """An event whose context is parsed when a path asks for it."""

    def __init__(self, event: StoredEvent) -> None:
        self._event = event
        self._context: object = None
        self._is_read = False

    def is_found_by(self, term: syntax.Term) -> bool:  # noqa: PLR0911 - one for each kind of term
        match term:
            case syntax.All(terms):
                return all(map(self.is_found_by, terms))
            case syntax.Any(terms):
                return any(map(self.is_found_by, terms))
            case Not(inner):
                return not self.is_found_by(inner)
            case FullText(text):
                return folded(text) in folded(self._event.event_context)
            case Has(Path(keys)):
                return self._member(keys) is not _MISSING
            case Has(ColumnField(name)):
                return bool(self._event.value(name))
            case Comparison(Path(keys), how, values):
                found = self._member(keys)
                elements = found if isinstance(found, list) else [found]
                return any(_of_path(one, how, value) for one in elements for value in values)
            case Comparison(ColumnField(name, kind), how, values):
                return any(_of_column(kind, self._event.value(name), how, value) for value in values)
        raise TypeError(term)

    def _member(self, keys: tuple[str, ...]) -> object:
        if not self._is_read:
            try:
                self._context = context_value(self._event.event_context)
            except ValueError:
                self._context = _MISSING
            self._is_read = True
        value = self._context
        for key in keys:
            value = value.get(key, _MISSING) if isinstance(value, dict) else _MISSING
        return value


def _of_column(kind: Kind, held: Any, how: Operator, value: syntax.Value) -> bool:
    match value:
        case Period(_, start, end):
            return _of_period(held, how, start, end)
        case Number(text):
            return COMPARE[how](held, number(text) if kind is Kind.FLOAT else Decimal(text))
        case Constant(text):
            return bool(held) == (text == "true")
        case Pattern(parts):
            return _fits(held, parts)
        case Text(text):
            return COMPARE[how](str(held), text)


def _of_period(held: datetime, how: Operator, start: datetime, end: datetime) -> bool:
    match how:
        case Operator.IS:
            return start <= held < end
        case Operator.BELOW:
            return held < start
        case Operator.AT_MOST:
            return held < end
        case Operator.ABOVE:
            return held >= end
        case Operator.AT_LEAST:
            return held >= start


def _of_path(held: object, how: Operator, value: syntax.Value) -> bool:
    match value:
        case Number(text):
            # In Python a boolean is an int; in JSON it is not a number.
            is_number = isinstance(held, int | float) and not isinstance(held, bool)
            if is_number:
                return COMPARE[how](held, number(text))
            return how is Operator.IS and held == text
        case Constant(text):
            return held == text or held is {"true": True, "false": False, "null": None}[text]
        case Pattern(parts):
            return isinstance(held, str) and _fits(held, parts)
        case Text(text):
            return isinstance(held, str) and COMPARE[how](held, text)
    raise TypeError(value)


def _fits(text: str, parts: tuple[str, ...]) -> bool:
    """Take each part where it is first found: unlike a regular expression, that is linear in the text's length."""
    first, *middle, last = parts
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True


def _whole(text: str) -> int | str:
    exact = whole(text)
    return text if exact is None else exact


def _float(text: str) -> float:
    found = float(text)
    if found in {float("inf"), float("-inf")}:
        raise ValueError("it is beyond the largest float")
    return found


def _refused(text: str) -> object:
    raise ValueError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(parse_int=_whole, parse_float=_float, parse_constant=_refused)
