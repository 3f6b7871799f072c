"""From a text to a query, by recursive descent: one function for each rule of the grammar.

    query      = [ any ]
    any        = all { "OR" all }
    all        = one { [ "AND" ] one }
    one        = ( "-" | "NOT" ) one | "(" any ")" | phrase | "has:" field | field operator values | word
    field      = name | "context" "." key { "." key }
    operator   = ":" | "<" | "<=" | ">" | ">="
    values     = value { "," value }
    value      = any row of bare characters, "*" and phrases
    phrase     = quotation mark, any characters with \\" \\\\ \\u000a \\u000d as escapes, quotation mark

A text costs no more than its length: what it can hold is limited, and no rule goes back.
"""

from __future__ import annotations

import difflib
import re
from typing import NoReturn
from uuid import UUID

from towpath.eventlog.columns import Column, FromPipeline, Kind, row_columns
from towpath.eventlog.query.errors import QueryError
from towpath.eventlog.query.numbers import NUMBER, number
from towpath.eventlog.query.operators import Operator
from towpath.eventlog.query.periods import period
from towpath.eventlog.query.syntax import (
    AND,
    CONSTANTS,
    CONTEXT,
    ESCAPES,
    NOT,
    NUMBER_OR_CONSTANT,
    OR,
    ColumnField,
    Comparison,
    Constant,
    Field,
    FullText,
    Has,
    Not,
    Number,
    Path,
    Pattern,
    Query,
    Term,
    Text,
    Value,
    all_of,
    any_of,
    quoted,
)

#: The most characters of the text: more is not read.
MOST_CHARACTERS = 4000
#: How deep parentheses and negations may be nested.
MOST_DEPTH = 20
#: The most words and values together: each is a condition of the statement that searches the store.
MOST_TERMS = 100
#: Of a path.
MOST_KEYS = 10

#: Short names, unless the project has a column of that name.
ALIASES = {"type": "event_type", "time": "event_date_time", "env": "environment"}

_SPACE = re.compile(r"\s*")
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_KEY = r"""\.(?:"(?:[^"\\]|\\.)*"|[^\s.:<>=!,()"*\\]+)"""
_FIELD = re.compile(rf"({_NAME})((?:{_KEY})*)", re.DOTALL)
_EACH_KEY = re.compile(_KEY, re.DOTALL)
_OPERATOR = re.compile(r"<=|>=|!=|[:<>=]")
_BARE = re.compile(r"""[^\s()",*]+""")
_WORD = re.compile(r"""[^\s()"]+""")
_PHRASE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
#: Up to a backslash that escapes something else.
_OTHER_ESCAPE = re.compile(r'(?:[^\\]|\\(?:["\\]|u000[ad]))*\\(?!["\\]|u000[ad])', re.IGNORECASE)
_ESCAPE = re.compile(r'\\(["\\]|u000[ad])', re.IGNORECASE)
_ESCAPED = {escape: character for character, escape in ESCAPES.items()}
_LONE_MINUS = re.compile(r"-(?:[\s)]|\Z)")
_KEYWORD = re.compile(rf"({AND}|{OR}|{NOT})(?![^\s()\"])")
#: Characters that no store's text can hold, and that UTF-8 does not have.
_NEVER = re.compile("[\0\ud800-\udfff]")

#: The most characters of a value in a message.
_SHOWN = 40

#: The store's own, which comes with no row.
_WRITTEN_AT = Column("written_at", Kind.TIME, FromPipeline())
_TEXTS = frozenset({Kind.TEXT, Kind.LOW_CARDINALITY_TEXT})
_NUMBERS = frozenset({Kind.WHOLE_NUMBER, Kind.SIGNED_NUMBER, Kind.DECIMAL, Kind.FLOAT})
_WITHOUT_ORDER = frozenset({Kind.BOOLEAN, Kind.UUID})
_FORMS = {
    **dict.fromkeys(_NUMBERS, "a number, such as 10 or -2.5"),
    Kind.BOOLEAN: "true or false",
    Kind.TIME: "a time, such as 2026-11-26 or 2026-11-26T14:05:00+01:00",
    Kind.UUID: "a UUID",
}


