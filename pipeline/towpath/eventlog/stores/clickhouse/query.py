"""A query (`towpath.eventlog.query`) as a condition on rows of the OBT, in ClickHouse's SQL. Values are parameters.

ClickHouse's JSON functions keep 64-bit whole numbers, treat a larger whole number as a string, and read every other
number as a float. The query language promises the same.
"""

from __future__ import annotations

import struct
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

from towpath.eventlog.columns import Kind
from towpath.eventlog.query import syntax
from towpath.eventlog.query.matching import folded
from towpath.eventlog.query.numbers import LARGEST_WHOLE, SMALLEST_WHOLE, number, of_floats, of_wholes
from towpath.eventlog.query.operators import Operator
from towpath.eventlog.query.sql import any_holds, like, of_period, operator
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
from towpath.eventlog.stores.clickhouse.moments import microseconds
from towpath.eventlog.values import LARGEST, nearest

if TYPE_CHECKING:
    from datetime import datetime

#: The largest Decimal(38, 9), in billionths.
_LARGEST_DECIMAL = 10**38 - 1
#: Names within a condition that no column of a project can have.
_FOUND, _NUMBER = "towpath_found", "towpath_number"
_NUL = "\\u0000"
#: A regular expression for _NUL as an escape: its backslash is not itself escaped by another one.
_ESCAPED_NUL = r"(^|[^\\])(\\\\)*\\u0000"


def where(query: Query) -> tuple[str, dict[str, object]]:
    """Return the condition, which is never NULL, and its parameters, whose names begin with `query_`."""
    compiler = _Compiler()
    sql = "true" if query.term is None else compiler.term(query.term)
    return sql, compiler.parameters


