"""Write: one insert of the window, idempotent by its id; from the second attempt on, only what is missing.

The store drops a second insert with the same token, as long as it remembers the token. It forgets in time, and some
stores remember a token whose rows were lost. So an attempt after the first never trusts the token alone: it reads back
what is stored before and after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from backend.eventlog.errors import OutcomeUnknown

if TYPE_CHECKING:
    from backend.eventlog.store import EventStore
    from pipeline.load import LoadedWindow
    from pipeline.window import SealedWindow

log = structlog.get_logger()


def write(store: EventStore, window: SealedWindow, loaded: LoadedWindow) -> None:
    """Returns when the store holds every loaded row of the window, once, on disk.

    Raises StoreUnavailable, OutcomeUnknown or RowsRefused; after the first and the last, nothing new was written.
    """
    if window.attempts <= 1:
        store.write(loaded.rows, row_count=loaded.row_count, token=str(window.id))
        return
    stored = store.read_back(window.id)
    if len(stored) < loaded.row_count:
        # With the window's own token: half of it may be stored (a window over two months is two inserts to the
        # store), and a late insert of an earlier owner may still be on its way. The token takes care of both.
        store.write(loaded.rows, row_count=loaded.row_count, token=str(window.id))
        stored = store.read_back(window.id)
    if len(stored) < loaded.row_count:
        # The store remembers the token, but not the rows.
        missing = _lines_not_in(loaded.rows, stored)
        log.warning("rows_missing_behind_token", window=str(window.id), rows=len(missing))
        store.write(b"".join(missing), row_count=len(missing), token=f"{window.id}:{window.attempts}")
        stored = store.read_back(window.id)
    if len(stored) < loaded.row_count:
        raise OutcomeUnknown(f"the event store shows {len(stored)} of the window's {loaded.row_count} rows")


def _lines_not_in(rows: bytes, stored: set[tuple[str, int]]) -> list[bytes]:
    """The lines of COPY text whose identity (the first two columns) is not among the stored."""
    missing = []
    for line in rows.splitlines(keepends=True):
        outbox, outbox_id, _ = line.split(b"\t", 2)
        if (outbox.decode(), int(outbox_id)) not in stored:
            missing.append(line)
    return missing
