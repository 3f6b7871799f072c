"""Dead letters: rows that the event store refuses. Each stays in its outbox until a person replays or drops it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import transaction

from towpath.errors import NotReadable, OutboxInUse
from towpath.events import DeadLetterDropped
from towpath.ledger import batches, deadletters, names
from towpath.ledger.moment import Parts, one_moment
from towpath.outbox.models import all_outboxes
from towpath.outbox.publishing import publish_many

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from towpath.flow.dispatch import EnqueueBatches
    from towpath.ledger.deadletters import Letter

T = TypeVar("T")

#: The most rows of one outbox that become dead letters within an hour. The others wait in separate windows, and are
#: stored automatically once the event store's table is repaired.
_MOST_PER_HOUR = 1000
#: Some drivers' settings allow 65,535 parameters in a statement.
_ROWS_PER_STATEMENT = 1000
#: The most numbers that a message names.
_SHOWN = 10


def room(outbox: str) -> int:
    """Return how many more rows of the outbox may become dead letters now."""
    return max(0, _MOST_PER_HOUR - deadletters.count_newest(outbox, seconds=3600))


def find(ids: Sequence[int] | None) -> list[Letter]:
    """Return the dead letters with these numbers, or all. Raises NotReadable if PostgreSQL does not show them in
    time."""
    return _read("the list of dead letters", partial(deadletters.read, ids))


def find_newest(*, outbox: str, error: str, before: int | None = None, limit: int | None = None) -> list[Letter]:
    """Return the newest dead letters of an outbox (empty: of all) whose error contains this text. Raises
    NotReadable."""
    find_some = partial(deadletters.find_newest, outbox=outbox, error=error, before=before, limit=limit)
    return _read("the list of dead letters", find_some)


def event_of(name: str, row_id: int) -> dict[str, Any]:
    """Return the event of an outbox's row as it would be loaded; empty without such a row or such an outbox.

    Where it cannot be read in time, `unread` says why.
    """
    outbox = all_outboxes().get(name)
    if outbox is None:
        return {}
    columns = outbox.event_columns()
    found = outbox._base_manager.filter(id=row_id).values_list(*columns.values())
    try:
        rows = _read("the event", lambda: list(found))
    except NotReadable as error:
        return {"unread": str(error)}
    return dict(zip(columns, rows[0], strict=True)) if rows else {}


def _read(what: str, read: Callable[[], list[T]]) -> list[T]:
    """Return what `read` returns. Raises NotReadable if PostgreSQL does not show it in time."""
    with one_moment(by_index=False) as cursor:
        parts = Parts(cursor)
        found = parts.read(what, read)
    if found is None:
        raise NotReadable(parts.unread[0])
    return found


class Fate(StrEnum):
    """What has happened to a dead letter that somebody else took first."""

    AGAIN = "replayed and refused again, now under another number"
    WAITS = "replayed, and not stored yet"
    GONE = "stored or dropped"
    UNKNOWN = "its outbox has no class"


@dataclass(frozen=True, slots=True)
class Done:
    """What an action on dead letters did: `letters` are those that it took, and `gone` has the numbers of those that
    were no longer dead letters, by what has happened to them."""

    letters: Sequence[Letter]
    gone: Mapping[Fate, Sequence[int]]

    @property
    def missed(self) -> str:
        """The letters that are gone, in words; empty if there are none."""
        if not self.gone:
            return ""
        parts = (f"{_few(numbers)} ({fate})" for fate, numbers in self.gone.items())
        return f"No longer dead letters: {'; '.join(parts)}"


def _few(numbers: Sequence[int]) -> str:
    shown = " ".join(map(str, numbers[:_SHOWN]))
    return f"{shown} and {len(numbers) - _SHOWN} more" if len(numbers) > _SHOWN else shown


def replay(letters: Sequence[Letter], *, batch_ids: int, enqueue: EnqueueBatches) -> Done:
    """Send the rows through the pipeline again, in batches of at most so many ids.

    They are in a batch again when this commits; if the power fails before its message is out, recovery seals the batch.

    Raises OutboxInUse, and does nothing, when no class has the name of an outbox.
    """
    replayed = []
    with transaction.atomic():
        taken = deadletters.take([letter.id for letter in letters])
        by_outbox = _by_outbox(taken)
        if unknown := by_outbox.keys() - all_outboxes().keys():
            raise OutboxInUse(f"No outbox class has the name {min(unknown)}: see `pipeline outboxes list`.")
        for outbox, of_outbox in by_outbox.items():
            row_ids = sorted(letter.row_id for letter in of_outbox)
            replayed += [batches.insert(outbox, ids) for ids in _parts(row_ids, of=batch_ids)]
        gone = _gone(letters, taken)
    enqueue(replayed)
    return Done(taken, gone)


def drop(letters: Sequence[Letter], *, by: str) -> Done:
    """Delete the events for good. In the same transaction, an event for each records that, and who did it.

    Only a letter that is taken here is dropped: the row of any other is in a batch again, and deleting it would lose
    an event that somebody has replayed.

    Raises OutboxInUse, and does nothing, when no class has the name of an outbox whose table is there: its row would
    stay, and a program that knows the outbox would still store it.
    """
    with transaction.atomic():
        taken = deadletters.take([letter.id for letter in letters])
        for unknown in sorted({letter.outbox for letter in taken} - all_outboxes().keys()):
            if names.has_table(unknown):
                raise OutboxInUse(
                    f"No outbox class has the name {unknown}, but its table exists, so its events cannot be deleted"
                    " from here. Use a program that has the class, or see `pipeline outboxes list`."
                )
        publish_many(
            DeadLetterDropped(outbox=letter.outbox, outbox_id=letter.row_id, error=letter.error, dropped_by=by)
            for letter in taken
        )
        for outbox, of_outbox in _by_outbox(taken).items():
            if outbox in all_outboxes():
                for ids in _parts([letter.row_id for letter in of_outbox], of=_ROWS_PER_STATEMENT):
                    all_outboxes()[outbox]._base_manager.filter(id__in=ids).delete()
        return Done(taken, _gone(letters, taken))


def _parts(ids: Sequence[int], *, of: int) -> Iterator[Sequence[int]]:
    return (ids[start : start + of] for start in range(0, len(ids), of))


def _by_outbox(letters: Iterable[Letter]) -> dict[str, list[Letter]]:
    by_outbox: dict[str, list[Letter]] = defaultdict(list)
    for letter in letters:
        by_outbox[letter.outbox].append(letter)
    return by_outbox


def _gone(letters: Sequence[Letter], taken: Sequence[Letter]) -> dict[Fate, list[int]]:
    """Return the numbers of the letters that were not taken, by what has happened to them."""
    numbers = {letter.id for letter in taken}
    gone: dict[Fate, list[int]] = defaultdict(list)
    for outbox, missed in _by_outbox(letter for letter in letters if letter.id not in numbers).items():
        row_ids = [letter.row_id for letter in missed]
        # The rows before the letters: a row that is refused between the two looks is found in both.
        waiting = _waiting(outbox, row_ids)
        dead = deadletters.find_dead(outbox, row_ids)
        for letter in missed:
            gone[_fate(letter.row_id, waiting, dead)].append(letter.id)
    return dict(gone)


def _waiting(outbox: str, row_ids: Sequence[int]) -> set[int] | None:
    """Return which of these rows are in their outbox; None if no class has its name."""
    if outbox not in all_outboxes():
        return None
    rows = all_outboxes()[outbox]._base_manager
    return {
        row_id
        for ids in _parts(row_ids, of=_ROWS_PER_STATEMENT)
        for row_id in rows.filter(id__in=ids).values_list("id", flat=True)
    }


def _fate(row_id: int, waiting: set[int] | None, dead: set[int]) -> Fate:
    if row_id in dead:
        return Fate.AGAIN
    if waiting is None:
        return Fate.UNKNOWN
    return Fate.WAITS if row_id in waiting else Fate.GONE
