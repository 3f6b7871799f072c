"""`verify --deep`: the event store is read again, and compared with the proofs, window by window and row by row.

It compares what the store holds with the newest proof of each window, outbox and month. A difference is called edited,
lost, doubled or added. Then it looks the other way round, for windows with rows in the store but no proof (stray). The
proofs themselves are covered by the seals (`towpath.proof.chain`).

It changes nothing, except that it notes what it finds with the proof, for `status`. It can be stopped at any time, and
continued from a position.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from towpath.eventlog.proof import changed_row
from towpath.ledger import proofs, suspect
from towpath.ledger.dropped import dropped_months
from towpath.ledger.open_windows import find_left_open

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from datetime import date, datetime
    from uuid import UUID

    from towpath.eventlog.proof import WindowDigest
    from towpath.eventlog.store import ProvableStore
    from towpath.ledger.proofs import Key, Proof

Kind = Literal["edited", "lost", "doubled", "added", "stray", "receipt", "unverified", "unsealed", "unreadable"]

#: What is said of rows that a window has which is not acked.
_LEFT_OPEN = "it was sealed an hour ago or more, is not acked, and nobody delivers it: run `pipeline recover`"

#: Proofs of one page, and rows and windows of one query to the store.
_PROOFS_PER_PAGE = 300
_MOST_ROWS = 200_000
#: How many windows the ledger is asked about at a time.
_WINDOWS_PER_LOOK = 1000
#: A window is open for seconds, and its receipt is verified about a minute after the ack.
LATE_SECONDS = 3600.0
#: The most rows of a window that are named.
_MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class Difference:
    """How the store contradicts the proof of a window, outbox and month."""

    kind: Kind
    window: UUID
    outbox: str
    month: date | None
    #: How many: lost, doubled, added or stray; those that the digest covers, if some of them were edited.
    rows: int
    detail: str = ""
    #: Those that can be named, by their ids in the outbox.
    row_ids: tuple[int, ...] = ()
    #: The proof that the store contradicts, and what it holds: rows and digest.
    position: int = 0
    stored: tuple[int, str] = (0, "")

    def __str__(self) -> str:
        ids = f" ({', '.join(map(str, self.row_ids))})" if self.row_ids else ""
        rows = f"{len(self.row_ids) or f'some of {self.rows}' if self.kind == 'edited' else self.rows} row(s)"
        what = f"{rows} of {self.outbox}{ids}, " if self.outbox else ""
        month = f", {self.month:%Y-%m}" if self.month else ""
        return f"{self.kind}: {what}window {self.window}{month}" + (f": {self.detail}" if self.detail else "")


@dataclass(slots=True)
class Progress:
    """How far a check has come."""

    position: int = 0
    windows: int = 0
    rows: int = 0
    #: Windows of the store that strays were looked for among.
    searched: int = 0


class Pace:
    """Limits the rows per second, so that the store has time for others; 0 is unlimited."""

    def __init__(self, rows_per_second: float) -> None:
        self._rows_per_second = rows_per_second
        self._started = time.monotonic()
        self._rows = 0

    def wait(self, rows: int) -> None:
        """Return once this many more rows may be read."""
        self._rows += rows
        if self._rows_per_second:
            ahead = self._rows / self._rows_per_second - (time.monotonic() - self._started)
            time.sleep(max(0.0, ahead))


def check(
    store: ProvableStore,
    *,
    progress: Progress,
    since: datetime | None = None,
    until: datetime | None = None,
    pace: Pace,
    on_page: Callable[[Progress], None],
) -> Iterator[Difference]:
    """Yield every difference between the store and the proofs above the position of `progress`, for windows dispatched
    from `since` to before `until`, and those that are packed with them. Raises StoreUnavailable.

    A window that differs is read a second time, with its proofs: an erasure, or the end of a month, may have come in
    between.
    """
    dropped = dropped_months()
    while True:
        page = proofs.read_page(after=progress.position, limit=_PROOFS_PER_PAGE)
        if not page:
            return
        wanted = [proof for proof in page if _is_of_period(proof, since, until)]
        for part in _parts(wanted):
            if differing := {difference.window for difference in _compare(part, store, dropped)}:
                for differences in _check_once(sorted(differing), store, pace=pace).values():
                    yield from differences
            progress.windows += len({proof.window_id for proof in part})
            progress.rows += sum(proof.rows for proof in part)
            pace.wait(_rows_to_read(part))
        progress.position = page[-1].position
        on_page(progress)


def check_windows(windows: Sequence[UUID], store: ProvableStore, *, pace: Pace) -> dict[UUID, list[Difference]]:
    """Return the differences of these windows, by window, of those that differ when they are read a second time (as in
    `check`). Raises StoreUnavailable."""
    found = _check_once(windows, store, pace=pace)
    differing = [window for window, differences in found.items() if differences]
    return found | (_check_once(differing, store, pace=pace) if differing else {})


def _check_once(windows: Sequence[UUID], store: ProvableStore, *, pace: Pace) -> dict[UUID, list[Difference]]:
    dropped = dropped_months()
    found: dict[UUID, list[Difference]] = {window: [] for window in windows}
    for part in _parts(proofs.of_windows(windows)):
        for difference in _compare(part, store, dropped):
            found[difference.window].append(difference)
        pace.wait(_rows_to_read(part))
    return found


def of_period(windows: Iterable[UUID], *, since: datetime | None, until: datetime | None) -> set[UUID]:
    """Return those of the windows that `check` checks for this period."""
    return {proof.window_id for proof in proofs.of_windows(windows) if _is_of_period(proof, since, until)}


def _is_of_period(proof: Proof, since: datetime | None, until: datetime | None) -> bool:
    return (since is None or proof.dispatched_to >= since) and (until is None or proof.dispatched_from < until)


def note(window: UUID, differences: Iterable[Difference]) -> None:
    """Note with the window's proof how the store contradicts it, so that `status` says so; or that it does not."""
    suspect.note_contradiction(window, "; ".join(map(str, differences)) or None)


