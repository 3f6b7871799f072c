"""Fitting: the rules of `towpath.eventlog.values` in SQL, for PostgreSQL to check values when a window is loaded.

A value that does not fit becomes NULL, which no row may have. So the load sees which rows are at fault, and the others
of the window are written. A text is cast only after its form has shown that the cast cannot fail: an error would fail
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

#: For a text `v` that has the form: the condition for being in range, and the text that the store gets.
_IN_RANGE: Mapping[Kind, tuple[str, str]] = {
    Kind.BOOLEAN: ("true", "v::boolean::text"),
    Kind.WHOLE_NUMBER: (f"v::numeric <= {values.LARGEST}", "v::numeric::bigint::text"),
    Kind.SIGNED_NUMBER: (f"v::numeric BETWEEN {values.SMALLEST} AND {values.LARGEST}", "v::numeric::bigint::text"),
    Kind.DECIMAL: ("true", "v::numeric(38, 9)::text"),
    Kind.FLOAT: (
        f"v::numeric = 0 OR abs(v::numeric) BETWEEN {values.SMALLEST_FLOAT} AND {values.LARGEST_FLOAT}",
        "v::float8::text",
    ),
    Kind.TIME: (
        # The only invalid dates that the form lets pass are the last days of short months.
        "to_char((left(v, 8) || '01')::date + (substr(v, 9, 2)::int - 1), 'YYYY-MM') = left(v, 7)",
        (
            f"CASE WHEN v::timestamptz >= '{values.EARLIEST.isoformat(' ')}'"
            f" AND v::timestamptz < '{values.TOO_LATE.isoformat(' ')}' THEN v::timestamptz::text END"
        ),
    ),
    Kind.UUID: ("true", "lower(v)"),
}

#: The value of a row that lacks one, where a store would return another text for it (`towpath.eventlog.rows`).
_DEFAULTS: Mapping[Kind, str] = {**values.DEFAULTS, Kind.DECIMAL: "0.000000000"}


def fitting(value: Combinable, kind: Kind) -> Combinable:
    """Return the SQL of the text that the store gets: the kind's default for NULL, and NULL for what does not fit."""
    text = Cast(value, TextField())
    if kind not in _IN_RANGE:
        return Coalesce(text, Value(_DEFAULTS[kind]), output_field=TextField())
    is_in_range, given = _IN_RANGE[kind]
    # A table of one row, so that the value and its parameters are in the statement only once.
    return Func(
        text,
        template=(
            f"(SELECT CASE WHEN v IS NULL THEN '{_DEFAULTS[kind]}'"
            f" WHEN v ~ '^(?:{values.PATTERNS[kind]})$' AND length(v) <= {values.MOST_CHARACTERS}"
            f" THEN CASE WHEN {is_in_range} THEN {given} END END FROM (VALUES (%(expressions)s)) AS given (v))"
        ),
        output_field=TextField(),
    )
