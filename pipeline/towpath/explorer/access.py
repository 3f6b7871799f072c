"""Who has read the log, as events in the log. They are recorded before anything is shown: no record, no answer.

If a person repeats something within ten minutes, it is recorded once, however many web processes answer. A row in a
table decides that, in the transaction that publishes the event.
"""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from django.db import transaction

from towpath import driver
from towpath.explorer.events import EventOpened, EventsAccessRefused, EventsSearched
from towpath.explorer.state import Last
from towpath.outbox.context import bind, bound
from towpath.outbox.publishing import publish
from towpath.pages.zones import as_utc

if TYPE_CHECKING:
    from towpath.eventlog.search import FoundEvent
    from towpath.explorer.state import State
    from towpath.outbox.event import Event

#: How long a repetition is not recorded again.
JOINED = timedelta(minutes=10)
#: Most expired rows that each new record deletes. So the table holds no more than about ten minutes' records.
_MOST_FORGOTTEN = 100

# If the same record is being made in another transaction, this waits: it finds that record if it is committed, and
# makes its own if it is rolled back.
_IS_NEW = """
INSERT INTO towpath_explorer_access AS known (digest, at) VALUES (%s, now())
ON CONFLICT (digest) DO UPDATE SET at = excluded.at WHERE known.at <= excluded.at - make_interval(secs => %s)
RETURNING digest
"""
# Skips rows that are locked: nobody waits here, so there is no deadlock. A later record deletes them.
_FORGET = """
DELETE FROM towpath_explorer_access WHERE digest IN (
    SELECT digest FROM towpath_explorer_access WHERE at <= now() - make_interval(secs => %s)
    ORDER BY at LIMIT %s FOR UPDATE SKIP LOCKED
)
"""


def searched(user: Any, state: State, *, now: datetime, shown_as: str) -> None:
    """Record a search. A period up to now counts as the same one ten minutes later; a period that is moved does not.

    `shown_as` is page, api, tail or timeline.
    """
    bounds = state.bounds(now)
    since, until = as_utc(bounds.since), as_utc(bounds.until)
    is_up_to_now = isinstance(state.period, Last) and abs(datetime.now(UTC) - now) < JOINED
    period = state.period.text if isinstance(state.period, Last) and is_up_to_now else f"{since} {until}"
    event = EventsSearched(query=str(state.query), since=since, until=until, shown_as=shown_as)
    _record_once(user, event, event.query, period, shown_as)


def opened(user: Any, found: FoundEvent, *, row: int) -> None:
    """Record that a person opened an event. `row` says which of several at one position, counted from 1."""
    event = found.event
    record = EventOpened(outbox=event.outbox, outbox_id=event.outbox_id, opened_type=event.event_type)
    _record_once(user, record, event.outbox, str(event.outbox_id), as_utc(event.event_date_time), str(row))


def refused(user: Any, what: str) -> None:
    """Record that a person tried something that they may not do."""
    _record_once(user, EventsAccessRefused(what=what), what)


def record(user: Any, event: Event) -> None:
    """Record an event, even if it is a repetition."""
    with transaction.atomic(), _acting(user):
        publish(event)


def _record_once(user: Any, event: Event, *same: str) -> None:
    # With lengths, so that no two lists give the same text.
    parts = (event.event_type, str(user.pk), *same)
    digest = sha256("".join(f"{len(part)}:{part}" for part in parts).encode("utf-8", "surrogatepass")).hexdigest()
    with transaction.atomic(), _acting(user):
        with driver.cursor() as cursor:
            cursor.execute(_IS_NEW, [digest, JOINED.total_seconds()])
            if cursor.fetchone() is None:
                return
            cursor.execute(_FORGET, [JOINED.total_seconds(), _MOST_FORGOTTEN])
        publish(event)


def _acting(user: Any) -> Any:
    """A context that binds the user as the actor, unless one is bound. Without Towpath's middleware, nobody has done
    it, and these events are about who it was."""
    return nullcontext() if (bound() or {}).get("actor") else bind(actor=f"user:{user.pk}")
