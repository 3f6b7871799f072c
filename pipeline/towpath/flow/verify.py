"""Verify: every receipt is compared with what the event store holds of its window, and any period's ledger adds up.

A receipt says how many rows of each outbox were stored and deleted. If the store has as many, the receipt becomes
verified; if not, that is an alarm, kept in the ledger and looked at again each minute until it is true (rows that a
restored replica brings back) or a person closes it with a reason. The rows themselves are gone from PostgreSQL by then.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
from django.db import connection, transaction

from towpath.conf.current import config
from towpath.errors import NoAlarm
from towpath.eventlog.errors import EventStoreError
from towpath.events import ReceiptMismatchClosed
from towpath.ledger.moment import one_moment
from towpath.outbox.models import all_outboxes
from towpath.outbox.publishing import publish
from towpath.telemetry import heartbeat, metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from towpath.eventlog.store import EventStore

log = structlog.get_logger()

#: Windows of one query to the store.
_WINDOWS_PER_QUERY = 300
#: Receipts of one DELETE, and DELETEs in one minute, at most: 50,000 windows a minute are more than are written.
_RECEIPTS_PER_DELETE = 1000
_DELETES_PER_ROUND = 50

_NOTHING: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A window of which the event store holds something else than its receipt says."""

    window: UUID
    dispatched_at: datetime
    acked_at: datetime
    delivered: Mapping[str, int]
    stored: Mapping[str, int]
    #: Why a person has closed the alarm; empty: nobody has.
    closed_reason: str = ""

    def difference(self) -> str:
        """What the store holds of what was delivered, by outbox, where that differs."""
        return ", ".join(
            f"{outbox}: {self.stored.get(outbox, 0)} stored of {self.delivered.get(outbox, 0)}"
            for outbox in sorted({*self.delivered, *self.stored})
            if self.stored.get(outbox, 0) != self.delivered.get(outbox, 0)
        )

    def as_json(self) -> dict[str, Any]:
        return {
            "window": str(self.window),
            "dispatched_at": self.dispatched_at.isoformat(),
            "acked_at": self.acked_at.isoformat(),
            "delivered": dict(self.delivered),
            "stored": dict(self.stored),
            **({"closed_reason": self.closed_reason} if self.closed_reason else {}),
        }


@dataclass(slots=True)
class OutboxLedger:
    """The rows of one outbox in a period: committed = stored + pending + in flight + dead, unless some are missing."""

    stored: int = 0
    pending: int = 0
    in_flight: int = 0
    dead: int = 0
    #: Rows that receipts promise and the store does not have; negative when it has more.
    missing: int = 0

    @property
    def committed(self) -> int:
        return self.stored + self.pending + self.in_flight + self.dead + self.missing


@dataclass(slots=True)
class Ledger:
    """What became of the rows that were dispatched in a period."""

    windows: int = 0
    outboxes: dict[str, OutboxLedger] = field(default_factory=dict)
    mismatches: list[Mismatch] = field(default_factory=list)
    #: Of alarms that a person has closed.
    closed: list[Mismatch] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return {
            "windows": self.windows,
            "outboxes": {name: {"committed": rows.committed, **asdict(rows)} for name, rows in self.outboxes.items()},
            "mismatches": [mismatch.as_json() for mismatch in self.mismatches],
            "closed": [mismatch.as_json() for mismatch in self.closed],
        }


@dataclass(frozen=True, slots=True)
class _Receipt:
    window: UUID
    dispatched_at: datetime
    acked_at: datetime
    delivered: Mapping[str, int]
    closed_reason: str


def verify_receipts(store: EventStore, *, should_stop: Callable[[], bool]) -> int:
    """Compare every receipt that is not verified yet; how many contradict the store. Those are alarms.

    While the store is away nothing is decided.
    """
    mismatched = 0
    try:
        for receipts in _pages("verified_at IS NULL", {}):
            if should_stop():
                break
            mismatched += _record(receipts, store.counts([receipt.window for receipt in receipts]))
            heartbeat.step()
    except EventStoreError as error:
        log.warning("verify_postponed", error=str(error))
    return mismatched


