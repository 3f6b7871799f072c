"""Write: one insert of the window, idempotent by its id; from the second attempt on, only what is missing.

The store drops a second insert with the same token, as long as it remembers the token. It forgets in time, and some
stores remember a token whose rows were lost. So an attempt after the first never trusts the token alone: it reads back
what is stored before and after.

When the store refuses the window, it is halved until the rows at fault stand alone; the others are written. The halves
are always cut at the same places and their tokens name the cut, so that an old owner that wakes up in the middle writes
under the same tokens as the new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from backend.eventlog.errors import OutcomeUnknown, RowsRefused
from pipeline import stages
from pipeline.errors import SchemaRefused
from pipeline.window import RefusedRow

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backend.eventlog.store import EventStore
    from pipeline.load import LoadedWindow
    from pipeline.window import SealedWindow

log = structlog.get_logger()

#: More refused rows than one in this many are taken for a fault of the schema, not of the rows.
_REFUSED_SHARE = 10


def write(
    store: EventStore, window: SealedWindow, loaded: LoadedWindow, *, mark_halved: Callable[[], None]
) -> Sequence[RefusedRow]:
    """Returns when the store holds every loaded row of the window, once, on disk, but for the refused ones returned.

    `mark_halved` records in the ledger that the window is written by halves from now on, before the first half is.

    Raises:
      StoreUnavailable, OutcomeUnknown: some rows may be written; the next attempt reads back which.
      SchemaRefused: the store refuses more than a tenth of the rows.
    """
    if window.attempts <= 1:
        return _insert(store, window, loaded, stored=set(), mark_halved=mark_halved)
    lines = _lines(loaded.rows)
    stored = store.read_back(window.id)
    refused: Sequence[RefusedRow] = ()
    if _not_in(stored, lines):
        if window.is_halved:
            refused = _insert_halves(store, window, lines, stored=stored)
        else:
            refused = _insert(store, window, loaded, stored=stored, mark_halved=mark_halved)
        stored = store.read_back(window.id)
    dead = {(row.outbox, row.row_id) for row in refused}
    if missing := _not_in(stored | dead, lines):
        _replace_missing(store, window, missing)
    return refused


def _replace_missing(store: EventStore, window: SealedWindow, missing: list[bytes]) -> None:
    """For a store that remembers the token, but not the rows.

    Every owner walks through the same tokens in the same order, each of which the store drops unless its rows are
    lost, too: so two owners that find the same rows missing store them once. The next attempt has one token more.
    """
    for series in range(1, window.attempts + 1):
        log.warning("rows_missing_behind_token", window=str(window.id), rows=len(missing), series=series)
        try:
            with stages.insert():
                store.write(b"".join(missing), row_count=len(missing), token=f"{window.id}:{series}")
        except RowsRefused as error:
            raise OutcomeUnknown(f"rows that it took before are refused now: {error}") from error
        missing = _not_in(store.read_back(window.id), missing)
        if not missing:
            return
    raise OutcomeUnknown(f"the event store does not show {len(missing)} of the window's rows")


def _insert(
    store: EventStore,
    window: SealedWindow,
    loaded: LoadedWindow,
    *,
    stored: set[tuple[str, int]],
    mark_halved: Callable[[], None],
) -> Sequence[RefusedRow]:
    """The window, or what is missing of it, under the window's own token.

    An earlier owner's late insert of the whole window may still be on its way: the token takes care of it. What is
    missing is all of the window or whole months of it, for each of which the store keeps the token.
    """
    rows, row_count = loaded.rows, loaded.row_count
    if stored:
        missing = _not_in(stored, _lines(rows))
        rows, row_count = b"".join(missing), len(missing)
    try:
        with stages.insert():
            store.write(rows, row_count=row_count, token=str(window.id))
    except RowsRefused as error:
        log.warning("window_refused", window=str(window.id), rows=row_count, error=str(error))
        if loaded.row_count == 1:
            return [RefusedRow(*_identity(rows), str(error))]
        # Before the first half: whoever takes the window over must not write it as a whole any more, because the
        # halves have tokens of their own.
        mark_halved()
        return _insert_halves(store, window, _lines(loaded.rows), stored=stored)
    return ()


def _insert_halves(
    store: EventStore, window: SealedWindow, lines: list[bytes], *, stored: set[tuple[str, int]]
) -> Sequence[RefusedRow]:
    """Level by level, so that a fault of the schema shows before every row has been tried by itself."""
    most_refused = max(1, len(lines) // _REFUSED_SHARE)
    refused: list[RefusedRow] = []
    ranges = [(0, len(lines))]
    while ranges:
        halves = [half for low, high in ranges for half in ((low, (low + high) // 2), ((low + high) // 2, high))]
        ranges = []
        refused_ranges = 0
        for low, high in halves:
            part = lines[low:high]
            # As for the window: what is missing of a range goes under the range's own token.
            missing = _not_in(stored, part)
            if missing and (error := _refusal(store, missing, token=f"{window.id}:{low}-{high}")):
                if len(part) == 1:
                    refused.append(RefusedRow(*_identity(part[0]), str(error)))
                else:
                    ranges.append((low, high))
                    refused_ranges += 1
                # Each of these ranges holds at least one row at fault.
                if len(refused) + refused_ranges > most_refused:
                    raise SchemaRefused(f"more than {most_refused} of {len(lines)} rows: {error}") from error
    return refused


def _refusal(store: EventStore, lines: list[bytes], *, token: str) -> RowsRefused | None:
    try:
        with stages.insert():
            store.write(b"".join(lines), row_count=len(lines), token=token)
    except RowsRefused as error:
        return error
    return None


def _not_in(stored: set[tuple[str, int]], lines: list[bytes]) -> list[bytes]:
    return [line for line in lines if _identity(line) not in stored]


def _lines(rows: bytes) -> list[bytes]:
    return rows.splitlines(keepends=True)


def _identity(line: bytes) -> tuple[str, int]:
    """(outbox, outbox_id): the first two columns of COPY text."""
    outbox, outbox_id, _ = line.split(b"\t", 2)
    return outbox.decode(), int(outbox_id)
