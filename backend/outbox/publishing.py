"""Publish: the event is committed with the caller's transaction, or not at all.

If the power goes before the caller's COMMIT, neither the change nor its event has happened; after it, both have.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db import connection, models, transaction
from django.utils import timezone

from backend.outbox.context import bound_json
from backend.outbox.errors import EventNotStorable
from backend.outbox.event import EARLIEST, TOO_LATE, Event, stored_context
from backend.outbox.insert import ROWS_PER_STATEMENT, insert, require_transaction
from backend.outbox.models import FrozenOutbox, outbox_of

if TYPE_CHECKING:
    from collections.abc import Sequence

#: An INSERT takes this many characters of context, at most: its text is held in memory, several times over.
_CHARACTERS_PER_STATEMENT = 8 * 1024 * 1024

#: bigint's.
_LARGEST_VERSION = 2**63 - 1

#: What `publish_many` takes: an event, or one with a time of its own.
_Item = Event | tuple[Event, datetime]


def publish(event: Event, *, at: datetime | None = None) -> None:
    """Insert `event` into its outbox, in the caller's transaction. It happened `at` that time, or now.

    Its outbox is the `FrozenOutbox` that names its class in `events`, or the general one.

    Raises, before any row is written:
      NotInTransaction: outside `transaction.atomic()`, where the event could be committed without what it reports, or
        the other way round.
      EventTooLarge, EventNotStorable: the event's context, or its time, cannot be stored as it is.
    """
    require_transaction()
    _insert([_frozen(event, at)])


def publish_many(events: Iterable[_Item], *, at: datetime | None = None) -> None:
    """`publish` for any number of events, a thousand to a statement: all of them, or none when one is refused.

    They happened `at` that time, or now; an event that comes with a time of its own, as `(event, time)`, then.
    """
    require_transaction()
    chunks = _chunks(events, at)
    first, second = next(chunks, []), next(chunks, [])
    if not second:
        _insert(first)
        return
    # If a later event is refused, the statements before it must not be committed by a caller that goes on.
    with transaction.atomic():
        for chunk in itertools.chain([first, second], chunks):
            _insert(chunk)


@dataclass(frozen=True, slots=True)
class _Frozen:
    """An event as it will be stored; `row` has a value for each column of `_columns(outbox)`."""

    outbox: type[FrozenOutbox]
    characters: int
    row: tuple[Any, ...]


def _frozen(event: Event, at: datetime | None) -> _Frozen:
    outbox = outbox_of(type(event))
    context = stored_context(event)
    if at is None:
        at = timezone.now()
    elif timezone.is_naive(at):
        raise EventNotStorable(f"{type(event).__name__} cannot be stored: its time {at} has no time zone: give it one")
    if not EARLIEST <= at < TOO_LATE:
        raise EventNotStorable(f"{type(event).__name__} cannot be stored: its time {at} is not in 1900 to 2299")
    if not 0 <= event.version <= _LARGEST_VERSION:
        raise EventNotStorable(f"{type(event).__name__} cannot be stored: its version is {event.version}")
    row: tuple[Any, ...] = (event.event_type, at, context, event.version, bound_json())
    if own := _own_fields(outbox):
        # Dumped, not read from the event: what it masks or hashes stays so in a column of its own.
        values = event.model_dump(include={field.attname for field in own})
        row += tuple(field.get_db_prep_save(values[field.attname], connection) for field in own)
    return _Frozen(outbox, len(context), row)


def _chunks(events: Iterable[_Item], at: datetime | None) -> Iterator[list[_Frozen]]:
    """What goes into one statement each (or one for each outbox)."""
    chunk: list[_Frozen] = []
    characters = 0
    for item in events:
        chunk.append(_frozen(item, at) if isinstance(item, Event) else _frozen(*item))
        characters += chunk[-1].characters
        if len(chunk) >= ROWS_PER_STATEMENT or characters >= _CHARACTERS_PER_STATEMENT:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _insert(chunk: Sequence[_Frozen]) -> None:
    by_outbox: dict[type[FrozenOutbox], list[tuple[Any, ...]]] = {}
    for one in chunk:
        by_outbox.setdefault(one.outbox, []).append(one.row)
    for outbox, rows in by_outbox.items():
        insert(outbox._meta.db_table, _columns(outbox), rows)


@functools.cache
def _columns(outbox: type[FrozenOutbox]) -> tuple[str, ...]:
    own = [str(field.column) for field in _own_fields(outbox)]
    return ("event_type", "event_date_time", "event_context", "metadata_version", "bound", *own)


@functools.cache
def _own_fields(outbox: type[FrozenOutbox]) -> tuple[models.Field[Any, Any], ...]:
    return tuple(field for field in outbox._meta.concrete_fields if field.attname in outbox.own_columns())