class _Compiler:
    def __init__(self) -> None:
        self.parameters: dict[str, object] = {}

    def term(self, term: syntax.Term) -> str:  # noqa: PLR0911 - one for each kind of term
        match term:
            case syntax.All(terms):
                return f"({' AND '.join(map(self.term, terms))})"
            case syntax.Any(terms):
                return any_holds(map(self.term, terms))
            case Not(inner):
                return f"(NOT {self.term(inner)})"
            case FullText(text):
                return f"(position(lower(event_context), {self._add(folded(text))}) > 0)"
            case Has(Path(keys)):
                return f"({self._is_readable()} AND JSONHas({self._place(keys)}))"
            case Has(ColumnField(name)):
                return f"({name} != '')"
            case Comparison(Path(keys), how, values):
                return self._of_path(self._place(keys), how, values)
            case Comparison(ColumnField(name, kind), how, values):
                return any_holds(self._of_column(name, kind, how, value) for value in values)
        raise TypeError(term)

    def _add(self, value: object) -> str:
        """Return the placeholder of a parameter with this value."""
        for name, known in self.parameters.items():
            if type(known) is type(value) and known == value:
                return f"%({name})s"
        name = f"query_{len(self.parameters)}"
        self.parameters[name] = value
        return f"%({name})s"

    def _of_column(self, name: str, kind: Kind, how: Operator, value: syntax.Value) -> str:
        match value:
            case Period(_, start, end):
                return of_period(name, how, start, end, moment=self._moment)
            case Number(text) if kind is Kind.FLOAT:
                return self._of_floats(name, how, text)
            case Number(text):
                return self._of_exact(name, kind, how, Fraction(text))
            case Constant(text):
                return f"({name} = {text})"
            case Text(text) if kind is Kind.UUID:
                return f"({name} = toUUID({self._add(text)}))"
        return self._of_text(name, how, value)

    def _of_text(self, expression: str, how: Operator, value: syntax.Value) -> str:
        match value:
            case Pattern(parts):
                return f"({expression} LIKE {self._add(like(parts))})"
            case Text(text):
                return f"({expression} {operator(how)} {self._add(text)})"
        raise TypeError(value)

    def _moment(self, moment: datetime) -> str:
        return f"fromUnixTimestamp64Micro(toInt64({self._add(microseconds(nearest(moment)))}), 'UTC')"

    def _of_exact(self, name: str, kind: Kind, how: Operator, wanted: Fraction) -> str:
        if kind is Kind.DECIMAL:
            billions = of_wholes(how, wanted * 10**9, smallest=-_LARGEST_DECIMAL, largest=_LARGEST_DECIMAL)
            if isinstance(billions, bool):
                return str(billions).lower()
            exact = Decimal(billions[1]).as_tuple()
            text = format(Decimal((exact.sign, exact.digits, -9)), "f")
            return f"({name} {operator(billions[0])} toDecimal128({self._add(text)}, 9))"
        is_signed = kind is Kind.SIGNED_NUMBER
        return self._of_wholes(
            name,
            how,
            wanted,
            smallest=SMALLEST_WHOLE if is_signed else 0,
            largest=LARGEST if is_signed else LARGEST_WHOLE,
        )

    def _of_wholes(self, expression: str, how: Operator, wanted: Fraction, *, smallest: int, largest: int) -> str:
        condition = of_wholes(how, wanted, smallest=smallest, largest=largest)
        if isinstance(condition, bool):
            return str(condition).lower()
        return f"({expression} {operator(condition[0])} {self._add(condition[1])})"

    def _of_floats(self, expression: str, how: Operator, text: str) -> str:
        condition = of_floats(how, number(text))
        if isinstance(condition, bool):
            return str(condition).lower()
        # As bits: the server's parser of floats may be off by one in the last place.
        (bits,) = struct.unpack("<Q", struct.pack("<d", condition[1]))
        wanted = f"reinterpretAsFloat64(toUInt64({self._add(bits)}))"
        if condition == (Operator.IS, 0):
            # The server turns several equalities into one IN, for which 0.0 is not equal to -0.0.
            return f"({expression} >= {wanted} AND {expression} <= {wanted})"
        return f"({expression} {operator(condition[0])} {wanted})"

    def _is_readable(self) -> str:
        nul, escaped = self._add(_NUL), self._add(_ESCAPED_NUL)
        return f"(position(event_context, {nul}) = 0 OR NOT match(event_context, {escaped}))"

    def _place(self, keys: tuple[str, ...]) -> str:
        return ", ".join(["event_context", *map(self._add, keys)])

    def _of_path(self, place: str, how: Operator, values: tuple[syntax.Value, ...]) -> str:
        # The path occurs only a few times, however many values there are: a statement is limited to 256 KiB of text.
        parts = _parts(how, values)
        is_array = f"JSONType({place}) = 'Array'"
        numbers = f"range(1, if({is_array}, toUInt32(JSONLength({place})), 0) + 1)"
        elements = f"arrayMap({_NUMBER} -> {_tuple(parts, f'{place}, {_NUMBER}')}, {numbers})"
        found = f"if({is_array}, {elements}, [{_tuple(parts, place)}])"
        is_one = any_holds(self._of_value(parts, how, value) for value in values)
        return f"({self._is_readable()} AND arrayExists({_FOUND} -> {is_one}, {found}))"

    def _of_value(self, parts: list[str], how: Operator, value: syntax.Value) -> str:
        part = {function: f"{_FOUND}.{place}" for place, function in enumerate(parts, 1)}

        def of_type(kind: str, condition: str) -> str:
            return f"({part['JSONType']} = '{kind}' AND {condition})"

        match value:
            case Number(text):
                exact = Fraction(number(text))
                signed = {"smallest": SMALLEST_WHOLE, "largest": LARGEST}
                unsigned = {"smallest": 0, "largest": LARGEST_WHOLE}
                kinds = [
                    of_type("Int64", self._of_wholes(part["JSONExtractInt"], how, exact, **signed)),
                    of_type("UInt64", self._of_wholes(part["JSONExtractUInt"], how, exact, **unsigned)),
                    of_type("Double", self._of_floats(part["JSONExtractFloat"], how, text)),
                ]
                if how is Operator.IS:
                    kinds.append(of_type("String", self._of_text(part["JSONExtractString"], how, Text(text))))
                return any_holds(kinds)
            case Constant(text):
                if text == "null":
                    itself = of_type("Null", part["JSONHas"])
                else:
                    itself = of_type("Bool", f"({part['JSONExtractBool']} = {text})")
                return any_holds([itself, of_type("String", self._of_text(part["JSONExtractString"], how, Text(text)))])
        return of_type("String", self._of_text(part["JSONExtractString"], how, value))


def _parts(how: Operator, values: tuple[syntax.Value, ...]) -> list[str]:
    """Return the functions that the condition needs for a path's value. Each costs the server another look at the
    context."""
    wanted = ["JSONType"]
    if any(isinstance(value, Number) for value in values):
        wanted += ["JSONExtractInt", "JSONExtractUInt", "JSONExtractFloat"]
    if how is Operator.IS or not any(isinstance(value, Number) for value in values):
        wanted.append("JSONExtractString")
    if any(isinstance(value, Constant) for value in values):
        wanted += ["JSONHas", "JSONExtractBool"]
    return wanted


def _tuple(parts: list[str], place: str) -> str:
    return f"tuple({', '.join(f'{function}({place})' for function in parts)})"
