"""The report of a period: how many rows were committed, where they are now, and whether that is all of them.

`committed` is counted from what was fixed at the seal, the other columns from what was fixed at the ack and from what
the event store holds now. Where they do not add up, a receipt is wrong, and the report names its window.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from towpath.flow.verify import ComparedReceipt, compare, compare_bytes
from towpath.ledger.period import read_row_counts
from towpath.ledger.receipts import of_period
from towpath.outbox.models import all_outboxes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from towpath.eventlog.store import VerifiableStore
    from towpath.ledger.receipts import Receipt


@dataclass(slots=True)
class OutboxReport:
    """The rows of one outbox in a period."""

    #: The sealed rows that went to no dead letter and no other window, plus those in flight, dead or pending.
    committed: int = 0
    stored: int = 0
    pending: int = 0
    in_flight: int = 0
    dead: int = 0
    #: Rows that were deleted from their outbox before they were loaded.
    vanished: int = 0
    #: Rows that the event store should have but does not; negative if it has more.
    lost: int = 0


@dataclass(slots=True)
class PeriodReport:
    """What became of the rows that were dispatched in a period."""

    windows: int = 0
    outboxes: dict[str, OutboxReport] = field(default_factory=dict)
    #: Receipts that do not match the event store, or do not add up.
    mismatches: list[ComparedReceipt] = field(default_factory=list)
    #: Receipts of windows with vanished rows.
    vanished: list[ComparedReceipt] = field(default_factory=list)
    #: Receipts of either kind whose alarm a person has closed.
    closed: list[ComparedReceipt] = field(default_factory=list)

    @property
    def is_ok(self) -> bool:
        """True if every row is accounted for, except those that a person has given up."""
        return not (self.mismatches or self.vanished)

    def as_json(self) -> dict[str, Any]:
        return {
            "windows": self.windows,
            "outboxes": {name: asdict(rows) for name, rows in self.outboxes.items()},
            "mismatches": [receipt.as_json() for receipt in self.mismatches],
            "vanished": [receipt.as_json() for receipt in self.vanished],
            "closed": [receipt.as_json() for receipt in self.closed],
        }


def read_period(store: VerifiableStore, *, since: datetime, until: datetime | None) -> PeriodReport:
    """Return what became of the rows dispatched from `since` to before `until`. Without `until`, pending rows count
    too.

    PostgreSQL computes the sums at one moment. Every receipt of the period is compared with the store, verified or not.
    Raises StoreUnavailable.
    """
    end = until or datetime.max.replace(tzinfo=UTC)
    counts = read_row_counts(since=since, until=end, outboxes=list(all_outboxes()), is_with_pending=until is None)
    report = PeriodReport(
        outboxes={
            name: OutboxReport(
                committed=rows.sealed + rows.pending + rows.in_flight + rows.dead,
                stored=rows.delivered,  # until the store says otherwise
                pending=rows.pending,
                in_flight=rows.in_flight,
                dead=rows.dead,
                vanished=rows.vanished,
            )
            for name, rows in counts.items()
        }
    )
    # Without an open transaction, because the store may take its time. A receipt never changes.
    for page in of_period(since, end):
        _compare(report, page, store)
    return report


def _compared(page: Sequence[Receipt], store: VerifiableStore) -> Iterator[ComparedReceipt]:
    """By their counts; those that are alarms, and whose counts are right, by their bytes, which takes longer."""
    for compared in compare(page, store):
        if compared.receipt.is_alarm and not compared.is_contradicted:
            yield from compare_bytes([compared.receipt], store)
        else:
            yield compared


def _compare(report: PeriodReport, page: Sequence[Receipt], store: VerifiableStore) -> None:
    report.windows += len(page)
    for compared in _compared(page, store):
        receipt = compared.receipt
        if compared.is_contradicted:
            (report.closed if receipt.closed_reason else report.mismatches).append(compared)
        if receipt.vanished and not receipt.closed_reason:
            report.vanished.append(compared)
        elif receipt.vanished and not compared.is_contradicted:
            report.closed.append(compared)
        for outbox in {*receipt.delivered, *compared.stored}:
            if lost := receipt.delivered.get(outbox, 0) - compared.stored.get(outbox, 0):
                of_outbox = report.outboxes.setdefault(outbox, OutboxReport())
                of_outbox.lost += lost
                of_outbox.stored -= lost