def look_again(store: ProvableStore, *, windows: Sequence[UUID] | None = None) -> None:
    """Check those of the windows that are an alarm, or all of those, and note it. Raises StoreUnavailable."""
    contradicted = suspect.find_contradicted(limit=None, windows=windows)
    for first in range(0, len(contradicted), _PROOFS_PER_PAGE):
        look = contradicted[first : first + _PROOFS_PER_PAGE]
        for window, differences in check_windows(look, store, pace=Pace(0)).items():
            note(window, differences)


def find_strays(
    store: ProvableStore,
    *,
    progress: Progress,
    since: date | None = None,
    until: date | None = None,
    pace: Pace,
    on_page: Callable[[Progress], None],
) -> Iterator[Difference]:
    """Windows that the store has rows of, in the months from `since` to `until`, and that no proof is of and no receipt
    nor a window that is being delivered. Raises StoreUnavailable."""
    for month in store.months():
        if (since and month < since.replace(day=1)) or (until and month > until):
            continue
        windows = store.windows_of(month)
        while look := list(itertools.islice(windows, _WINDOWS_PER_LOOK)):
            yield from _strays(look, month, store)
            # The store reads all rows of a month to say which windows it has.
            pace.wait(proofs.count_rows_of(look, month=month))
            progress.searched += len(look)
            on_page(progress)


def _strays(windows: Sequence[UUID], month: date, store: ProvableStore) -> Iterator[Difference]:
    # The ledger is asked after the store: a window is in the ledger before the store has a row of it.
    known = proofs.known_of(windows)
    unproven = [window for window in windows if window not in known.proven]
    left = find_left_open(unproven, older_than_seconds=LATE_SECONDS) if known.in_ledger else set()
    strays = [window for window in unproven if window in left or window not in known.in_ledger]
    if not strays:
        return
    for found in store.window_digests(strays, columns=store.covered_columns()):
        if found.month != month:
            continue
        kind: Kind = "unverified" if found.window_id in left else "stray"
        detail = _LEFT_OPEN if kind == "unverified" else "in no receipt"
        yield Difference(kind, found.window_id, found.outbox, month, found.rows, detail, _row_ids(found, store))


def _row_ids(found: WindowDigest, store: ProvableStore) -> tuple[int, ...]:
    """Return the first rows of a window, outbox and month, as they are named."""
    rows = store.row_digests(found.window_id, columns=store.covered_columns())
    ids = [row.outbox_id for row in rows if row.outbox == found.outbox and row.month == found.month]
    return tuple(ids[:_MOST_NAMED])


def _rows_to_read(part: Iterable[Proof]) -> int:
    """How many rows these proofs are of. Somebody may have written any number, and nobody must wait for that."""
    return sum(min(max(proof.rows, 0), _MOST_ROWS) for proof in part)


def _parts(page: Iterable[Proof]) -> Iterator[list[Proof]]:
    """Split the proofs into parts of the same coverage that the store can digest within its time."""
    for _, of_coverage in itertools.groupby(page, key=lambda proof: proof.columns):
        part: list[Proof] = []
        rows = 0
        for proof in of_coverage:
            if part and rows + proof.rows > _MOST_ROWS:
                yield part
                part, rows = [], 0
            part.append(proof)
            rows += proof.rows
        if part:
            yield part


