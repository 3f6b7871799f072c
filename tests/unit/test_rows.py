"""A window's text: a value that is missing is found wherever it stands."""

from __future__ import annotations

import pytest

from towpath.eventlog.columns import BASE_COLUMNS
from towpath.eventlog.rows import incomplete

_CONTEXT = [column.name for column in BASE_COLUMNS].index("event_context")
_TARGET = len(BASE_COLUMNS)


def _line(number: int, *, context: bytes, target: bytes = b"user:1") -> bytes:
    fields = [b"outbox_event", b"%d" % number, *[b"x"] * (len(BASE_COLUMNS) - 2), target]
    fields[_CONTEXT] = context
    return b"\t".join(fields) + b"\n"


@pytest.mark.parametrize("number_of_bytes", [0, 1, 4000, *range(4060, 4110), 70_000])
def test_a_null_is_found_at_any_distance_from_the_field_before_it(number_of_bytes: int) -> None:
    long = b"y" * number_of_bytes
    rows = _line(1, context=long) + _line(2, context=long, target=rb"\N") + _line(3, context=long)
    assert incomplete(rows) == {("outbox_event", 2): [_TARGET]}
    assert incomplete(_line(1, context=rb"\N") + _line(2, context=long)) == {("outbox_event", 1): [_CONTEXT]}


@pytest.mark.parametrize("value", [rb"\\N", rb"a\\N", rb"\t\\N", rb"\\\\N", b"N"])
def test_a_text_that_looks_like_null_is_a_value(value: bytes) -> None:
    assert incomplete(_line(1, context=value, target=value)) == {}
