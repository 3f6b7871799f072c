"""A query (`towpath.eventlog.query`) as a condition on rows of the OBT, in PostgreSQL's SQL. Values are parameters.

A context is cast to json, which keeps numbers as their text. It is cast only if it is known to be JSON: a cast of
anything else would fail the whole statement.
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import TYPE_CHECKING

from towpath.eventlog.columns import Kind
from towpath.eventlog.query import syntax
from towpath.eventlog.query.matching import folded
from towpath.eventlog.query.numbers import (
    LARGEST_WHOLE,
    SMALLEST_WHOLE,
    before_rounding,
    number,
    of_floats,
)
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
from towpath.eventlog.values import nearest

if TYPE_CHECKING:
    from datetime import datetime
    from fractions import Fraction

#: The first major version with pg_input_is_valid.
_KNOWS_VALID_INPUT = 16

#: Most levels of a context that a path can search on an older server.
_MOST_LEVELS = 20
#: Replaces each string while a context is checked. JSON never contains this character unescaped.
_STRING = "\x01"
#: JSON strings, except those with U+0000 or a lone surrogate.
_STRINGS = (
    r'"([^"\\\u0001-\u001f]|\\["\\/bfnrt]|\\u(?!0000|[dD][89a-fA-F])[0-9a-fA-F]{4}'
    r'|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})*"'
)
_SCALARS = r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?|true|false|null"
_SPACE = r"[ \t\n\r]+"
_INNERMOST = rf"\[([0{_STRING}](,[0{_STRING}])*)?\]|\{{({_STRING}:[0{_STRING}](,{_STRING}:[0{_STRING}])*)?\}}"

#: Most characters of a number that is compared, and of a 64-bit whole number.
_MOST_CHARACTERS, _MOST_OF_WHOLE = 400, 20
#: Most digits of a 64-bit float, or of the middle between two.
_MOST_DIGITS = 1200


def where(query: Query, *, server: int = 0) -> tuple[str, dict[str, object]]:
    """Return the condition, which is never NULL, and its parameters, whose names begin with `query_`. `server` is the
    server's major version: from 16 on, paths cost less."""
    compiler = _Compiler(knows_valid_input=server >= _KNOWS_VALID_INPUT)
    sql = "true" if query.term is None else compiler.term(query.term)
    return sql, compiler.parameters


