"""`manage.py pipeline leave`: what is left of Towpath in a project, step by step, until nothing is (docs/leaving.md).

Each call does what can be done now and says what comes next. Nothing is kept between two calls: what is there decides.
"""

from __future__ import annotations

import io
import time
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
from towpath.ledger.left import Left
from towpath.ledger.open_windows import read_frequent_errors
from towpath.ledger.shifts import read_shifts
from towpath.management import freed_migrations
from towpath.outbox.models import all_outboxes
from towpath.wiring import dispatch_limits, event_store, verifier_store, window_limits, window_rules

if TYPE_CHECKING:
    from collections.abc import Callable

#: So many leases long nothing gets less before we give up: one for the worker that is dead, one for who takes over.
_LEASES = 3


@dataclass(slots=True)
class Answer:
    """What is left, what was removed, and what comes next. `is_ok` is false while there is something to deliver."""

    left: Left
    is_ok: bool
    next: str
    removed: list[str] = field(default_factory=list)
    #: What the event store said last of windows that are open.
    errors: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return it as an object of JSON."""
        return {**asdict(self), "is_drained": self.left.is_nothing}

    def as_text(self) -> str:
        """Return it as lines for people."""
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
    """Deliver what there is; then, if nothing is left and no class needs them, remove Towpath's own tables.

    `is_sure` is asked before that, with what is left (nothing) and the names of the tables. Raises OutboxInUse, and
    changes nothing more, when somebody publishes or works still.
    """
    tables = ledger.tables()
    if not tables:
        left = ledger.find_left(list(all_outboxes()))
        is_ok = left.is_nothing
        return Answer(left, is_ok=is_ok, next=_next_without_tables() if is_ok else "`migrate`, and run this again.")
    left = _drained()
    if not left.is_nothing:
        errors = [f"{error} ({windows} window(s))" for error, windows in read_frequent_errors(limit=3)]
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
    """All of it, or nothing: nobody can publish from the last look on."""
    _refuse_while_somebody_works()
    executor = MigrationExecutor(connection)
    plan = executor.migration_plan([("towpath", None)])
    if others := sorted(str(migration) for migration, _ in plan if migration.app_label != "towpath"):
        raise OutboxInUse(
            f"{', '.join(others)} depends on Towpath's migrations, and would be taken back with them. Remove"
            " `towpath` from its dependencies, and run this again."
        )
    try:
        with transaction.atomic():
            ledger.lock(list(all_outboxes()))
            if not ledger.find_left(list(all_outboxes())).is_nothing:
                raise OutboxInUse("Somebody still publishes. Nothing was removed: stop that, and run this again.")
            call_command("migrate", "towpath", "zero", interactive=False, verbosity=0, stdout=io.StringIO())
    except OperationalError as error:
        raise OutboxInUse(
            f"Somebody holds an outbox's table ({str(error).splitlines()[0]}). Nothing was removed: run this again."
        ) from error


def _refuse_while_somebody_works() -> None:
    began = time.monotonic()
    while young := [name for name, shift in read_shifts().items() if shift.alive_seconds_ago < SILENT_SECONDS]:
        # One that has just ended has been alive until a moment ago.
        if time.monotonic() - began > SILENT_SECONDS:
            raise OutboxInUse(
                f"A dispatcher works (shifts: {', '.join(young)}). Nothing was removed: stop the scheduler, the"
                " dispatchers and the aggregators, and run this again."
            )
        time.sleep(SILENT_SECONDS / 6)


def _next_while(left: Left) -> str:
    if sum(left.rows.values()) > left.dead_letters:
        return (
            "stop publishing, and run this again. If nothing gets less, `python manage.py pipeline doctor` says why the"
            " event store takes nothing, and `pipeline outboxes list` whether a name has no class."
        )
    if left.dead_letters:
        return "`python manage.py pipeline deadletters list`: replay or drop each, and run this again."
    if left.batches or left.open_windows:
        return "run this again in a minute: a worker has it, or `python manage.py pipeline doctor` says what is wrong."
    return "`python manage.py pipeline verify`: close each alarm with a reason, and run this again."


def _next_with(classes: list[str]) -> str:
    return (
        f"delete {', '.join(classes)}, run makemigrations, release that, and run this again: it then removes Towpath's"
        " own tables. Until then, `migrate` refuses to drop a table that has rows again."
    )


def _next_without_tables() -> str:
    files = freed_migrations.find()
    free = f"`python manage.py pipeline leave --migrations` (it changes {len(files)} file(s)), " if files else ""
    return (
        f"{free}take towpath and django_dramatiq out of the settings, and `pip uninstall towpath`."
        " The event log stays in the event store."
    )
