"""Packing: when the receipts under a seal are gone, its proofs shrink to what is needed to check the event store.

The seals of about a day are one transaction, under the lock of the proofs, and a month of a seal is packed as a whole
or not at all. It is committed only if the packed proofs still are what their seals say. If the power fails before the
commit, the next look begins with the same seals.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from django.db import transaction

from towpath.ledger import packed, seals
from towpath.ledger.dropped import dropped_months
from towpath.proof.statement import parse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import date

    from towpath.ledger.packed import PackableMonth
    from towpath.ledger.seals import Seal
    from towpath.proof.statement import Statement

log = structlog.get_logger()

#: What is sealed was acked before, and a receipt that is late is purged within this time.
_LATE_DAYS = 1
#: A day has 24 seals, or a few more. Together, those with few windows fill rows of the table.
_DAYS_TOGETHER = 1
_MOST_SEALS = 30
#: The most positions of one transaction, unless one seal has more: all of them are read, and written, at a time.
_MOST_POSITIONS = 500_000


def pack_proofs(*, receipt_days: int) -> int:
    """Pack the proofs under seals that are older than so many days, and two days more. Returns their number. To be
    called when no receipt is left that is to be purged.

    A month under a seal stays as it is if one of its proofs is an amendment, does not match the seal or still has its
    receipt, or if the month was dropped.
    """
    days = receipt_days + _LATE_DAYS
    if not seals.to_pack(older_than_days=days + _DAYS_TOGETHER, limit=1):
        return 0
    with transaction.atomic():
        seals.lock()
        together = _together(seals.to_pack(older_than_days=days, limit=_MOST_SEALS))
        if not together:
            return 0  # somebody else has packed them
        dropped = dropped_months()
        chosen = [(month, statement) for _, statement in together if statement for month in _months(statement, dropped)]
        proofs = packed.pack([month for month, _ in chosen])
        if not all(_is_sealed(month, statement) for month, statement in chosen):
            raise RuntimeError("the proofs would not match their seals if they were packed: nothing was")
        seals.note_packed(together[-1][0])
    if proofs:
        log.info("proofs_packed", proofs=proofs)
    return proofs


def _together(waiting: Iterable[Seal]) -> list[tuple[Seal, Statement | None]]:
    """Return those of the seals that are packed in one transaction, with their statements."""
    found: list[tuple[Seal, Statement | None]] = []
    positions = 0
    for seal in waiting:
        try:
            statement = parse(seal.statement)
        except ValueError:
            statement = None  # an audit names it
        positions += statement.last - statement.first + 1 if statement else 0
        if found and positions > _MOST_POSITIONS:
            break
        found.append((seal, statement))
    return found


def _months(statement: Statement, dropped: Mapping[date, int]) -> Iterator[PackableMonth]:
    """Yield the months of a seal that are packed."""
    for month in packed.packable_months(after=statement.first - 1, until=statement.last):
        if dropped.get(month.month, 0) < statement.first and _is_sealed(month, statement):
            yield month


def _is_sealed(month: PackableMonth, statement: Statement) -> bool:
    sealed = statement.months.get(month.month)
    found = seals.read_parts(after=month.after, until=month.until).get(month.month)
    return bool(sealed and found and sealed.lasting and sealed.covers(found))
