"""Any rows that a store can hold, for Hypothesis."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from tests.conformance.rows import MOMENT, WINDOW
from towpath.eventlog.columns import Column, Kind, added_columns
from towpath.eventlog.stores.memory import StoredRow

_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
_NUMBER = st.integers(0, 2**63 - 1)
_TIME = st.datetimes(datetime(1900, 1, 1), datetime(2299, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - given above
_KINDS: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.TEXT: _TEXT,
    Kind.LOW_CARDINALITY_TEXT: _TEXT,
    Kind.BOOLEAN: st.booleans(),
    Kind.WHOLE_NUMBER: _NUMBER,
    Kind.SIGNED_NUMBER: st.integers(-(2**63), 2**63 - 1),
    Kind.DECIMAL: st.decimals(-(10**20), 10**20, places=9),
    Kind.FLOAT: st.floats(allow_nan=False, allow_infinity=False),
    Kind.TIME: _TIME,
    Kind.UUID: st.uuids(),
}


def any_rows(own_columns: tuple[Column, ...]) -> st.SearchStrategy[list[StoredRow]]:
    row = st.builds(
        StoredRow,
        outbox=_TEXT,
        outbox_id=_NUMBER,
        window_id=st.just(WINDOW),
        event_type=_TEXT,
        event_date_time=st.sampled_from([MOMENT, MOMENT + timedelta(days=1), datetime(1969, 7, 20, tzinfo=UTC)]),
        environment=_TEXT,
        metadata_version=_NUMBER,
        event_context=_TEXT.map(str.encode),
        added=st.tuples(*(_KINDS[column.kind] for column in added_columns(own_columns))),
    )
    return st.lists(row, min_size=1, max_size=20)
