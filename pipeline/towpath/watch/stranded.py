"""Stranded rows, for `status`: how many no cursor will ever see, since when, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import connection
from django.db.models import TextField
from django.db.models.functions import Cast

from towpath.ledger import cursors, pending, stranded
from towpath.ledger.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator

    from towpath.outbox.models import Outbox
    from towpath.watch.figures import Figures, OutboxFigures

#: Counted up to here, so that a look costs the same with ten rows and with ten million.
_MOST_COUNTED = 10_000

#: Dead rows, and rows in flight, are walked over one by one. Up to this many are few: then all rows are looked at.
_FEW = 1_000
#: As many as vacuum waits for. If there are more, stranded rows are looked for after vacuum.
_MOST_DEAD = 20_000


def is_looked_for(outbox: OutboxFigures) -> bool:
    """True if stranded rows are looked for; False while there are so many dead rows that vacuum has to come first."""
    return outbox.dead_rows <= _MOST_DEAD


def first_held(figures: Figures) -> int:
    """Return the oldest transaction whose rows may still be visible to a session. Vacuum removes what died before
    it."""
    oldest = max((holder.transactions for holder in figures.holders or ()), default=0)
    return Snapshot.parse(cursors.current_snapshot()).xmax - oldest


def problems(model: type[Outbox], outbox: OutboxFigures, *, held_from: int) -> Iterator[str]:
    """Yield what is wrong with rows of the outbox, in a transaction with one snapshot.

    If there are more than a few dead rows, rows of transactions from `held_from` on are left out, because vacuum has
    not passed them yet. If there are more than a few rows in flight, rows from the oldest of these on are left out.
    """
    cursor = cursors.read(model.outbox_name(), is_locked=False)
    if cursor is None or not is_looked_for(outbox):
        return
    ends = [held_from] if outbox.dead_rows > _FEW else []
    if outbox.in_flight > _FEW and (in_flight_from := pending.first_transaction_in_flight(model.outbox_name())):
        ends.append(in_flight_from)
    rows, first = stranded.count(model, cursor, most=_MOST_COUNTED, before=min(ends, default=None))
    if rows:
        count = f"{rows:,} or more" if rows >= _MOST_COUNTED else f"{rows:,}"
        yield (
            f"{count} row(s) of {model.outbox_name()} will never be dispatched, the first from"
            f" {_time_of(model, first)}: they were inserted with an xid from elsewhere (a dump, INSERT ... SELECT,"
            " COPY, replication). Run `python manage.py pipeline recover`, or delete the rows that are already stored"
        )


def _time_of(model: type[Outbox], row_id: int | None) -> str:
    # As text: PostgreSQL knows times that Python does not.
    at = Cast(model.event_columns()["event_date_time"], TextField())
    rows = model._base_manager.using(connection.alias).filter(id=row_id)
    return rows.values_list(at, flat=True).first() or "an unknown time"