def _pages(condition: str, parameters: Mapping[str, Any]) -> Iterator[Sequence[_Receipt]]:
    """The receipts of which the condition is true, page by page, oldest first."""
    after: Mapping[str, Any] = {"after_time": datetime.min.replace(tzinfo=UTC), "after_id": UUID(int=0)}
    while True:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT id, dispatched_from, acked_at, delivered, closed_reason FROM pipeline_window"
                f" WHERE acked_at IS NOT NULL AND {condition}"
                " AND (acked_at, id) > (%(after_time)s, %(after_id)s) ORDER BY acked_at, id LIMIT %(limit)s",
                {**parameters, **after, "limit": _WINDOWS_PER_QUERY},
            )
            receipts = [
                _Receipt(window, dispatched_at, acked_at, json.loads(delivered), closed_reason)
                for window, dispatched_at, acked_at, delivered, closed_reason in cursor.fetchall()
            ]
        if not receipts:
            return
        yield receipts
        after = {"after_time": receipts[-1].acked_at, "after_id": receipts[-1].window}


def _record(receipts: Sequence[_Receipt], counts: Mapping[UUID, Mapping[str, int]]) -> int:
    mismatches = [*_mismatches(receipts, counts)]
    contradicted = {mismatch.window for mismatch in mismatches}
    matching = [receipt for receipt in receipts if receipt.window not in contradicted]
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE pipeline_window SET verified_at = clock_timestamp(), contradiction = NULL WHERE id = ANY(%s)",
            [[receipt.window for receipt in matching]],
        )
        for mismatch in mismatches:
            cursor.execute(
                "UPDATE pipeline_window SET contradiction = %s WHERE id = %s AND contradiction IS DISTINCT FROM %s",
                [mismatch.difference(), mismatch.window, mismatch.difference()],
            )
            # Each minute again would bury the log; the ledger, the metric and `status` keep on saying so.
            if cursor.rowcount:
                log.error("receipt_mismatch", **mismatch.as_json())
    metrics.verified_windows.labels("match").inc(len(matching))
    metrics.verified_windows.labels("mismatch").inc(len(mismatches))
    log.info("receipts_verified", windows=len(matching), mismatches=len(mismatches))
    return len(mismatches)


def _mismatches(receipts: Sequence[_Receipt], counts: Mapping[UUID, Mapping[str, int]]) -> Iterator[Mismatch]:
    for receipt in receipts:
        stored = counts.get(receipt.window, _NOTHING)
        if Counter(stored) != Counter(receipt.delivered):
            yield Mismatch(
                window=receipt.window,
                dispatched_at=receipt.dispatched_at,
                acked_at=receipt.acked_at,
                delivered=receipt.delivered,
                stored=stored,
                closed_reason=receipt.closed_reason,
            )


def has_overdue_receipts(*, seconds: float) -> bool:
    """True if receipts have waited for so long, and nobody has compared them with the event store yet."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM pipeline_window WHERE acked_at < now() - make_interval(secs => %s)"
            " AND acked_at IS NOT NULL AND verified_at IS NULL AND contradiction IS NULL)",
            [seconds],
        )
        return bool(cursor.fetchone()[0])


def close(windows: Sequence[UUID], *, reason: str, by: str) -> None:
    """End the alarms of these windows: what the event store holds stays as it is. That it was decided, by whom and why,
    is an event itself, in the same transaction.

    Raises NoAlarm, before anything is changed, if one of them is not an alarm.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            """
UPDATE pipeline_window SET verified_at = coalesce(verified_at, clock_timestamp()), closed_reason = %(reason)s
WHERE id = ANY(%(windows)s) AND acked_at IS NOT NULL AND closed_reason = ''
AND CASE WHEN verified_at IS NULL THEN contradiction ELSE vanished::text END IS NOT NULL
RETURNING id, coalesce(contradiction, 'vanished: ' || vanished::text)
""",
            {"reason": reason, "windows": list(windows)},
        )
        closed = dict(cursor.fetchall())
        if missing := set(windows) - closed.keys():
            raise NoAlarm(f"{min(missing)} is not the receipt of an alarm: see `pipeline verify --since ...`.")
        for window, difference in closed.items():
            publish(ReceiptMismatchClosed(window=str(window), difference=difference, reason=reason, closed_by=by))
    for window, difference in closed.items():
        log.warning("receipt_mismatch_closed", window=str(window), difference=difference, reason=reason, by=by)


