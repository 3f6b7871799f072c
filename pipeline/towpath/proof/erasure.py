"""Erasure: fields of a person's events are masked wherever they are, and the proofs of what changes are amended.

First the new rows are computed, only from rows that are as they were proven, so no other change is covered up. Then one
transaction amends the proofs, masks what is not delivered yet, and records an event. Only then does the event store
rewrite its rows. If the power fails between the two, the store holds what was proven before the newest proof: the same
erasure, run again, finds that and completes it.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
from django.db import transaction

from towpath.errors import NotErasable
from towpath.eventlog.errors import StoreUnavailable
from towpath.eventlog.proof import RowDigest, WindowDigest, kinds, row_digest, window_digests
from towpath.events import EventsErased
from towpath.ledger import proofs, seals
from towpath.ledger.dropped import dropped_months
from towpath.outbox.publishing import publish
from towpath.proof import undelivered
from towpath.proof.deep import look_again
from towpath.proof.undelivered import Undelivered

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from datetime import date
    from uuid import UUID

    from towpath.eventlog.columns import Column
    from towpath.eventlog.store import KeepableStore, MaskedRow
    from towpath.eventlog.stored import StoredEvent
    from towpath.ledger.proofs import Key, Proof
    from towpath.proof.selection import Selection

log = structlog.get_logger()

#: How many windows the store is asked about at a time: the digests of all their rows are in memory. And how many rows,
#: and characters of contexts, are rewritten at a time.
_WINDOWS_PER_LOOK = 50
_MOST_ROWS = 20_000
_MOST_CHARACTERS = 32 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one window, outbox and month that change: the proof that they have, and what is stored afterwards."""

    proof: Proof
    expected: WindowDigest
    rows: int

    @property
    def is_begun(self) -> bool:
        """True if an interrupted run has amended the proof."""
        return self.expected.digest == self.proof.digest


@dataclass(slots=True)
class Plan:
    """What an erasure would change."""

    selection: Selection
    parts: dict[Key, Part] = field(default_factory=dict)
    undelivered: Undelivered = field(default_factory=Undelivered)
    #: The names of the fields of the first context that was found.
    names: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts.values())

    @property
    def has_any(self) -> bool:
        """True if there is an event to mask, stored or undelivered."""
        return bool(self.parts or self.undelivered.rows)

    @property
    def windows(self) -> list[UUID]:
        return list(dict.fromkeys(window for window, _, _ in self.parts))


def plan(selection: Selection, store: KeepableStore, own: tuple[Column, ...]) -> Plan:
    """Return what the erasure would change. Raises NotErasable if a window of these events has changed since it was
    proven, or is not proven; and StoreUnavailable."""
    # The outboxes first: what is delivered in the meantime is found in the store.
    found = Plan(selection, undelivered=undelivered.find(selection, own))
    seen: set[UUID] = set()
    for month in store.months():
        windows = [window for window in store.find_windows(selection.query, month=month) if window not in seen]
        seen.update(windows)
        for look in _looks(windows):
            rows = _masked_rows(look, selection, store)
            if rows and not found.names:
                found.names = _names(rows[0].event.event_context)
            for part in _parts(rows, selection, store, own):
                found.parts[part.proof.key] = part
    return found


