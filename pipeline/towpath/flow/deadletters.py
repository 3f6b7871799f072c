"""Dead letters: rows that the event store refuses. Each stays in its outbox until a person replays or drops it."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import structlog
from django.db import transaction

from towpath.errors import NotReadable, OutboxInUse
from towpath.events import DeadLetterDropped
from towpath.ledger import batches, deadletters
from towpath.ledger.moment import Parts, one_moment
from towpath.outbox.models import all_outboxes
from towpath.outbox.publishing import publish

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from towpath.flow.dispatch import EnqueueBatches
    from towpath.ledger.deadletters import Letter

log = structlog.get_logger()

#: The most rows of one outbox that become dead letters within an hour. The others wait in separate windows, and are
#: stored automatically once the event store's table is repaired.
_MOST_PER_HOUR = 1000


def room(outbox: str) -> int:
    """Return how many more rows of the outbox may become dead letters now."""
    return max(0, _MOST_PER_HOUR - deadletters.count_newest(outbox, seconds=3600))


def find(ids: Sequence[int] | None) -> list[Letter]:
    """Return the dead letters with these numbers, or all. Raises NotReadable if PostgreSQL does not show them in
    time."""
    found: list[Letter] = []
    with one_moment(by_index=False) as cursor:
        parts = Parts(cursor)
        with parts.part("the list of dead letters"):
            found = deadletters.read(ids)
    if parts.unread:
        raise NotReadable(parts.unread[0])
    return found


def find_newest(*, outbox: str, error: str, before: int | None = None, limit: int) -> list[Letter]:
    """Return the newest dead letters of an outbox (empty: of all) whose error contains this text. Raises
    NotReadable."""
    found: list[Letter] = []
    with one_moment(by_index=False) as cursor:
        parts = Parts(cursor)
        with parts.part("the list of dead letters"):
            found = deadletters.find_newest(outbox=outbox, error=error, before=before, limit=limit)
    if parts.unread:
        raise NotReadable(parts.unread[0])
    return found


def event_of(letter: Letter) -> dict[str, Any]:
    """Return the refused event as it would be loaded; empty if its row is gone, or no class has the outbox's name.

    Where it cannot be read in time, `unread` says why.
    """
    return event_of_row(letter.outbox, letter.row_id)


def event_of_row(name: str, row_id: int) -> dict[str, Any]:
    """Return the event of an outbox's row as it would be loaded; empty without such a row or such an outbox.

    Where it cannot be read in time, `unread` says why.
    """
    outbox = all_outboxes().get(name)
    if outbox is None:
        return {}
    columns = outbox.event_columns()
    rows: list[Any] = []
    with one_moment(by_index=False) as cursor:
        parts = Parts(cursor)
        with parts.part("the event"):
            rows = list(outbox._base_manager.filter(id=row_id).values_list(*columns.values()))
    if parts.unread:
        return {"unread": parts.unread[0]}
    return dict(zip(columns, rows[0], strict=True)) if rows else {}


def replay(letters: Sequence[Letter], *, batch_ids: int, enqueue: EnqueueBatches) -> None:
    """Send the rows through the pipeline again, in batches of at most so many ids.

    They are in a batch again when this commits; if the power fails before its message is out, recovery seals the batch.

    Raises OutboxInUse, before anything is done, when no class has the name of an outbox.
    """
    if unknown := {letter.outbox for letter in letters} - all_outboxes().keys():
        raise OutboxInUse(f"No outbox class has the name {min(unknown)}: see `pipeline outboxes list`.")
    by_outbox: dict[str, list[int]] = defaultdict(list)
    replayed = []
    with transaction.atomic():
        for outbox, row_id in deadletters.take([letter.id for letter in letters]):
            by_outbox[outbox].append(row_id)
        for outbox, row_ids in by_outbox.items():
            replayed += [batches.insert(outbox, ids) for ids in _parts(sorted(row_ids), of=batch_ids)]
    for batch in replayed:
        log.info("dead_letters_replayed", outbox=batch.outbox, rows=len(batch.ids))
    enqueue(replayed)


def _parts(ids: Sequence[int], *, of: int) -> Iterator[Sequence[int]]:
    return (ids[start : start + of] for start in range(0, len(ids), of))


def drop(letters: Sequence[Letter], *, by: str) -> None:
    """Delete the events for good. In the same transaction, an event records that, and who did it."""
    for letter in letters:
        with transaction.atomic():
            publish(DeadLetterDropped(outbox=letter.outbox, outbox_id=letter.row_id, error=letter.error, dropped_by=by))
            if letter.outbox in all_outboxes():
                all_outboxes()[letter.outbox]._base_manager.filter(id=letter.row_id).delete()
            deadletters.take([letter.id])
        log.warning("dead_letter_dropped", outbox=letter.outbox, row_id=letter.row_id, error=letter.error, by=by)
