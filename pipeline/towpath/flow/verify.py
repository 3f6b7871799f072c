"""Verify: compare every receipt with what the event store holds of its window, and with itself.

A receipt says how many rows of each outbox were sealed, and what became of them. If the store has as many rows as were
delivered, and the receipt's numbers add up, it is verified. From then on, the digests of what the store holds are its
proof (`towpath.ledger.proofs`). If not, the receipt is an alarm. It stays in the ledger, and is checked again each
minute until it holds (a restored replica may bring rows back), or until a person closes it with a reason. The rows
themselves are gone from PostgreSQL by then.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from django.db import transaction

from towpath.errors import NoAlarm
from towpath.eventlog.errors import EventStoreError
from towpath.events import ReceiptMismatchClosed
from towpath.ledger import dropped, loaded, proofs, receipts
from towpath.outbox.publishing import publish
from towpath.telemetry import heartbeat, metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from uuid import UUID

    from towpath.eventlog.proof import WindowDigest
    from towpath.eventlog.store import EventStore, VerifiableStore
    from towpath.ledger.receipts import Receipt

log = structlog.get_logger()

#: The most receipts of one DELETE, and DELETEs per minute: 50,000 windows a minute are more than are ever written.
_RECEIPTS_PER_DELETE = 1000
_DELETES_PER_ROUND = 50
MOST_PURGED = _RECEIPTS_PER_DELETE * _DELETES_PER_ROUND
#: The most rows and bytes that the store must digest in one statement, unless one window has more. It joins the bytes
#: of each window in memory, and all of it must fit into the time limit of one statement.
_MOST_ROWS = 100_000
_MOST_BYTES = 64 << 20


_ALTERED = "the stored bytes differ from the loaded ones"
_NOT_COMPARABLE = "its bytes cannot be compared any more, because the event log has other columns now"


@dataclass(frozen=True, slots=True)
class ComparedReceipt:
    """A receipt, and what the event store holds of its window."""

    receipt: Receipt
    stored: Mapping[str, int]
    #: What it holds by outbox and month, if that was asked for.
    digests: Sequence[WindowDigest] = ()
    #: What is wrong with the bytes that it holds; empty: nothing, or they were not compared.
    bytes_problem: str = ""

    @property
    def is_contradicted(self) -> bool:
        """True if the store does not hold what was delivered, or the receipt's numbers do not add up."""
        receipt = self.receipt
        differs = Counter(self.stored) != Counter(receipt.delivered)
        return differs or bool(self.bytes_problem) or receipt.accounted() != Counter(receipt.rows)

    @property
    def is_short(self) -> bool:
        """True if the store holds fewer rows of an outbox than were delivered."""
        return any(self.stored.get(outbox, 0) < rows for outbox, rows in self.receipt.delivered.items())

    def stored_with(self, went: Mapping[str, int]) -> dict[str, int]:
        """Return what is stored, plus the rows that were dropped with their month. While a month is being dropped, its
        rows may still be stored: so they never count as more than were delivered."""
        stored = dict(self.stored)
        for outbox, rows in went.items():
            held = stored.get(outbox, 0)
            stored[outbox] = max(held, min(held + rows, self.receipt.delivered.get(outbox, 0)))
        return stored

    def difference(self) -> str:
        """Return what is wrong, by outbox."""
        of_bytes = [self.bytes_problem] if self.bytes_problem else []
        return ", ".join([*self._not_stored(), *of_bytes, *self._not_accounted(), *vanished_of(self.receipt.vanished)])

    def _not_stored(self) -> Iterator[str]:
        delivered = self.receipt.delivered
        for outbox in sorted({*delivered, *self.stored}):
            if self.stored.get(outbox, 0) != delivered.get(outbox, 0):
                yield f"{outbox}: {self.stored.get(outbox, 0)} of {delivered.get(outbox, 0)} stored"

    def _not_accounted(self) -> Iterator[str]:
        rows, accounted = self.receipt.rows, self.receipt.accounted()
        for outbox in sorted({*rows, *accounted}):
            if rows.get(outbox, 0) != accounted[outbox]:
                yield f"{outbox}: {accounted[outbox]} of {rows.get(outbox, 0)} sealed rows accounted for"

    def as_json(self) -> dict[str, Any]:
        receipt = self.receipt
        return {
            "window": str(receipt.window),
            "dispatched_at": receipt.dispatched_at.isoformat(),
            "acked_at": receipt.acked_at.isoformat(),
            "rows": dict(receipt.rows),
            "delivered": dict(receipt.delivered),
            "vanished": dict(receipt.vanished),
            "refused": dict(receipt.refused),
            "isolated": dict(receipt.isolated),
            "stored": dict(self.stored),
            "difference": self.difference(),
            **({"closed_reason": receipt.closed_reason} if receipt.closed_reason else {}),
        }


def vanished_of(vanished: Mapping[str, int]) -> list[str]:
    """Return, for each outbox, how many rows were deleted before they were loaded."""
    return [f"{outbox}: {rows} vanished" for outbox, rows in sorted(vanished.items())]


def compare(page: Sequence[Receipt], store: EventStore) -> list[ComparedReceipt]:
    """Compare the receipts. Rows that were dropped with their month count as stored. Raises StoreUnavailable."""
    stored = store.counts([receipt.window for receipt in page])
    compared = [ComparedReceipt(receipt, stored.get(receipt.window, {})) for receipt in page]
    short = [one.receipt.window for one in compared if one.is_short]
    went = dropped.rows_of(short) if short else {}
    return [
        ComparedReceipt(one.receipt, one.stored_with(went[one.receipt.window])) if one.receipt.window in went else one
        for one in compared
    ]