def parse(text: str, *, columns: tuple[Column, ...] = ()) -> Query:
    """Return the query of the text. `columns` are the project's own. Raises QueryError."""
    return Query(_Parser(text, columns).whole())


class _Parser:
    def __init__(self, text: str, own: tuple[Column, ...]) -> None:
        self._text = text
        self._at = 0
        self._depth = 0
        self._terms = 0
        self._columns = {column.name: column for column in (*row_columns(own), _WRITTEN_AT)}

    def whole(self) -> Term | None:
        if len(self._text) > MOST_CHARACTERS:
            self._fail(
                f"The query has {len(self._text):,} characters. Shorten it to {MOST_CHARACTERS:,}.", MOST_CHARACTERS
            )
        if found := _NEVER.search(self._text):
            self._fail("No stored text has this character. Remove it.", found.start())
        self._skip_space()
        if self._is_at_end():
            return None
        term = self._any()
        if not self._is_at_end():
            self._fail("This ) closes nothing. Remove it, or add a ( before it.")
        return term

    def _any(self) -> Term:
        terms = [self._all()]
        while self._takes(OR):
            terms.append(self._all())
        return any_of(terms)

    def _all(self) -> Term:
        terms = [self._one()]
        while not self._is_at_end() and self._next() != ")" and not self._is_keyword(OR):
            self._takes(AND)
            terms.append(self._one())
        return all_of(terms)

    def _one(self) -> Term:
        start = self._at
        if self._is_at_end():
            self._fail("The query ends where a term is expected. Write one, such as type:user_created.")
        if self._is_keyword(OR) or self._is_keyword(AND):
            word = OR if self._is_keyword(OR) else AND
            self._fail(f'{word} needs a term on each side. Write one before it, or "{word}" to search for the word.')
        if self._takes(NOT) or self._takes_minus():
            self._deepen(start)
            term = Not(self._one())
            self._depth -= 1
            return term
        if self._next() == "(":
            return self._group()
        if self._next() == ")":
            self._fail("A term is missing before this ). Write one, or remove the parentheses.")
        self._count()
        if self._next() == '"':
            term_of_phrase = FullText(self._not_empty(self._phrase(), start))
            self._skip_space()
            return term_of_phrase
        return self._field_or_word()

    def _group(self) -> Term:
        start = self._at
        self._deepen(start)
        self._at += 1
        self._skip_space()
        term = self._any()
        if self._is_at_end():
            self._fail("This ( is never closed. Add a ) after it.", start)
        self._at += 1
        self._depth -= 1
        self._skip_space()
        return term

    def _field_or_word(self) -> Term:
        start = self._at
        found = _FIELD.match(self._text, start)
        how = found and _OPERATOR.match(self._text, found.end())
        if not found or not how:
            return self._word()
        if found[0] == "has" and how[0] == ":":
            self._at = how.end()
            return self._has()
        if how[0] in {"=", "!="}:
            instead = f"{found[0]}:value" if how[0] == "=" else f"-{found[0]}:value"
            self._fail(f"{how[0]} is not an operator. Write {instead}.", how.start())
        field = self._field(found)
        self._at = how.end()
        term = self._comparison(field, Operator(how[0]))
        self._skip_space()
        return term

    def _has(self) -> Term:
        found = _FIELD.match(self._text, self._at)
        if not found:
            self._fail("has: needs a path or a column. Write has:context.email, for example.")
        field = self._field(found)
        if isinstance(field, ColumnField) and field.kind not in _TEXTS:
            self._fail(f"{field.name} has a value in every event. Leave has:{found[0]} out.")
        self._at = found.end()
        if not self._is_at_end() and not re.match(r"[\s()]", self._next()):
            self._fail(f"has:{found[0]} takes nothing after it. Write a space, or OR and another has:.")
        self._skip_space()
        return Has(field)

    def _field(self, found: re.Match[str]) -> Field:
        name, rest = found[1], found[2]
        if name == CONTEXT and rest:
            keys = list(_EACH_KEY.finditer(self._text, found.start(2), found.end(2)))
            if len(keys) > MOST_KEYS:
                self._fail(f"The path has {len(keys)} keys. Shorten it to {MOST_KEYS}.", found.start())
            return Path(tuple(self._key(key) for key in keys))
        if rest:
            self._fail(
                f"{found[0]} is not a column. Write {CONTEXT}.{found[0]} for a path in the context,"
                " or put the text in quotes to search for it.",
                found.start(),
            )
        column = self._columns.get(name) or self._columns.get(ALIASES.get(name, ""))
        if column is None:
            self._fail(f"There is no column {name}. {self._suggested(name)}", found.start())
        return ColumnField(column.name, column.kind)

    def _key(self, found: re.Match[str]) -> str:
        key = found[0][1:]
        return self._unquoted(key[1:-1], found.start() + 2) if key[0] == '"' else key

    def _suggested(self, name: str) -> str:
        if name == CONTEXT:
            return f"Write {CONTEXT}.key for a path, or a word without {CONTEXT}: to search the whole context."
        close = difflib.get_close_matches(name, [*ALIASES, *self._columns], n=1)
        meant = f"Did you mean {close[0]}? Otherwise write" if close else "Write"
        return f"{meant} {CONTEXT}.{name} for a path in the context, or put the text in quotes to search for it."

    def _comparison(self, field: Field, how: Operator) -> Comparison:
        values = [self._value(field, how)]
        while not self._is_at_end() and self._next() == ",":
            if how is not Operator.IS:
                self._fail(f"{how} takes one value. Write the others with : or with OR.")
            self._at += 1
            self._count()
            values.append(self._value(field, how))
        return Comparison(field, how, tuple(values))

    def _value(self, field: Field, how: Operator) -> Value:
        start = self._at
        parts, is_quoted = self._parts()
        if self._at == start:
            self._fail(f'A value is missing after {field}{how}. Write one, or "" for an empty one.')
        if not is_quoted and self._text[start] in "<>=":
            first = self._text[start]
            self._fail(f"A value cannot begin with {first}. Write {field}>10, or put the value in quotes.", start)
        if len(parts) > 1:
            if how is not Operator.IS:
                self._fail(f'{how} takes no pattern. Remove the *, or put it in quotes: "*".', start)
            if isinstance(field, ColumnField) and field.kind not in _TEXTS:
                self._fail(f"{field.name} takes no pattern. Write {_FORMS[field.kind]}.", start)
            return Pattern(parts)
        if isinstance(field, Path):
            return self._value_of_path(parts[0], how, start, is_quoted=is_quoted)
        return self._value_of_column(field, parts[0], how, start)

    def _value_of_path(self, text: str, how: Operator, start: int, *, is_quoted: bool) -> Value:
        if is_quoted or not NUMBER_OR_CONSTANT.fullmatch(text):
            return Text(text)
        if text in CONSTANTS:
            if how is not Operator.IS:
                self._fail(f"{text} has no order. Write :{text}, or put it in quotes to compare text.", start)
            return Constant(text)
        return self._number(text, start)

    def _value_of_column(self, field: ColumnField, text: str, how: Operator, start: int) -> Value:
        kind = field.kind
        if kind in _TEXTS:
            return Text(text)
        if kind in _WITHOUT_ORDER and how is not Operator.IS:
            self._fail(f"{field.name} has no order. Write {field.name}:{text}.", start)
        try:
            value = _of_kind(kind, text)
        except ValueError:
            self._fail(f"{field.name} cannot hold {_brief(text)}. Write {_FORMS[kind]}.", start)
        return self._number(text, start) if isinstance(value, Number) else value

    def _number(self, text: str, start: int) -> Number:
        if abs(number(text)) == float("inf"):
            self._fail("The number is beyond the largest float. Put it in quotes to compare text.", start)
        return Number(text)

    def _parts(self) -> tuple[tuple[str, ...], bool]:
        """Return the texts between the `*` of a value, and whether any of it is in quotes."""
        parts, is_quoted = [""], False
        while not self._is_at_end():
            if self._next() == '"':
                parts[-1] += self._phrase()
                is_quoted = True
            elif self._next() == "*":
                self._at += 1
                # Two side by side are one.
                if len(parts) == 1 or parts[-1]:
                    parts.append("")
            elif found := _BARE.match(self._text, self._at):
                parts[-1] += found[0]
                self._at = found.end()
            else:
                break
        return tuple(parts), is_quoted

    def _word(self) -> Term:
        start = self._at
        found = _WORD.match(self._text, start)
        # There is at least one character, and it does not end a word.
        word = found[0] if found else ""
        for character, why in (
            ("*", "A word also matches inside longer words: leave the * out"),
            (",", f"A comma does not separate words: write a space for both, {OR} for either"),
        ):
            if character in word:
                self._fail(f"{why}, or put the text in quotes to search for it.", start + word.index(character))
        self._at = start + len(word)
        self._skip_space()
        return FullText(word)

    def _phrase(self) -> str:
        start = self._at
        found = _PHRASE.match(self._text, start)
        if not found:
            self._fail('This " is never closed. Add another one after the text. Inside the text, write \\".')
        self._at = found.end()
        return self._unquoted(found[1], start + 1)

    def _unquoted(self, text: str, start: int) -> str:
        """Return the text between two quotation marks, which begins at `start`."""
        wrong = _OTHER_ESCAPE.match(text)
        if wrong:
            at = start + wrong.end() - 1
            self._fail('In quotes, a \\ may only come before " or \\. Write \\\\ for a backslash.', at)
        return _ESCAPE.sub(lambda found: _ESCAPED[found[1].lower()], text)

    def _not_empty(self, phrase: str, start: int) -> str:
        if not phrase:
            self._fail("The quotes are empty. Write a word between them, or remove them.", start)
        return phrase

    def _is_at_end(self) -> bool:
        return self._at == len(self._text)

    def _next(self) -> str:
        return self._text[self._at]

    def _skip_space(self) -> None:
        found = _SPACE.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _is_keyword(self, word: str) -> bool:
        found = _KEYWORD.match(self._text, self._at)
        return found is not None and found[1] == word

    def _takes(self, word: str) -> bool:
        if not self._is_keyword(word):
            return False
        self._at += len(word)
        self._skip_space()
        return True

    def _takes_minus(self) -> bool:
        if self._next() != "-":
            return False
        if _LONE_MINUS.match(self._text, self._at):
            self._fail('This - has no term after it. Write -type:user_created, or "-" to search for the character.')
        self._at += 1
        return True

    def _deepen(self, start: int) -> None:
        self._depth += 1
        if self._depth > MOST_DEPTH:
            self._fail(f"Parentheses and negations are nested more than {MOST_DEPTH} deep. Remove some of them.", start)

    def _count(self) -> None:
        self._terms += 1
        if self._terms > MOST_TERMS:
            self._fail(f"The query has more than {MOST_TERMS} words and values. Split it.")

    def _fail(self, message: str, position: int | None = None) -> NoReturn:
        raise QueryError(message, text=self._text, position=self._at if position is None else position)


def _of_kind(kind: Kind, text: str) -> Value:
    """Return the value of a column that is not text. Raises ValueError."""
    if kind is Kind.TIME:
        return period(text.replace(" ", "T"))
    if kind is Kind.UUID:
        return Text(str(UUID(text)))
    if kind is Kind.BOOLEAN and text in {"true", "false"}:
        return Constant(text)
    if kind in _NUMBERS and re.fullmatch(NUMBER, text):
        return Number(text)
    raise ValueError(kind)


def _brief(text: str) -> str:
    return quoted(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")
