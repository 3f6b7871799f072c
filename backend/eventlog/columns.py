"""The columns of the One Big Table (OBT), in the order in which a window's rows carry them."""

from __future__ import annotations

#: First the row's identity, so that a replay can tell rows apart without reading what follows.
IDENTITY_COLUMNS = ("outbox", "outbox_id")

#: Every column that comes with a row. `written_at` is added by the store.
ROW_COLUMNS = (
    *IDENTITY_COLUMNS,
    "window_id",
    "event_type",
    "event_date_time",
    "environment",
    "metadata_version",
    "event_context",
)