def erase(found: Plan, store: KeepableStore, own: tuple[Column, ...], *, reason: str, by: str) -> int:
    """Erase what the plan has. Returns how many undelivered events may still be stored unmasked: then the same erasure
    is needed once more.

    Raises NotErasable, before anything is changed, if a proof was amended in the meantime. Raises StoreUnavailable;
    after that, the same erasure completes it.
    """
    selection = found.selection
    query = selection.query_on_record
    amended = [part for part in found.parts.values() if not part.is_begun]
    with transaction.atomic():
        seals.lock()
        _require_unchanged(found.parts.values())
        _amend(amended, reason=f"{', '.join(selection.fields)} of {query}: {reason} (erased by {by})")
        masked = undelivered.mask(selection, own)
        erased = EventsErased(
            query=query,
            fields=list(selection.fields),
            windows=len({part.proof.window_id for part in amended}),
            rows=sum(part.rows for part in amended),
            undelivered=masked.masked,
            reason=reason,
            erased_by=by,
        )
        if erased.rows or erased.undelivered:
            publish(erased)
    counts = {"windows": erased.windows, "rows": erased.rows, "undelivered": erased.undelivered}
    log.warning("events_erased", query=query, **counts, fields=selection.fields, by=by)
    _rewrite(found, store)
    _require_rewritten(found, store)
    # A check that read a window between the commit and the rewriting of an interrupted run has found it changed.
    look_again(store, windows=found.windows)
    return undelivered.count_on_their_way(found.undelivered, masked)


def _amend(parts: Sequence[Part], *, reason: str) -> None:
    for columns, covered in _by_coverage(parts).items():
        proofs.amend([part.expected for part in covered], kind="erased", columns=columns, reason=reason)


def _looks(windows: Sequence[UUID]) -> Iterator[Sequence[UUID]]:
    return (windows[start : start + _WINDOWS_PER_LOOK] for start in range(0, len(windows), _WINDOWS_PER_LOOK))


def _masked_rows(windows: Sequence[UUID], selection: Selection, store: KeepableStore) -> list[MaskedRow]:
    """Yield the rows of these windows that change, in the order of the windows."""
    rows = []
    for event in store.read_rows(windows, selection.query):
        try:
            row = selection.masked(event)
        except ValueError as error:
            raise NotErasable(
                f"{event.outbox} {event.outbox_id} of window {event.window_id}: {error}. Erase all of it"
                " (--fields context)"
            ) from None
        if row is not None:
            rows.append(row)
    return sorted(rows, key=lambda row: row.event.window_id)


def _names(context: str) -> list[str]:
    try:
        found = json.loads(context)
    except ValueError:
        return []
    return list(found) if isinstance(found, dict) else []


def _parts(
    rows: Sequence[MaskedRow], selection: Selection, store: KeepableStore, own: tuple[Column, ...]
) -> Iterator[Part]:
    by_key: dict[Key, list[MaskedRow]] = defaultdict(list)
    for row in rows:
        by_key[_key(row)].append(row)
    of_coverage: dict[tuple[str, ...], list[Proof]] = defaultdict(list)
    for proof in _proven(by_key):
        if missing := [name for name in proof.columns if name not in store.covered_columns()]:
            raise NotErasable(f"the proof of window {proof.window_id} covers the column {missing[0]}, which is gone")
        of_coverage[proof.columns].append(proof)
    for columns, found in of_coverage.items():
        stored = store.row_digests_of(list(dict.fromkeys(proof.window_id for proof in found)), columns=columns)
        for proof in found:
            digests = Counter(
                row
                for row in stored.get(proof.window_id, ())
                if row.outbox == proof.outbox and row.month == proof.month
            )
            yield _part(proof, by_key[proof.key], digests, selection, own)


def _proven(keys: Collection[Key]) -> Iterator[Proof]:
    """Return the newest proof of each."""
    windows = list(dict.fromkeys(window for window, _, _ in keys))
    latest = {proof.key: proof for proof in proofs.of_windows(windows) if proof.is_latest}
    known, dropped = proofs.known_of(windows), dropped_months()
    for key in keys:
        window, proof = key[0], latest.get(key)
        if window not in known.proven:
            raise NotErasable(
                f"window {window} is not verified yet: wait a minute, or see `pipeline status`"
                if window in known.in_ledger
                else f"window {window} has no receipt: see `pipeline verify --deep`"
            )
        if proof is None or proof.month is None:
            raise NotErasable(_not_as_proven(window))
        if dropped.get(proof.month, 0) > proof.position:
            raise NotErasable(f"{proof.month:%Y-%m} is being dropped: run `eventlog retain` again first")
        yield proof


