"""Events put into each stage by hand, and workers held still meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults import writers
from tests.faults.fleet import freeze, thaw
from tests.integration.windows import seal
from tests.waiting import eventually
from towpath.flow.dispatch import Dispatcher, DispatchLimits
from towpath.outbox.models import all_outboxes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy.local.process import Process
    from tests.faults.conftest import Run
    from towpath.ledger.batches import BatchMessage

_EVENTS = 20
_USERS = 10


def publish_both(run: Run) -> set[str]:
    """Events into both outboxes; their keys."""
    keys = {*writers.commit_events(run.name, _EVENTS), *writers.commit_users(run.name, _USERS)}
    run.books.acknowledged.update(keys)
    return keys


def publish_in_each_stage(run: Run, workers: Sequence[Process], *, drain_seconds: float) -> tuple[set[str], set[str]]:
    """Events that the workers deliver before they are frozen, then some in a window, in a batch, and not yet seen.

    The keys of those with a window (delivered or not), and of those without.
    """
    delivered = publish_both(run)
    run.wait_until_drained(seconds=drain_seconds)
    freeze_between_transactions(run, workers)
    sealed = publish_both(run)
    assert seal([batch.id for batch in dispatch_without_messages()]) is not None
    batched = publish_both(run)
    assert dispatch_without_messages()
    return delivered | sealed, batched | publish_both(run)


def dispatch_without_messages() -> list[BatchMessage]:
    """One dispatcher's look at everything, here, its messages lost."""
    batches: list[BatchMessage] = []
    limits = DispatchLimits(batch_ids=500, batch_bytes=1_000_000, in_flight_rows=10_000)
    Dispatcher(all_outboxes(), limits=limits, enqueue=batches.extend).look()
    return batches


def freeze_between_transactions(run: Run, workers: Sequence[Process]) -> None:
    """SIGSTOP to all of them, at a moment at which none has a transaction open."""

    def is_done() -> bool:
        for worker in workers:
            freeze(worker)
        is_quiet = not run.oracle.ask_postgres(
            "SELECT FROM pg_stat_activity WHERE backend_type = 'client backend' AND state <> 'idle'"
            " AND pid <> pg_backend_pid()"
        )
        if not is_quiet:
            thaw_all(workers)
        return is_quiet

    eventually(is_done, seconds=20, what="the workers are frozen")


def thaw_all(workers: Sequence[Process]) -> None:
    for worker in workers:
        thaw(worker)


def highest_ids(run: Run) -> dict[str, int]:
    """Of each outbox, as the writers have written them down."""
    return dict(run.oracle.ask_postgres("SELECT outbox, max(outbox_id) FROM oracle_event GROUP BY outbox"))


def ids_above(run: Run, highest: dict[str, int]) -> set[tuple[str, int]]:
    rows: list[tuple[str, int]] = run.oracle.ask_postgres("SELECT outbox, outbox_id FROM oracle_event")
    return {(outbox, outbox_id) for outbox, outbox_id in rows if outbox_id > highest[outbox]}


def committed_keys(run: Run) -> set[str]:
    """What PostgreSQL holds now of the run."""
    return {key for (key,) in run.oracle.ask_postgres("SELECT key FROM oracle_event WHERE run = %s", [run.name])}