def verify_receipts(store: VerifiableStore, *, should_stop: Callable[[], bool]) -> int:
    """Compare every receipt that is not verified yet, and prove those that match the store. Returns the number of those
    that do not: they are alarms.

    While the store does not answer, nothing is decided.
    """
    contradicted = 0
    try:
        for page in receipts.unverified():
            if should_stop():
                break
            contradicted += _record(compare_bytes(page, store), columns=store.covered_columns())
    except EventStoreError as error:
        log.warning("verify_postponed", error=str(error))
    return contradicted


def compare_bytes(page: Sequence[Receipt], store: VerifiableStore) -> list[ComparedReceipt]:
    """The receipts, compared to the byte where that is possible. Raises StoreUnavailable."""
    compared = []
    for part in _parts(page):
        digests: dict[UUID, list[WindowDigest]] = {}
        windows = [receipt.window for receipt in part]
        for one in store.window_digests(windows, columns=store.covered_columns()):
            digests.setdefault(one.window_id, []).append(one)
        problems = _bytes_problems(part, store)
        for receipt in part:
            stored: Counter[str] = Counter()
            for one in digests.get(receipt.window, ()):
                stored[one.outbox] += one.rows
            problem = problems.get(receipt.window, "")
            compared.append(ComparedReceipt(receipt, stored, digests.get(receipt.window, ()), problem))
        heartbeat.step()
    return compared


def _bytes_problems(part: Sequence[Receipt], store: VerifiableStore) -> dict[UUID, str]:
    """Return what is wrong with the stored bytes, by window.

    The store makes the text of a window again with its own columns. So only windows with the same columns are compared.
    For any other, an alarm stays as it is: it does not end because a column was added.
    """
    columns = store.covered_columns()
    comparable = {receipt.window: receipt for receipt in part if loaded.has_columns(receipt.loaded, columns)}
    # Sorted by outbox, as they were loaded.
    outboxes = {window: sorted(receipt.delivered) for window, receipt in comparable.items()}
    bodies = store.body_digests(outboxes) if outboxes else {}
    found = {
        receipt.window: _NOT_COMPARABLE
        for receipt in part
        if receipt.is_alarm and receipt.loaded and receipt.window not in comparable
    }
    for window, body in bodies.items():
        if loaded.said_of(body, columns=columns) != comparable[window].loaded:
            found[window] = _ALTERED
    return found


def _parts(page: Sequence[Receipt]) -> Iterator[list[Receipt]]:
    """Split the receipts into parts that the store can digest within its time and memory."""
    part: list[Receipt] = []
    rows = size = 0
    for receipt in page:
        if part and (rows > _MOST_ROWS or size + receipt.bytes > _MOST_BYTES):
            yield part
            part, rows, size = [], 0, 0
        part.append(receipt)
        rows += sum(receipt.delivered.values())
        size += receipt.bytes
    yield part


def _record(page: Sequence[ComparedReceipt], *, columns: Sequence[str]) -> int:
    contradicted = [compared for compared in page if compared.is_contradicted]
    matching = [compared.receipt.window for compared in page if not compared.is_contradicted]
    proofs.note_verified(
        matching,
        [digest for compared in page if not compared.is_contradicted for digest in compared.digests],
        columns=columns,
    )
    for compared in contradicted:
        # Logged each minute, it would bury the log. The ledger, the metric and `status` keep saying it.
        if receipts.note_contradiction(compared.receipt.window, compared.difference()):
            log.error("receipt_mismatch", **compared.as_json())
    metrics.verified_windows.labels("match").inc(len(matching))
    metrics.verified_windows.labels("mismatch").inc(len(contradicted))
    log.info("receipts_verified", windows=len(matching), mismatches=len(contradicted))
    return len(contradicted)


def close_alarms(windows: Sequence[UUID], store: VerifiableStore, *, reason: str, by: str) -> None:
    """Close the alarms of these windows: what the event store holds stays as it is, and is proven in that state. An
    event records who decided it, and why, in the same transaction.

    Raises NoAlarm, before anything is changed, if one of them is not an alarm; StoreUnavailable.
    """
    columns = store.covered_columns()
    digests = store.window_digests(windows, columns=columns)
    with transaction.atomic():
        alarms = receipts.close(windows, reason=reason)
        closed = {alarm.window: alarm.contradiction or ", ".join(vanished_of(alarm.vanished)) for alarm in alarms}
        unproven = [alarm.window for alarm in alarms if alarm.contradiction]
        proofs.note_closed(
            unproven,
            [one for one in digests if one.window_id in unproven],
            columns=columns,
            reason=f"{reason} (closed by {by})",
        )
        if others := set(windows) - closed.keys():
            raise NoAlarm(f"The receipt {min(others)} has no alarm: see `pipeline verify --since ...`.")
        for window, difference in closed.items():
            publish(ReceiptMismatchClosed(window=str(window), difference=difference, reason=reason, closed_by=by))
    for window, difference in closed.items():
        log.warning("receipt_mismatch_closed", window=str(window), difference=difference, reason=reason, by=by)


def purge_receipts(*, receipt_days: int, should_stop: Callable[[], bool]) -> int:
    """Delete older verified receipts in small steps. Returns their number. Unverified ones are kept as evidence."""
    purged = 0
    for _ in range(_DELETES_PER_ROUND):
        if should_stop():
            break
        deleted = receipts.purge(days=receipt_days, limit=_RECEIPTS_PER_DELETE)
        purged += deleted
        heartbeat.step()
        if deleted < _RECEIPTS_PER_DELETE:
            break
    if purged:
        log.info("receipts_purged", receipts=purged)
    return purged