def _part(
    proof: Proof, rows: Sequence[MaskedRow], stored: Counter[RowDigest], selection: Selection, own: tuple[Column, ...]
) -> Part:
    before = Counter(_digest(row.event, proof, own) for row in rows)
    # This must be what the store computes, or there is no guarantee.
    if before - stored:
        raise NotErasable(
            f"window {proof.window_id} is changing: run this again. If this repeats, a row of it has a NULL that"
            " somebody has put there: see `pipeline verify --deep`"
        )
    after = Counter(_digest(row.after(selection.mask), proof, own) for row in rows)
    expected = _of_window(proof, (stored - before) + after)
    if proof.digest not in {_of_window(proof, stored).digest, expected.digest}:
        raise NotErasable(_not_as_proven(proof.window_id))
    return Part(proof, expected, len(rows))


def _not_as_proven(window: UUID) -> str:
    return (
        f"window {window} has changed since it was proven: see `pipeline verify --deep`. If another erasure was"
        " interrupted, run that one again first"
    )


def _digest(event: StoredEvent, proof: Proof, own: tuple[Column, ...]) -> RowDigest:
    values = [(kind, event.value(name)) for name, kind in kinds(proof.columns, own)]
    return RowDigest(
        event.outbox, event.outbox_id, _month(event), event.event_type, event.event_date_time, row_digest(values)
    )


def _of_window(proof: Proof, rows: Counter[RowDigest]) -> WindowDigest:
    (found,) = window_digests((proof.window_id, row) for row in rows.elements())
    return found


def _key(row: MaskedRow) -> Key:
    return row.event.window_id, row.event.outbox, _month(row.event)


def _month(event: StoredEvent) -> date:
    return event.event_date_time.date().replace(day=1)


def _by_coverage(parts: Iterable[Part]) -> dict[tuple[str, ...], list[Part]]:
    found: dict[tuple[str, ...], list[Part]] = defaultdict(list)
    for part in parts:
        found[part.proof.columns].append(part)
    return found


def _require_unchanged(parts: Iterable[Part]) -> None:
    wanted = {part.proof.key: part.proof.position for part in parts}
    now = {
        proof.key: proof.position
        for proof in proofs.of_windows({window for window, _, _ in wanted})
        if proof.is_latest and proof.key in wanted
    }
    if now != wanted:
        raise NotErasable("a proof was amended in the meantime: run this again")


def _rewrite(found: Plan, store: KeepableStore) -> None:
    """Rewrite the plan's stored rows."""
    rows: list[MaskedRow] = []
    characters = 0
    for look in _looks(found.windows):
        for row in _masked_rows(look, found.selection, store):
            if _key(row) not in found.parts:
                continue
            rows.append(row)
            characters += len(row.event.event_context)
        if len(rows) >= _MOST_ROWS or characters >= _MOST_CHARACTERS:
            store.rewrite(rows, mask=found.selection.mask)
            rows, characters = [], 0
    store.rewrite(rows, mask=found.selection.mask)


def _require_rewritten(found: Plan, store: KeepableStore) -> None:
    """Check that the store now holds what the newest proofs say."""
    for columns, parts in _by_coverage(found.parts.values()).items():
        expected: dict[UUID, dict[Key, str]] = defaultdict(dict)
        for part in parts:
            expected[part.proof.window_id][part.proof.key] = part.expected.digest
        for look in _looks(list(expected)):
            stored: dict[Key, str] = {
                (one.window_id, one.outbox, one.month): one.digest
                for one in store.window_digests(look, columns=columns)
            }
            for window in look:
                if any(stored.get(key) != digest for key, digest in expected[window].items()):
                    raise StoreUnavailable(
                        f"window {window} does not hold the masked rows yet: run this again. If this repeats, see"
                        " `pipeline verify --deep`"
                    )
