"""The query language of the event log: what a text means, exactly, so that every store gives the same answer.

docs/query.md explains it to people. `parse` makes a `Query` of a text, `str` prints it again, and `matches`
(towpath.eventlog.query.matching) says for one event whether it is found: each store's own WHERE must agree with that.

Terms
    A query is terms. Side by side, all of them hold; `OR` is weaker, and `-` turns one term or one pair of parentheses
    around. An empty query finds every event. There is no third truth value: what does not match is found by `-`.

Text
    Texts are equal if they have the same code points, and ordered by code points, which is the order of their UTF-8
    bytes. Nothing is normalised, and case counts. `*` in a value stands for any run of characters, which may be empty.

Full text
    A word or "phrase" is found anywhere in the text of `event_context` as it is stored, also inside a longer word. JSON
    is not decoded for it: keys are found as well, and a quotation mark in a value is stored with a backslash before it.
    The letters A to Z equal a to z. No other letter is folded, because stores do not agree about those.

Columns
    Text compares as text. Numbers compare exactly, a column of `Kind.FLOAT` as numbers in paths do. A time is a year
    and month, a day, a minute, a second or a fraction of one, in UTC unless it has an offset: it is the whole of that
    period. `:` means within it, `<` before it, `<=` before its end, `>` from its end on, `>=` from its start on. `has:`
    is for columns of text: not empty.

Paths
    `context.a.b` is the member `b` of the object that is the member `a` of the context. If the value is an array, the
    comparison matches when it does for any element; `has:` looks at the member itself, whatever it holds, null
    included. Objects, and arrays in arrays, match no comparison.

    A quoted value or a pattern compares with strings only, and so does any other value but these: a number without
    quotes equals an equal number and the string that is written like it; `true`, `false` and `null` without quotes
    equal those and the strings. After `<`, `<=`, `>`, `>=`, a number without quotes compares with numbers only,
    anything else with strings only.

    A number without point and exponent that fits into 64 bits, with a sign or without, is compared exactly. A whole
    number beyond is compared as the string of its digits. Every other number is the nearest one of a 64-bit float, in
    the context as in the query. Between the two, the comparison is exact.

    A path that leads nowhere matches nothing, and so does any path in a context that is not JSON (RFC 8259), or has an
    escaped U+0000 or half a surrogate pair.

Not promised, because stores differ: paths in contexts with a key twice in one object, with a number of more than 400
characters or beyond the largest float, with more than 20 levels, or behind a byte order mark.
"""

from towpath.eventlog.query.errors import QueryError
from towpath.eventlog.query.parser import parse
from towpath.eventlog.query.syntax import Query

__all__ = ["Query", "QueryError", "parse"]
