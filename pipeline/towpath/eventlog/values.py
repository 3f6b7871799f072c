"""What fits into a column of a kind: the same for every store, so that no store gets a value that it would cut or wrap.

Some stores do that silently: they keep the last 64 bits of a number that is too large, and drop surplus decimal places.
So `publish()` and `bind()` check a value where it comes from. It is checked again when a window is loaded
(`towpath.flow.fitting`), because other programs insert rows as well.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

from towpath.eventlog.columns import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: The value of a row that lacks one, as COPY text.
DEFAULTS: Mapping[Kind, str] = {
    Kind.TEXT: "",
    Kind.LOW_CARDINALITY_TEXT: "",
    Kind.BOOLEAN: "false",
    Kind.WHOLE_NUMBER: "0",
    Kind.SIGNED_NUMBER: "0",
    Kind.DECIMAL: "0",
    Kind.FLOAT: "0",
    Kind.TIME: "1970-01-01 00:00:00+00",
    Kind.UUID: "00000000-0000-0000-0000-000000000000",
}

#: What fits, in words. Any text fits into the other kinds.
IN_WORDS: Mapping[Kind, str] = {
    Kind.BOOLEAN: "true or false",
    Kind.WHOLE_NUMBER: "a whole number from 0 to 9223372036854775807",
    Kind.SIGNED_NUMBER: "a whole number from -9223372036854775808 to 9223372036854775807",
    Kind.DECIMAL: "a number with at most 29 digits before the point and 9 after it",
    Kind.FLOAT: "a finite number",
    Kind.TIME: "a time with a time zone, of the years 1900 to 2299",
    Kind.UUID: "a UUID",
}

#: The forms, as regular expressions that mean the same in Python and PostgreSQL. A text that matches may still be out
#: of range. Without a backslash, which PostgreSQL's standard_conforming_strings may take out.
PATTERNS: Mapping[Kind, str] = {
    Kind.BOOLEAN: "true|false|True|False|t|f|1|0",
    # 5.00 is a whole number, as a column of decimals has it.
    Kind.WHOLE_NUMBER: r"[0-9]{1,19}(?:[.]0+)?",
    Kind.SIGNED_NUMBER: r"-?[0-9]{1,19}(?:[.]0+)?",
    Kind.DECIMAL: r"-?[0-9]{1,29}(?:[.][0-9]{1,9}0*)?",
    Kind.FLOAT: r"-?[0-9]+(?:[.][0-9]*)?(?:[eE][-+]?[0-9]{1,3})?",
    Kind.TIME: (
        "(?:19|2[0-2])[0-9]{2}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
        r"[T ](?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:[.][0-9]{1,6})?(?:Z|[-+](?:0[0-9]|1[0-4])(?::?[0-5][0-9])?)"
    ),
    Kind.UUID: "[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}",
}
#: The most characters of a value that is not TEXT or LOW_CARDINALITY_TEXT.
MOST_CHARACTERS = 400

#: The range of a signed 64-bit integer. PostgreSQL has no unsigned ones.
SMALLEST, LARGEST = -(2**63), 2**63 - 1
#: The limits of a 64-bit float, as decimals that do not exceed them.
SMALLEST_FLOAT, LARGEST_FLOAT = "5e-324", "1.7976931348623157e308"
#: The times that every event store can hold: the narrowest one begins in 1900 and ends before 2300.
EARLIEST, TOO_LATE = datetime(1900, 1, 1, tzinfo=UTC), datetime(2300, 1, 1, tzinfo=UTC)
#: Where steps of time, and times as numbers, begin.
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: Stands for the window of what has none: a dead letter that was in no window, the proof of a dropped month, and rows
#: whose window somebody has set to NULL.
NO_WINDOW = UUID(int=0)


def nearest(moment: datetime) -> datetime:
    """Return the moment, or the nearest one that bounds a range of times that every event store can hold."""
    return min(max(moment, EARLIEST), TOO_LATE)


def as_text(value: object) -> str:
    """Return the text as which a value is bound, and compared with what fits."""
    match value:
        case bool():
            return "true" if value else "false"
        case Decimal():
            return format(value, "f")
        case datetime():
            return value.isoformat()
    return str(value)


def parse(kind: Kind, text: str) -> Any:
    """Return the value of a text, as a store returns it. Raises ValueError, which does not quote the text, if it does
    not fit."""
    pattern = PATTERNS.get(kind)
    if pattern is None:
        return text
    if len(text) <= MOST_CHARACTERS and re.fullmatch(pattern, text):
        try:
            value = _PARSERS[kind](text)
        except ArithmeticError:
            value = None
        if value is not None:
            return value
    raise ValueError(f"it is not {IN_WORDS[kind]}")


def _whole_number(text: str) -> int | None:
    number = int(text.partition(".")[0])
    return number if SMALLEST <= number <= LARGEST else None


def _float(text: str) -> float | None:
    exact = abs(Decimal(text))
    is_held = exact == 0 or Decimal(SMALLEST_FLOAT) <= exact <= Decimal(LARGEST_FLOAT)
    return float(text) if is_held else None


def _time(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if EARLIEST <= moment < TOO_LATE else None


_PARSERS: Mapping[Kind, Callable[[str], Any]] = {
    Kind.BOOLEAN: lambda text: text[0] in "tT1",
    Kind.WHOLE_NUMBER: _whole_number,
    Kind.SIGNED_NUMBER: _whole_number,
    Kind.DECIMAL: Decimal,
    Kind.FLOAT: _float,
    Kind.TIME: _time,
    Kind.UUID: UUID,
}
