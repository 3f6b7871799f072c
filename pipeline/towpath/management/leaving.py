"""`manage.py pipeline leave`: take Towpath out of a project, one step at a time (docs/leaving.md).

Each call does what can be done now, and says what comes next. It keeps no state between calls: what is left in the
project decides.
"""

from __future__ import annotations

import io
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from django.core.management import call_command
from django.db import OperationalError, connection, transaction
from django.db.migrations.executor import MigrationExecutor

from towpath.conf.current import config
from towpath.errors import OutboxInUse
from towpath.flow.drain import drain
from towpath.flow.shift import SILENT_SECONDS
from towpath.ledger import left as ledger
from towpath.ledger.database_errors import first_line
from towpath.ledger.left import Left
from towpath.ledger.open_windows import read_open
from towpath.ledger.shifts import read_shifts
from towpath.management import freed_migrations
from towpath.outbox.models import all_outboxes
from towpath.wiring import dispatch_limits, event_store, verifier_store, window_limits, window_rules

if TYPE_CHECKING:
    from collections.abc import Callable

#: How many leases we wait without progress: one may belong to a dead worker, and one to the worker that takes over.
_LEASES = 3


@dataclass(slots=True)
class Answer:
    """What is left, what was removed, and what comes next. `is_ok` is false while anything is left to deliver."""

    left: Left
    is_ok: bool
    next: str
    removed: list[str] = field(default_factory=list)
    #: The most frequent last errors of open windows.
    errors: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return the answer as a JSON object."""
        return {**asdict(self), "is_drained": self.left.is_nothing}

    def as_text(self) -> str:
        """Return the answer as lines for people."""
        left = self.left
        lines = [f"{name:<24}{rows:>12,} row(s)" for name, rows in sorted(left.rows.items())]
        lines += [
            f"in flight: {left.batches:,} batch(es), {left.open_windows:,} open window(s)",
            f"dead letters: {left.dead_letters:,}",
            f"receipts that the event store has not confirmed: {left.unconfirmed_receipts:,}",
            *(f"! {error}" for error in self.errors),
        ]
        if self.removed:
            lines.append(f"removed: {', '.join(self.removed)}")
        return "\n".join([*lines, "", f"Next: {self.next}"])


def leave(*, is_sure: Callable[[Answer, list[str]], bool]) -> Answer:
    """Deliver what is left. Then, if nothing is left and no class needs them, remove Towpath's own tables.

    Before it removes them, it calls `is_sure` with the answer and the names of the tables. Raises OutboxInUse, and
    removes nothing, if somebody still publishes or a worker still runs.
    """
    tables = ledger.tables()
    if not tables:
        left = ledger.find_left(list(all_outboxes()))
        is_ok = left.is_nothing
        return Answer(
            left,
            is_ok=is_ok,
            next=_next_without_tables() if is_ok else ("run `python manage.py migrate`, then run this again."),
        )
    left = _drained()
    if not left.is_nothing:
        found = Counter(window.last_error for window in read_open() if window.last_error)
        errors = [f"{error} ({windows} window(s))" for error, windows in found.most_common(3)]
        return Answer(left, is_ok=False, next=_next_while(left), errors=errors)
    if classes := project_outboxes():
        return Answer(left, is_ok=True, next=_next_with(classes))
    answer = Answer(left, is_ok=True, next="run this again to remove " + ", ".join(tables) + ".")
    if not is_sure(answer, tables):
        return answer
    _remove()
    return Answer(left, is_ok=True, next=_next_without_tables(), removed=tables)


def project_outboxes() -> list[str]:
    """Return the names of the outbox classes that are not Towpath's own."""
    return [model._meta.label for model in all_outboxes().values() if model._meta.app_label != "towpath"]


def _drained() -> Left:
    current = config()
    store = event_store(current)
    verifier = verifier_store(current, store=store)
    try:
        return drain(
            store,
            window_rules(current),
            verifier=verifier,
            dispatch_limits=dispatch_limits(current),
            window_limits=window_limits(current),
            patience_seconds=_LEASES * current.lease_seconds,
        )
    finally:
        verifier.close()
        store.close()


def _remove() -> None:
    """Remove all tables or none. They are locked before the last look, so that nobody can publish after it."""
    _refuse_while_somebody_works()
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan([("towpath", None)])
    if others := sorted(str(migration) for migration, _ in plan if migration.app_label != "towpath"):
        raise OutboxInUse(
            f"{', '.join(others)} depends on Towpath's migrations, and would be reversed with them. Remove `towpath`"
            " from its dependencies, then run this again."
        )
    try:
        with transaction.atomic():
            ledger.lock(list(all_outboxes()))
            if not ledger.find_left(list(all_outboxes())).is_nothing:
                raise OutboxInUse(
                    "Events are still being published. Nothing was removed. Stop publishing, then run this again."
                )
            call_command("migrate", "towpath", "zero", interactive=False, verbosity=0, stdout=io.StringIO())
    except OperationalError as error:
        raise OutboxInUse(
            f"Another session holds a lock on an outbox's table ({first_line(error)}). Nothing was"
            " removed: run this again."
        ) from error


def _refuse_while_somebody_works() -> None:
    began = time.monotonic()
    while young := [name for name, shift in read_shifts().items() if shift.alive_seconds_ago < SILENT_SECONDS]:
        # A process that has just ended still looks alive for a while.
        if time.monotonic() - began > SILENT_SECONDS:
            raise OutboxInUse(
                f"A dispatcher is still running (shifts: {', '.join(young)}). Nothing was removed. Stop the"
                " scheduler, the dispatchers and the aggregators, then run this again."
            )
        time.sleep(SILENT_SECONDS / 6)


def _next_while(left: Left) -> str:
    if sum(left.rows.values()) > left.dead_letters:
        return (
            "stop publishing, then run this again. If the numbers do not fall, `python manage.py pipeline doctor`"
            " says why the event store accepts nothing. `pipeline outboxes list` shows names without a class."
        )
    if left.dead_letters:
        return "run `python manage.py pipeline deadletters list`, replay or drop each dead letter, then run this again."
    if left.batches or left.open_windows:
        return (
            "run this again in a minute: a worker is delivering the rest. If nothing changes, `python manage.py"
            " pipeline doctor` says what is wrong."
        )
    return "run `python manage.py pipeline verify`, close each alarm with a reason, then run this again."


def _next_with(classes: list[str]) -> str:
    return (
        f"delete {', '.join(classes)}, run makemigrations, deploy that, then run this again: it removes Towpath's own"
        " tables. Until then, `migrate` refuses to drop a table that has new rows."
    )


def _next_without_tables() -> str:
    files = freed_migrations.find()
    free = f"run `python manage.py pipeline leave --migrations` (it changes {len(files)} file(s)), " if files else ""
    return (
        f"{free}remove towpath and django_dramatiq from the settings, and run `pip uninstall towpath`. The event log"
        " stays in the event store."
    )
