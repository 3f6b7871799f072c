"""Stranded rows, for `status`: how many no cursor will ever see, since when, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import connection
from django.db.models import TextField
from django.db.models.functions import Cast

from towpath.ledger import cursors, stranded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from towpath.outbox.models import Outbox

#: Counted up to here, so that a look costs the same with ten rows and with ten million.
_MOST_COUNTED = 10_000


def problems(model: type[Outbox]) -> Iterator[str]:
    """What is wrong with rows of the outbox. For a transaction in which all is of one snapshot."""
    seen = cursors.seen(model.outbox_name(), is_locked=False)
    if seen is None:
        return
    rows, first = stranded.count(model, seen, most=_MOST_COUNTED)
    if rows:
        count = f"{rows:,} or more" if rows >= _MOST_COUNTED else f"{rows:,}"
        yield (
            f"{model.outbox_name()}: {count} row(s) are never dispatched, the first of {_time_of(model, first)}: their"
            " xid was not given by PostgreSQL when they were inserted (a dump, INSERT ... SELECT, COPY, replication)."
            " Run `python manage.py pipeline recover`, or delete those that are stored already"
        )


def _time_of(model: type[Outbox], row_id: int | None) -> str:
    # As text: PostgreSQL knows times that Python does not.
    at = Cast(model.event_columns()["event_date_time"], TextField())
    rows = model._base_manager.using(connection.alias).filter(id=row_id)
    return rows.values_list(at, flat=True).first() or "an unknown time"
