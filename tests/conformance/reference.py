"""The form of digests as it is written: the store in memory computes it."""

from __future__ import annotations

from collections.abc import Sequence

from tests.conformance.rows import COLUMNS, OWN_COLUMNS
from tests.conformance.subjects import AnyStore
from towpath.eventlog.stores.memory import MemoryStore, StoredRow


def reference(rows: Sequence[StoredRow]) -> MemoryStore:
    """The store that computes the form as it is written."""
    store = MemoryStore(own_columns=OWN_COLUMNS)
    store.rows = [*rows]
    return store


def same_as_reference(store: AnyStore, *rows: StoredRow) -> bool:
    expected = reference(rows)
    windows = list({row.window_id for row in rows})
    assert store.window_digests(windows, columns=COLUMNS) == expected.window_digests(windows, columns=COLUMNS)
    for window in windows:
        assert store.row_digests(window, columns=COLUMNS) == expected.row_digests(window, columns=COLUMNS)
    return True