def _compare(part: Sequence[Proof], store: ProvableStore, dropped: Mapping[date, int]) -> Iterator[Difference]:
    latest = [proof for proof in part if proof.is_latest]
    gone = [proof for proof in latest if proof.month and dropped.get(proof.month, 0) > proof.position]
    kept = [proof for proof in latest if proof not in gone]
    yield from _compare_kept(kept, store)
    yield from _compare_gone(gone, store)
    for window in suspect.find_altered_receipts({proof.window_id for proof in latest}):
        yield Difference("receipt", window, "", None, 0, "its receipt has changed since it was proven")


def _compare_kept(latest: Sequence[Proof], store: ProvableStore) -> Iterator[Difference]:
    """Yield how the store differs from these proofs, which cover the same columns."""
    if not latest:
        return
    columns = latest[0].columns
    if missing := [name for name in columns if name not in store.covered_columns()]:
        for proof in latest:
            detail = f"its digest covers the column {missing[0]}, which is gone"
            yield Difference("unreadable", proof.window_id, proof.outbox, proof.month, proof.rows, detail)
        return
    stored = _stored(latest, store, columns=columns)
    for proof in latest:
        found = stored.pop(proof.key, None)
        if proof.digest != (found.digest if found else ""):
            yield from _differences(proof, found, store)
    yield from _added(stored, latest, store)


def _compare_gone(latest: Sequence[Proof], store: ProvableStore) -> Iterator[Difference]:
    """Yield what the store still holds of dropped months."""
    if not latest:
        return
    stored = _stored(latest, store, columns=store.covered_columns())
    for proof in latest:
        if found := stored.pop(proof.key, None):
            detail = "to a month that was dropped: run `eventlog retain` again, if it was interrupted"
            position = proof.position
            yield Difference("added", proof.window_id, proof.outbox, proof.month, found.rows, detail, position=position)
    yield from _added(stored, latest, store)


def _stored(latest: Sequence[Proof], store: ProvableStore, *, columns: Sequence[str]) -> dict[Key, WindowDigest]:
    windows = list(dict.fromkeys(proof.window_id for proof in latest))
    return {(one.window_id, one.outbox, one.month): one for one in store.window_digests(windows, columns=columns)}


def _differences(proof: Proof, found: WindowDigest | None, store: ProvableStore) -> Iterator[Difference]:
    if found is None:
        yield Difference(
            "lost", proof.window_id, proof.outbox, proof.month, proof.rows, "every row", position=proof.position
        )
        return
    rows = [
        row.outbox_id
        for row in store.row_digests(proof.window_id, columns=proof.columns)
        if row.outbox == proof.outbox and row.month == proof.month
    ]
    changed = changed_row(proof.sums, found.sums, ids=rows)
    doubled = [row_id for row_id, times in Counter(rows).items() if times > 1]
    more = found.rows - proof.rows
    named = () if changed is None else (changed,)

    def difference(kind: Kind, rows: int, row_ids: Collection[int] = (), detail: str = "") -> Difference:
        ids = tuple(sorted(row_ids)[:_MOST_NAMED])
        there = (found.rows, found.digest)
        return Difference(
            kind, proof.window_id, proof.outbox, proof.month, rows, detail, ids, position=proof.position, stored=there
        )

    if doubled:
        yield difference("doubled", len(rows) - len(set(rows)), doubled)
        more -= len(rows) - len(set(rows))
        named = ()
    if more > 0:
        yield difference("added", more, [row_id for row_id in named if row_id in rows], f"to {proof.rows}")
    elif more < 0:
        yield difference("lost", -more, [row_id for row_id in named if row_id not in rows], f"of {proof.rows}")
    elif not doubled:
        detail = "or its erasure is not complete: run the same command again" if proof.kind == "erased" else ""
        yield difference("edited", found.rows, [row_id for row_id in named if row_id in rows], detail)


def _added(stored: Mapping[Key, WindowDigest], latest: Sequence[Proof], store: ProvableStore) -> Iterator[Difference]:
    """Yield rows of these windows in an outbox or a month for which the window has no proof."""
    if not stored:
        return
    windows = {window for window, _, _ in stored}
    proven = {proof.key for proof in proofs.of_windows(windows)}
    # The first of a window's proofs names them, so that they are named once.
    here = {proof.window_id for proof in latest if proof.position == _first_position(proof.window_id)}
    for key, found in stored.items():
        if key not in proven and found.window_id in here:
            ids = _row_ids(found, store)
            yield Difference("added", found.window_id, found.outbox, found.month, found.rows, "to none", ids)


def _first_position(window: UUID) -> int:
    return min((proof.position for proof in proofs.of_windows([window]) if proof.is_latest), default=0)
