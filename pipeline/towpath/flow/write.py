"""Write: a window into the event store, idempotent by its id; whatever goes wrong, only what is missing is sent again.

A window is one insert under its own token. The store drops a second insert with the same token, as long as it
remembers the token. It forgets in time, and some stores remember a token whose rows were lost. So an attempt after the
first never trusts the token alone: it reads back what is stored before and after. The same holds for every answer that
is not a success: an error does not prove that nothing was written.

What does not arrive as a whole is written in parts: cut in two, again and again, until the rows at fault stand alone or
the parts are small enough. The cuts are always at the same places, and a part's token names them. An owner sends a part
only when the token of the whole it was cut from is used up: by that whole, or by a few of its rows. So of two owners
that work at one window, one's insert of the whole and the other's inserts of its parts are never both taken.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import structlog

from towpath.eventlog import rows
from towpath.eventlog.errors import (
    EventStoreError,
    OutcomeUnknown,
    RowsRefused,
    StoreUnavailable,
    WriteRefused,
    WriteTooLarge,
)
from towpath.ledger.windows import RefusedRow
from towpath.telemetry import report

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from towpath.eventlog.rows import Identity
    from towpath.eventlog.store import EventStore
    from towpath.flow.load import LoadedWindow
    from towpath.ledger.windows import SealedWindow
    from towpath.telemetry.metrics import InsertOutcome

log = structlog.get_logger()

#: Refused inserts of one attempt, at most: what is not told apart by then waits in a window of its own, so that the
#: good rows of this one are stored within a lease.
_MOST_REFUSALS = 200
#: As long as the store has taken no row at all, its table may be at fault, and trying each row would only load it:
#: on the first attempt enough to find a good row among bad ones, afterwards just enough to see whether that is over.
_MOST_REFUSALS_UNPROVEN = 60
_MOST_REFUSALS_AGAIN = 5
#: Rows of a month that are tried without an answer, before the others wait for the next attempt.
_MOST_UNANSWERED = 3
#: An insert that gets no answer time after time may be too large for something on the way: from this attempt on, the
#: window is written in parts.
_IN_PARTS_FROM_ATTEMPT = 3
#: From this attempt on, what the store holds of a window shows that the rows which it refuses again are at fault.
_STORED_PROVES_FROM_ATTEMPT = 3
#: Stands for the answer to an insert that was not sent, because it is too large.
_NOT_TRIED = WriteTooLarge("not sent")

#: What an insert that ends with this error is counted as.
_OUTCOMES: dict[type[Exception], InsertOutcome] = {
    RowsRefused: "refused",
    WriteTooLarge: "too_large",
    StoreUnavailable: "unavailable",
    OutcomeUnknown: "unknown",
}


class Ledger(Protocol):
    """What an attempt must tell the ledger, or hear from it. Both raise LeaseLost when somebody else has the window."""

    def hold(self) -> None:
        """Before each insert: that this owner still has the window."""

    def cut(self, levels: int) -> None:
        """That the window is cut this many times before its first insert, from now on."""


class AttemptLimits(NamedTuple):
    """`max_bytes` of one insert; `is_store_proven` if the store is known to take rows, just not these; `seconds` for
    telling rows at fault from others."""

    max_bytes: int
    is_store_proven: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Written:
    """The event store holds every loaded row once, on disk, but for these.

    `refused` rows it refuses each by itself, and does not hold. `left` rows it refused as part of several, or for their
    size. `error` is what it said last of any of them. `is_proven` if it took a row in this attempt, so that the rows
    are at fault and not its table. `complaint` is an error in spite of which it holds the rows. `is_whole` if they were
    written by one insert, as they were loaded.
    """

    refused: Sequence[RefusedRow] = ()
    left: Sequence[Identity] = ()
    error: str = ""
    is_proven: bool = True
    complaint: str = ""
    is_whole: bool = False


def write(
    store: EventStore,
    window: SealedWindow,
    loaded: LoadedWindow,
    *,
    stored: set[Identity],
    limits: AttemptLimits,
    ledger: Ledger,
) -> Written:
    """Return when the store holds every row of the window, but for those returned.

    `stored` is what it held before; on the first attempt, that is nothing.
    Raises StoreUnavailable or OutcomeUnknown: some rows may be written; the next attempt reads back which.
    """
    parts = _Parts(store, window, loaded, stored=stored, limits=limits, ledger=ledger)
    is_whole = not (loaded.hidden or loaded.unfit) and len(loaded.rows) <= limits.max_bytes
    if window.attempts <= 1 and is_whole:
        # The whole path of nearly all windows: nothing is looked at row by row.
        try:
            with report.insert(_OUTCOMES):
                store.write(loaded.rows, row_count=loaded.row_count, token=str(window.id))
        except WriteRefused as error:
            log.warning("window_refused", window=str(window.id), rows=loaded.row_count, error=str(error))
            parts.sort_out(error)
        else:
            return Written(is_whole=True)
    else:
        parts.write(levels=max(window.cut_levels, int(window.attempts >= _IN_PARTS_FROM_ATTEMPT)))
    return parts.written()


class _Parts:
    """One attempt at a window: its lines, and what the store is known to hold of them."""

    def __init__(
        self,
        store: EventStore,
        window: SealedWindow,
        loaded: LoadedWindow,
        *,
        stored: set[Identity],
        limits: AttemptLimits,
        ledger: Ledger,
    ) -> None:
        self._store = store
        self._window = window
        self._loaded = loaded
        self._max_bytes = limits.max_bytes
        self._is_store_proven = limits.is_store_proven
        self._until = time.monotonic() + limits.seconds
        self._ledger = ledger
        self._stored = stored
        self._refused = {one: RefusedRow(*one, why) for one, why in loaded.unfit.items()}
        self._unsent = loaded.hidden | loaded.unfit.keys()
        self._left: set[Identity] = set(loaded.hidden)
        self._refusals = 0
        self._is_proven = True
        self._error = loaded.why_hidden if loaded.hidden else next(iter(loaded.unfit.values()), "")
        self._complaint = ""
        #: Of the first insert without an answer.
        self._unanswered: OutcomeUnknown | None = None

    @functools.cached_property
    def _lines(self) -> list[bytes]:
        return self._loaded.lines()

    def written(self) -> Written:
        if self._unanswered is not None and self._missing(0, len(self._lines)):
            raise self._unanswered
        left = self._left - self._stored  # which may be hidden by now
        # Rows that were not sent say nothing of the store.
        is_proven = self._is_proven or (left | self._refused.keys()) <= self._unsent
        # An owner that died had told them apart. The table may be at fault since, so they are not blamed at first.
        is_proven |= bool(self._stored) and self._window.attempts >= _STORED_PROVES_FROM_ATTEMPT
        refused = tuple(row for identity, row in self._refused.items() if identity not in self._stored)
        return Written(refused, tuple(sorted(left)), self._error, is_proven, self._complaint)

    def sort_out(self, error: WriteRefused) -> None:
        """The window was sent as a whole, and this was the answer."""
        self._is_proven = False
        self._sort_out(0, len(self._lines), self._noted(self._lines, error), levels=0, depth=0)

    def write(self, *, levels: int) -> None:
        """Write what is missing, cut in two so many times at first."""
        self._is_proven = False
        self._write(0, len(self._lines), levels=levels, depth=0)

    def _write(self, low: int, high: int, *, levels: int, depth: int) -> None:
        """Write what is missing of the lines from `low` to before `high`: as one insert, unless they are cut first."""
        missing = self._missing(low, high)
        if not missing:
            return
        is_tried = len(missing) == 1 or (levels <= 0 and sum(map(len, missing)) <= self._max_bytes)
        error = self._try(missing, token=self._token(low, high), depth=depth) if is_tried else _NOT_TRIED
        self._sort_out(low, high, error, levels=levels, depth=depth)

    def _sort_out(self, low: int, high: int, error: EventStoreError | None, *, levels: int, depth: int) -> None:
        """What is not stored in spite of what was sent, or was not sent: one by one, or in two parts."""
        missing = self._missing(low, high)
        if not missing:
            return
        token = self._token(low, high)
        if len(missing) == 1 and error not in (None, _NOT_TRIED):
            self._settle(missing[0], error)
            return
        if high - low == 1:
            self._replace(missing[0], token=token)
            return
        if error is not None:
            if self._is_exhausted(error):
                if not isinstance(error, OutcomeUnknown):  # which may arrive still, under this window's tokens
                    self._left.update(map(rows.identity, missing))
                return
            if not self._is_used_up(missing, token=token, depth=depth):
                return
        middle = self._middle(low, high)
        for first, last in ((low, middle), (middle, high)):
            self._write(first, last, levels=levels - 1, depth=depth + 1)

    def _missing(self, low: int, high: int) -> list[bytes]:
        """The lines that are neither stored nor found to be at fault."""
        return self._unknown(self._lines[low:high])

    def _unknown(self, lines: Sequence[bytes]) -> list[bytes]:
        return rows.missing(lines, self._known())

    def _known(self) -> set[Identity]:
        return self._stored | self._refused.keys() | self._left

    def _try(self, lines: list[bytes], *, token: str, depth: int) -> EventStoreError | None:
        """Send the lines, and look what is stored. None when the store took the insert, or dropped it by its token."""
        # What another owner has found to be at fault may be stored by now, in another window.
        self._ledger.hold()
        try:
            with report.insert(_OUTCOMES):
                self._store.write(b"".join(lines), row_count=len(lines), token=token)
        except WriteRefused as error:
            return self._noted(lines, error)
        except OutcomeUnknown as error:
            if time.monotonic() > self._until:
                if self._is_proven and len(lines) > 1:
                    self._ledger.cut(depth + 1)
                raise
            # It may be these rows, or their size, that get no answer: there is time to try some of them.
            self._unanswered = self._unanswered or error
            return error
        self._is_proven = True
        self._stored = self._store.read_back(self._window.id)
        return None

    def _noted(self, lines: list[bytes], error: WriteRefused) -> WriteRefused | None:
        self._refusals += 1
        self._stored = self._store.read_back(self._window.id)
        if all(rows.identity(line) in self._stored for line in lines):
            # As when a materialized view fails: the table has the rows by then.
            self._complaint = str(error)
            self._is_proven = True
            return None
        self._error = str(error)
        if isinstance(error, WriteTooLarge):
            self._max_bytes = min(self._max_bytes, sum(map(len, lines)) - 1)
        return error

    def _settle(self, line: bytes, error: EventStoreError | None) -> None:
        """The store does not take this row by itself, and does not hold it."""
        identity = rows.identity(line)
        if isinstance(error, RowsRefused):
            self._refused[identity] = RefusedRow(*identity, str(error))
        elif isinstance(error, WriteTooLarge):
            self._left.add(identity)  # a limit may be raised: no reason to have somebody replay the row
        # Without an answer it may arrive still, under its token: it stays in this window.

    def _replace(self, line: bytes, *, token: str) -> None:
        """For a store that remembers the row's token, but not the row.

        Every owner walks through the same tokens in the same order, each of which the store drops unless its row is
        lost, too: so two owners that find a row missing store it once. The next attempt has one token more.
        """
        for series in range(1, self._window.attempts + 1):
            log.warning("row_missing_behind_token", window=str(self._window.id), series=series)
            error = self._try([line], token=f"{token}:{series}", depth=0)
            if error is not None:
                raise OutcomeUnknown(f"the event store refuses a row that it accepted before: {error}") from error
            if rows.identity(line) in self._stored:
                return
        raise OutcomeUnknown("the event store does not show a row of the window, although it claims to have it")

    def _is_used_up(self, missing: list[bytes], *, token: str, depth: int) -> bool:
        """Have the store remember the token, by a row of each month: its token log has an entry for each.

        False if an insert of the whole may arrive still, because none of these rows got an answer.
        """
        months: dict[bytes, list[bytes]] = {}
        for line in missing:
            months.setdefault(rows.month(line), []).append(line)
        if len(months) > 1 and self._try([lines[0] for lines in months.values()], token=token, depth=depth) is None:
            return True
        return all(self._is_used_up_in_month(lines, token=token, depth=depth) for lines in months.values())

    def _is_used_up_in_month(self, lines: list[bytes], *, token: str, depth: int) -> bool:
        """Try one row after the other until the store takes one: a part that it took while it remembers nothing of the
        whole could be stored again by the whole, once the table is repaired."""
        unanswered = 0
        error: EventStoreError | None = None
        for row in _spread(lines):
            if rows.identity(row) in self._known():
                continue
            if error is not None and self._is_exhausted(error):
                if not unanswered:
                    self._left.update(map(rows.identity, self._unknown(lines)))
                break
            error = self._try([row], token=token, depth=depth)
            if error is None:
                return True
            self._settle(row, error)
            unanswered += isinstance(error, OutcomeUnknown)
            if unanswered == _MOST_UNANSWERED:
                break
        return not unanswered

    def _is_exhausted(self, error: EventStoreError) -> bool:
        """True if enough was tried to tell rows at fault from others. Cutting what is too large takes its time, once
        the store is known to take anything."""
        is_proven = self._is_proven or self._is_store_proven
        if time.monotonic() > self._until and not (is_proven and isinstance(error, WriteTooLarge)):
            return True
        if is_proven:
            return self._refusals >= _MOST_REFUSALS
        return self._refusals >= (_MOST_REFUSALS_AGAIN if self._window.refused_at else _MOST_REFUSALS_UNPROVEN)

    def _middle(self, low: int, high: int) -> int:
        """Where to cut: between two outboxes if there are several, so that one does not wait for the other's rows."""
        middle = (low + high) // 2
        sizes = Counter(map(rows.outbox, self._lines[low:high]))
        if len(sizes) == 1:
            return middle
        ends = []
        end = low
        for size in list(sizes.values())[:-1]:  # the lines come outbox by outbox
            end += size
            ends.append(end)
        return min(ends, key=lambda end: abs(end - middle))

    def _token(self, low: int, high: int) -> str:
        is_whole = (low, high) == (0, len(self._lines))
        return str(self._window.id) if is_whole else f"{self._window.id}:{low}-{high}"


def _spread(lines: Sequence[bytes]) -> Iterator[bytes]:
    """The lines of each outbox in turn: the first, the middle and the last, then those between. Rows at fault often
    come side by side, and are one outbox's."""
    by_outbox: dict[bytes, list[bytes]] = {}
    for line in lines:
        by_outbox.setdefault(rows.outbox(line), []).append(line)
    for of_each in itertools.zip_longest(*map(_from_afar, by_outbox.values())):
        yield from filter(None, of_each)


def _from_afar(lines: Sequence[bytes]) -> list[bytes]:
    places = dict.fromkeys((0, len(lines) // 2, len(lines) - 1))
    step = len(lines)
    while step > 1:
        step = (step + 1) // 2
        places |= dict.fromkeys(range(0, len(lines), step))
    return [lines[place] for place in places]
