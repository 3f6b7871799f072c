"""Fitting: what `towpath.eventlog.values` says of a column's value, as PostgreSQL judges it when a window is loaded.

A value that does not fit becomes NULL, which no row may have: so the load sees which rows are at fault, and the others
of the window are written. No cast is tried on a text before its form has shown that it cannot fail: an error would take
the whole window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db.models import Func, TextField, Value
from django.db.models.functions import Cast, Coalesce

from towpath.eventlog import values
from towpath.eventlog.columns import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from django.db.models.expressions import Combinable

#: Of a text `v` that has the form: the condition under which it is in range, and the text that a store is given.
_IN_RANGE: Mapping[Kind, tuple[str, str]] = {
    Kind.BOOLEAN: ("true", "v::boolean::text"),
    Kind.WHOLE_NUMBER: (f"v::numeric <= {values.LARGEST}", "v::bigint::text"),
    Kind.SIGNED_NUMBER: (f"v::numeric BETWEEN {values.SMALLEST} AND {values.LARGEST}", "v::bigint::text"),
    Kind.DECIMAL: ("true", "v::numeric(38, 9)::text"),
    Kind.FLOAT: (
        f"v::numeric = 0 OR abs(v::numeric) BETWEEN {values.SMALLEST_FLOAT} AND {values.LARGEST_FLOAT}",
        "v::float8::text",
    ),
    Kind.TIME: (
        # The last days of short months are the only ones that the form lets pass.
        "to_char((left(v, 8) || '01')::date + (substr(v, 9, 2)::int - 1), 'YYYY-MM') = left(v, 7)",
        (
            f"CASE WHEN v::timestamptz >= '{values.EARLIEST.isoformat(' ')}'"
            f" AND v::timestamptz < '{values.TOO_LATE.isoformat(' ')}' THEN v::timestamptz::text END"
        ),
    ),
    Kind.UUID: ("true", "lower(v)"),
}

#: What a row without a value is given, where a store would give back another text of it (`towpath.eventlog.rows`).
_DEFAULTS: Mapping[Kind, str] = {**values.DEFAULTS, Kind.DECIMAL: "0.000000000"}


def fitting(value: Combinable, kind: Kind) -> Combinable:
    """The text that a store is given: the kind's default for NULL; NULL for what does not fit."""
    text = Cast(value, TextField())
    if kind not in _IN_RANGE:
        return Coalesce(text, Value(_DEFAULTS[kind]), output_field=TextField())
    is_in_range, given = _IN_RANGE[kind]
    # As a table of one row, so that the value, and its parameters, stand in the statement once.
    return Func(
        text,
        template=(
            f"(SELECT CASE WHEN v IS NULL THEN '{_DEFAULTS[kind]}'"
            f" WHEN v ~ '^(?:{values.PATTERNS[kind]})$' AND length(v) <= {values.MOST_CHARACTERS}"
            f" THEN CASE WHEN {is_in_range} THEN {given} END END FROM (VALUES (%(expressions)s)) AS given (v))"
        ),
        output_field=TextField(),
    )
