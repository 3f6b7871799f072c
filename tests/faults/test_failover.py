"""PostgreSQL fails over to a standby that lacks the last commits (T18)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.db import connection

from tests.faults.conftest import Run
from tests.faults.stages import (
    committed_keys,
    freeze_between_transactions,
    highest_ids,
    ids_above,
    publish_both,
    publish_in_each_stage,
    thaw_all,
)
from tests.faults.standby import Standby
from tests.ports import any_free_port
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.knobs import Knobs


#: Slow also because the cluster of the whole test run is replaced by its standby.
pytestmark = [pytest.mark.slow, pytest.mark.own_services, pytest.mark.timeout(300)]

_DRAIN_SECONDS = 90
#: The standby skips the ids that the primary's WAL had reserved (32): so many more are given, and given again.
_IDS_RESERVED = 32


@pytest.fixture
def standby(run: Run) -> Iterator[Standby]:
    with Standby(run.fleet.services, run.oracle, port=any_free_port()) as standby:
        yield standby
    connection.close()


@pytest.fixture
def impatient_application(run: Run) -> Iterator[dict[str, str]]:
    """The application's commits do not wait for the standby; those of workers with this environment do."""
    role = run.oracle.ask_postgres("SELECT quote_ident(current_user)")[0][0]
    run.oracle.ask_postgres(f"ALTER ROLE {role} SET synchronous_commit = local")
    connection.close()
    yield {"PGOPTIONS": "-c synchronous_commit=on"}
    run.fleet.kill_all()
    _wait_for_standbys(run, "")
    run.oracle.ask_postgres(f"ALTER ROLE {role} RESET synchronous_commit")
    connection.close()


def test_a_failover_that_loses_commits_loses_changes_with_their_events_if_the_pipeline_waits_for_the_standby(
    run: Run, standby: Standby, impatient_application: dict[str, str]
) -> None:
    """T18: a standby that is synchronous for the pipeline alone, cut off under load; then the primary dies.

    WAL is one sequence: where the fence before an insert (`begin_write`) is, the rows' own commits are. So nothing is
    stored that the standby does not have, although the application never waits for it.
    """
    run.fleet.kill_all()
    workers = (run.fleet.dispatcher(**impatient_application), run.fleet.aggregator(**impatient_application))
    run.fleet.ready(*workers)
    standby.wait_until_caught_up()
    _wait_for_standbys(run, "*")
    writer = run.writer(transactions_per_second=30)
    eventually(
        lambda: run.oracle.stored(run.name) > 100, seconds=60, what="the pipeline works, waiting for the standby"
    )

    standby.cut_off()
    committed = len(run.books.acknowledged)
    eventually(lambda: len(run.books.acknowledged) > committed + 200, seconds=60, what="the application continues")
    eventually(lambda: _waiting_for_standby(run), seconds=30, what="the pipeline waits")
    standby.take_over()
    stored = run.oracle.stored(run.name)
    eventually(lambda: run.oracle.stored(run.name) > stored, seconds=60, what="the pipeline continues")
    writer.stop()

    run.wait_until_drained(seconds=_DRAIN_SECONDS)
    # By what the new primary has: the writers were told of commits that are gone.
    verdict = run.oracle.verdict(run.name)
    assert not verdict.faults
    assert not run.sampler.broken
    assert verdict.committed == verdict.stored > 0
    gone = run.books.acknowledged - committed_keys(run)
    assert gone
    assert not gone & run.oracle.copies_by_key(run.name).keys()


def test_after_a_failover_to_an_asynchronous_standby_only_what_it_did_not_know_to_be_sealed_is_stored_again(
    run: Run, standby: Standby, knobs: Knobs
) -> None:
    """T18: nobody waits for the standby, and all was delivered on the primary before it died.

    Lost acks alone do no harm: the window is replayed and found. Lost seals do: the rows come in another window. What
    the standby never heard of stays in the store without its change; its ids are given to other events.
    """
    knobs(lease_seconds=1)
    run.fleet.kill_all()
    workers = (run.fleet.dispatcher(), run.fleet.aggregator())
    run.fleet.ready(*workers)
    with_window, without = publish_in_each_stage(run, workers, drain_seconds=_DRAIN_SECONDS)
    highest = highest_ids(run)
    standby.wait_until_caught_up()

    standby.cut_off()
    forgotten = publish_both(run)
    run.publish(2 * _IDS_RESERVED)
    given_then = ids_above(run, highest)
    thaw_all(workers)
    run.judge_when_drained(seconds=_DRAIN_SECONDS)
    freeze_between_transactions(run, workers)
    standby.take_over()

    run.books.acknowledged.clear()
    new = publish_both(run)
    run.publish(_IDS_RESERVED)
    assert ids_above(run, highest) & given_then
    thaw_all(workers)
    run.wait_until_drained(seconds=_DRAIN_SECONDS)

    committed = committed_keys(run)
    copies = run.oracle.copies_by_key(run.name)
    assert committed == with_window | without | new | run.books.acknowledged
    assert forgotten.isdisjoint(committed)
    assert copies.keys() >= committed | forgotten
    assert {key for key, count in copies.items() if count > 1} == without
    assert max(copies.values()) == 2
    assert not run.oracle.ask_postgres("SELECT FROM pipeline_deadletter")
    assert not run.sampler.broken


def _wait_for_standbys(run: Run, names: str) -> None:
    run.oracle.ask_postgres("ALTER SYSTEM SET synchronous_standby_names = %s", [names])
    run.oracle.ask_postgres("SELECT pg_reload_conf()")


def _waiting_for_standby(run: Run) -> bool:
    return bool(run.oracle.ask_postgres("SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))