def purge_receipts(*, should_stop: Callable[[], bool]) -> int:
    """Delete verified receipts older than RECEIPT_DAYS, in small steps; how many. Unverified ones are evidence."""
    purged = 0
    for _ in range(_DELETES_PER_ROUND):
        if should_stop():
            break
        with connection.cursor() as cursor:
            cursor.execute(
                "DELETE FROM pipeline_window WHERE id IN (SELECT id FROM pipeline_window"
                " WHERE acked_at < clock_timestamp() - make_interval(days => %s) AND verified_at IS NOT NULL"
                " ORDER BY acked_at LIMIT %s)",
                [config().receipt_days, _RECEIPTS_PER_DELETE],
            )
            purged += cursor.rowcount
            heartbeat.step()
            if cursor.rowcount < _RECEIPTS_PER_DELETE:
                break
    if purged:
        log.info("receipts_purged", receipts=purged)
    return purged


def read_ledger(store: EventStore, *, since: datetime, until: datetime | None) -> Ledger:
    """What became of the rows dispatched from `since` to before `until`, or to now, in which case those pending count.

    The sums are PostgreSQL's at one moment; every receipt of the period is compared with the store, verified or not.
    Raises StoreUnavailable.
    """
    period = {"since": since, "until": until or datetime.max.replace(tzinfo=UTC)}
    ledger = Ledger(outboxes={name: OutboxLedger() for name in all_outboxes()})
    with one_moment(by_index=False) as cursor:
        for attribute, sql in _SUMS.items():
            cursor.execute(sql, period)
            for outbox, rows in cursor.fetchall():
                setattr(ledger.outboxes.setdefault(outbox, OutboxLedger()), attribute, int(rows))
        for name in all_outboxes() if until is None else ():
            cursor.execute(
                f"SELECT (SELECT count(*) FROM {connection.ops.quote_name(name)})"
                " - (SELECT coalesce(sum(rows), 0) FROM pipeline_batch WHERE outbox = %s)"
                " - (SELECT count(*) FROM pipeline_deadletter WHERE outbox = %s)",
                [name, name],
            )
            ledger.outboxes[name].pending = int(cursor.fetchone()[0])
    # With no transaction open, because the store may take its time. A receipt never changes.
    for receipts in _pages(_OF_PERIOD, period):
        _compare(ledger, receipts, store)
    return ledger


#: By outbox, of the rows dispatched in a period. `stored` is what the receipts say, until the store says otherwise.
_OF_PERIOD = "acked_at >= %(since)s AND dispatched_from >= %(since)s AND dispatched_from < %(until)s"
_SUMS = {
    "stored": "SELECT key, sum(value::bigint) FROM pipeline_window, jsonb_each_text(delivered)"
    f" WHERE {_OF_PERIOD} GROUP BY key",
    "in_flight": "SELECT outbox, sum(rows) FROM pipeline_batch"
    " WHERE dispatched_at >= %(since)s AND dispatched_at < %(until)s GROUP BY outbox",
    "dead": "SELECT outbox, count(*) FROM pipeline_deadletter WHERE at >= %(since)s AND at < %(until)s GROUP BY outbox",
}


def _compare(ledger: Ledger, receipts: Sequence[_Receipt], store: EventStore) -> None:
    ledger.windows += len(receipts)
    for mismatch in _mismatches(receipts, store.counts([receipt.window for receipt in receipts])):
        (ledger.closed if mismatch.closed_reason else ledger.mismatches).append(mismatch)
        for outbox in {*mismatch.delivered, *mismatch.stored}:
            missing = mismatch.delivered.get(outbox, 0) - mismatch.stored.get(outbox, 0)
            of_outbox = ledger.outboxes.setdefault(outbox, OutboxLedger())
            of_outbox.missing += missing
            of_outbox.stored -= missing
