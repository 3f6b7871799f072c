"""Publish: the event is committed with the caller's transaction, or not at all.

If the power fails before the caller's COMMIT, neither the change nor its event has happened. After it, both have.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, DataError, IntegrityError, ProgrammingError, transaction
from django.utils import timezone

from towpath.conf.current import config
from towpath.driver import sqlstate
from towpath.eventlog.values import EARLIEST, LARGEST, TOO_LATE
from towpath.outbox.context import bound_json
from towpath.outbox.errors import EventNotStorable
from towpath.outbox.event import Event, Outcome, stored_context
from towpath.outbox.fields import RowLimits, TableStorage
from towpath.outbox.insert import ROWS_PER_STATEMENT, insert, require_transaction
from towpath.outbox.models import FrozenOutbox, outbox_of
from towpath.outbox.own_columns import is_judged, own_fields, own_values

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The most characters of context in one INSERT: several copies of its text are held in memory.
_CHARACTERS_PER_STATEMENT = 8 * 1024 * 1024

#: SQLSTATEs about a value, besides the class of data exceptions: a value is not of the column's type, an array has no
#: type, an entry of an index is too large.
_OF_A_VALUE = ("42804", "42P18", "54000")

#: What `publish_many` takes: an event, or one with a time of its own.
_Item = Event | tuple[Event, datetime]


def publish(
    event: Event, *, at: datetime | None = None, target: str | None = None, outcome: Outcome | None = None
) -> None:
    """Record `event` in the caller's transaction: it is committed together with the change that it reports, or not at
    all. Once committed, it arrives in the event log, once (docs/guarantees.md).

        with transaction.atomic():
            user.save()
            publish(UserCreated(email=user.email))

    This inserts one row into an outbox, and talks to no other service. The outbox is the `FrozenOutbox` that names the
    event's class in `events`, or `OutboxEvent`.

    Parameters:
      event: what happened. It is stored as compact JSON, exactly as it is now.
      at: when it happened, with a time zone, in the years 1900 to 2299. Default: now.
      target: what was acted on, such as `"user:7"`. Default: the event's `event_target`, or else the bound target.
      outcome: `"success"`, `"failure"` or `"denied"`. Default: the event's `event_outcome`, or else the bound outcome.

    Raises, before any row is written:
      NotInTransaction: there is no `transaction.atomic()` around the call, so the event and its change could be
        committed one without the other.
      EventTooLarge: the event's JSON has more than EVENT_CONTEXT_MAX_BYTES bytes.
      EventNotStorable: the event's fields, time, target or outcome cannot be stored as they are.
    """
    require_transaction()
    _insert([_frozen(event, at, target, outcome)])


def publish_many(
    events: Iterable[_Item], *, at: datetime | None = None, target: str | None = None, outcome: Outcome | None = None
) -> None:
    """Record any number of events in the caller's transaction: all of them, or none if one is refused.

    This is `publish` for many events, with one INSERT per thousand. `events` may be a generator of millions: only a few
    thousand events are held in memory at a time.

    Parameters:
      events: events, or pairs of an event and the time at which it happened.
      at: when the events without a time of their own happened, with a time zone. Default: now.
      target: what all of them acted on. Default: the `event_target` of each, or else the bound target.
      outcome: the outcome of all of them. Default: the `event_outcome` of each, or else the bound outcome.

    Raises what `publish` raises. Then none of the events is stored, even if the caller catches the error.
    """
    require_transaction()
    chunks = _chunks(events, at, target, outcome)
    first, second = next(chunks, []), next(chunks, [])
    outboxes = {one.outbox for one in first}
    if not second and (len(outboxes) <= 1 or not any(map(_has_rules_of_its_own, outboxes))):
        _insert(first)
        return
    # If a later event is refused, or one of another outbox, a caller that catches the error must not commit the
    # statements before it.
    with transaction.atomic():
        for chunk in itertools.chain([first, second], chunks):
            _insert(chunk)


@dataclass(frozen=True, slots=True)
class _Frozen:
    """An event as it will be stored; `row` has a value for each column of `_columns(outbox)`."""

    outbox: type[FrozenOutbox]
    event: type[Event]
    characters: int
    row: tuple[Any, ...]


def _frozen(event: Event, at: datetime | None, target: str | None, outcome: Outcome | None) -> _Frozen:
    if not isinstance(event, Event):
        name = event.__name__ if isinstance(event, type) else type(event).__name__
        raise TypeError(f"publish() takes an object of a subclass of towpath.Event, as in SignedUp(...), not {name}")
    current = config()
    outbox = outbox_of(type(event))
    context = stored_context(event, most_bytes=current.event_context_max_bytes)
    if at is None:
        at = datetime.now(UTC)
    elif not isinstance(at, datetime):
        raise EventNotStorable(f"{type(event).__name__} cannot be stored: its time {at} is not a datetime")
    elif timezone.is_naive(at):
        raise EventNotStorable(f"{type(event).__name__} cannot be stored: its time {at} has no time zone: give it one")
    if not EARLIEST <= at < TOO_LATE:
        raise EventNotStorable(
            f"{type(event).__name__} cannot be stored: its time {at} is not in the years 1900 to 2299"
        )
    if not 0 <= event.version <= LARGEST:
        raise EventNotStorable(
            f"{type(event).__name__} cannot be stored: its version {event.version} is not in the range 0 to {LARGEST}"
        )
    try:
        bound = bound_json(
            target=event.event_target if target is None else target,
            outcome=event.event_outcome if outcome is None else outcome,
        )
    except ValueError as error:
        raise EventNotStorable(f"{type(event).__name__} cannot be stored: {error}") from None
    row: tuple[Any, ...] = (event.event_type, at, context, event.version, bound)
    return _Frozen(outbox, type(event), len(context), row + own_values(outbox, event, context, columns=current.columns))


def _chunks(
    events: Iterable[_Item], at: datetime | None, target: str | None, outcome: Outcome | None
) -> Iterator[list[_Frozen]]:
    """What goes into one statement each (or one for each outbox)."""
    chunk: list[_Frozen] = []
    characters = 0
    for item in events:
        event, moment = (item, at) if isinstance(item, Event) else item
        chunk.append(_frozen(event, moment, target, outcome))
        characters += chunk[-1].characters
        if len(chunk) >= ROWS_PER_STATEMENT or characters >= _CHARACTERS_PER_STATEMENT:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _insert(chunk: Sequence[_Frozen]) -> None:
    by_outbox: dict[type[FrozenOutbox], list[_Frozen]] = {}
    for one in chunk:
        by_outbox.setdefault(one.outbox, []).append(one)
    for outbox, events in by_outbox.items():
        rows = [one.row for one in events]
        if not _has_rules_of_its_own(outbox):
            try:
                insert(outbox._meta.db_table, _columns(outbox), rows)
            except EventNotStorable:
                if events[0] is not chunk[0]:
                    transaction.set_rollback(True)  # the events of another outbox would be committed without these
                raise
            continue
        try:
            with transaction.atomic():  # a savepoint, so that the caller's transaction survives a refusal
                insert(outbox._meta.db_table, _columns(outbox), rows)
        except DatabaseError as error:
            reason = _refusal(outbox, error)
            if reason is None:
                raise
            names = " or ".join(sorted({one.event.__name__ for one in events}))
            raise EventNotStorable(f"{names} cannot be stored in {outbox.__name__}: {reason}") from None


@functools.cache
def _has_rules_of_its_own(outbox: type[FrozenOutbox]) -> bool:
    """True if PostgreSQL may refuse a row for a reason that only it can see."""
    declared = [one for one in outbox._meta.constraints if not isinstance(one, TableStorage | RowLimits)]
    # An index takes no value over a third of a page; the expression of an index or a generated column may fail.
    declared += [one for one in outbox._meta.indexes if one.fields != ["xid", "id"]]
    is_generated = any(field.generated for field in outbox._meta.concrete_fields)
    is_columns = any(
        field.unique or getattr(field, "db_index", False) or not is_judged(field) for field in own_fields(outbox)
    )
    return bool(declared or outbox._meta.unique_together or is_generated or is_columns)


def _refusal(outbox: type[FrozenOutbox], error: DatabaseError) -> str | None:
    """Return why PostgreSQL refuses the row, without its values; None if the row is not what is wrong."""
    if isinstance(error, IntegrityError):
        return str(error).partition("\n")[0]  # what follows quotes the row
    cause = error.__cause__
    state = sqlstate(error)
    is_not_adapted = isinstance(error, ProgrammingError) and not state
    if not (isinstance(error, DataError) or is_not_adapted or state in _OF_A_VALUE):
        return None
    names = ", ".join(outbox.own_columns())
    return f"one of its columns {names} cannot hold its value ({type(cause).__name__})"


@functools.cache
def _columns(outbox: type[FrozenOutbox]) -> tuple[str, ...]:
    own = [str(field.column) for field in own_fields(outbox)]
    return ("event_type", "event_date_time", "event_context", "metadata_version", "bound", *own)