class _Compiler:
    def __init__(self, *, knows_valid_input: bool) -> None:
        self.parameters: dict[str, object] = {}
        self._knows_valid_input = knows_valid_input

    def term(self, term: syntax.Term) -> str:  # noqa: PLR0911 - one for each kind of term
        match term:
            case syntax.All(terms):
                return f"({' AND '.join(map(self.term, terms))})"
            case syntax.Any(terms):
                return any_holds(map(self.term, terms))
            case Not(inner):
                return f"(NOT {self.term(inner)})"
            case FullText(text):
                return f"""(strpos(lower(event_context COLLATE "C"), {self._add(folded(text))}) > 0)"""
            case Has(Path(keys)):
                return self._where_readable(keys, f"({self._place(keys)}) IS NOT NULL")
            case Has(ColumnField(name)):
                return f"({name} <> '')"
            case Comparison(Path(keys), how, values):
                return self._of_path(keys, how, values)
            case Comparison(ColumnField(name, kind), how, values):
                return any_holds(self._of_column(name, kind, how, value) for value in values)
        raise TypeError(term)

    def _add(self, value: str, kind: str = "text") -> str:
        """Return the placeholder of a parameter with this value."""
        for name, known in self.parameters.items():
            if known == value:
                return f"%({name})s::{kind}"
        name = f"query_{len(self.parameters)}"
        self.parameters[name] = value
        return f"%({name})s::{kind}"

    def _of_column(self, name: str, kind: Kind, how: Operator, value: syntax.Value) -> str:  # noqa: PLR0911 - one for each kind
        match value:
            case Period(_, start, end):
                return of_period(name, how, start, end, moment=self._moment)
            case Number(text) if kind is Kind.FLOAT:
                condition = of_floats(how, number(text))
                if isinstance(condition, bool):
                    return str(condition).lower()
                return f"({name} {operator(condition[0])} {self._add(repr(condition[1]), 'double precision')})"
            case Number(text):
                return f"({name}::numeric {operator(how)} {self._add(text, 'numeric')})"
            case Constant(text):
                return f"({name} = {text})"
            case Text(text) if kind is Kind.UUID:
                return f"({name} = {self._add(text, 'uuid')})"
        return self._of_text(name, how, value)

    def _of_text(self, expression: str, how: Operator, value: syntax.Value) -> str:
        match value:
            case Pattern(parts):
                return f"""({expression} COLLATE "C" LIKE {self._add(like(parts))})"""
            case Text(text) if how is Operator.IS:
                return f"({expression} = {self._add(text)})"
            case Text(text):
                return f"""({expression} COLLATE "C" {how} {self._add(text)})"""
        raise TypeError(value)

    def _moment(self, moment: datetime) -> str:
        return self._add(nearest(moment).isoformat(), "timestamptz")

    def _place(self, keys: tuple[str, ...]) -> str:
        return " -> ".join(["event_context::json", *map(self._add, keys)])

    def _where_readable(self, keys: tuple[str, ...], condition: str) -> str:
        """Return the condition, limited to contexts that are JSON. Most contexts do not have the key, and a search for
        its text shows that at little cost: JSON can write the key differently only with a backslash."""
        key = self._add(f'"{keys[0]}"')
        has_key = f"strpos(event_context, {key}) > 0 OR strpos(event_context, chr(92)) > 0"
        return f"(CASE WHEN NOT ({has_key}) THEN false WHEN {self._is_json()} THEN {condition} ELSE false END)"

    def _is_json(self) -> str:
        if self._knows_valid_input:
            return "pg_input_is_valid(event_context, 'jsonb')"
        string = self._add(_STRING)
        text = 'event_context COLLATE "C"'
        for pattern, instead in ((_STRINGS, string), (_SCALARS, "'0'"), (_SPACE, "''")):
            text = f"regexp_replace({text}, {self._add(pattern)}, {instead}, 'g')"
        # Each pass replaces the innermost brackets.
        for _ in range(_MOST_LEVELS):
            text = f"regexp_replace({text}, {self._add(_INNERMOST)}, '0', 'g')"
        return f"strpos(event_context, {string}) = 0 AND {text} IN ('0', {string})"

    def _of_path(self, keys: tuple[str, ...], how: Operator, values: tuple[syntax.Value, ...]) -> str:
        is_one = any_holds(self._of_value(how, value) for value in values)
        # A number is its text here. A whole number beyond 64 bits counts as a string; any other number that is too long
        # matches nothing.
        smallest, largest = self._add(str(SMALLEST_WHOLE), "numeric"), self._add(str(LARGEST_WHOLE), "numeric")
        condition = f"""EXISTS (
            SELECT FROM (SELECT {self._place(keys)}) AS found (value)
            CROSS JOIN LATERAL json_array_elements(
                CASE WHEN json_typeof(value) = 'array' THEN value
                     WHEN value IS NOT NULL THEN json_build_array(value) END
            ) AS element (value)
            CROSS JOIN LATERAL (SELECT json_typeof(element.value), element.value #>> '{{}}') AS plain (type, text)
            CROSS JOIN LATERAL (SELECT CASE
                WHEN type <> 'number' THEN type
                WHEN text ~ '^-?[0-9]+$' THEN CASE
                    WHEN length(ltrim(text, '-')) > {_MOST_OF_WHOLE} THEN 'string'
                    WHEN text::numeric BETWEEN {smallest} AND {largest} THEN 'whole'
                    ELSE 'string' END
                WHEN length(text) <= {_MOST_CHARACTERS} AND text ~ '^[^eE]*([eE][-+]?[0-9]{{1,3}})?$' THEN 'float'
                END) AS known (kind)
            WHERE {is_one}
        )"""
        return self._where_readable(keys, condition)

    def _of_value(self, how: Operator, value: syntax.Value) -> str:
        match value:
            case Number(text):
                wanted = number(text)
                exact = self._add(_decimal(wanted), "numeric")
                whole = f"text::numeric {operator(how)} {exact}"
                string = f"text = {self._add(text)}" if how is Operator.IS else "false"
                return (
                    f"(CASE kind WHEN 'whole' THEN {whole} WHEN 'float' THEN {self._of_float(how, wanted)}"
                    f" WHEN 'string' THEN {string} ELSE false END)"
                )
            case Constant(text):
                kind = "null" if text == "null" else "boolean"
                is_it = "true" if text == "null" else f"text = '{text}'"
                return f"(CASE kind WHEN '{kind}' THEN {is_it} WHEN 'string' THEN text = '{text}' ELSE false END)"
        return f"(CASE kind WHEN 'string' THEN {self._of_text('text', how, value)} ELSE false END)"

    def _of_float(self, how: Operator, wanted: float) -> str:
        condition = of_floats(how, wanted)
        if isinstance(condition, bool):
            return str(condition).lower()
        bounds = before_rounding(*condition)
        return " AND ".join(f"text::numeric {how} {self._add(_decimal(bound), 'numeric')}" for how, bound in bounds)


def _decimal(exact: float | Fraction) -> str:
    """Return all digits of the number, which is a float or the middle between two."""
    numerator, denominator = exact.as_integer_ratio()
    with localcontext() as context:
        context.prec = _MOST_DIGITS
        return format(Decimal(numerator) / Decimal(denominator), "f")
