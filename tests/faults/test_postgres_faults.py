"""PostgreSQL goes away, or its transactions come in an order that nobody asked for."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import closing

import psycopg2
import pytest
from django.db import connection, transaction

from tests.faults import writers
from tests.faults.conftest import Run
from tests.faults.proxy import Fault, Kind
from tests.waiting import eventually

_DRAIN_SECONDS = 60
_RESTARTS = 2
_MANY = 50

pytestmark = pytest.mark.usefixtures("own_connection_closed")


@pytest.mark.own_services
def test_an_immediate_shutdown_of_postgresql_loses_no_commit(run: Run) -> None:
    """T18: SIGQUIT (as `pg_ctl stop -m immediate`) under load, twice; lost COMMIT answers are resolved by the oracle.

    The failover to a replica that lacks the last commits is not shown: there is one server here.
    """
    run.fleet.steady()
    writer = run.writer(transactions_per_second=30)
    for restart in range(_RESTARTS):
        eventually(lambda: run.oracle.stored(run.name) > 50 * restart, seconds=30, what="some are stored")
        _restart_postgres(run)
    eventually(lambda: run.oracle.stored(run.name) > 50 * _RESTARTS, seconds=60, what="it continues")
    writer.stop()

    run.judge_when_drained(seconds=_DRAIN_SECONDS)


@pytest.mark.parametrize("point", ["sealed", "loaded", "written", "acked"])
@pytest.mark.slow
@pytest.mark.own_services
def test_an_immediate_shutdown_of_postgresql_at_a_stage_does_no_harm(run: Run, point: str) -> None:
    """T18: PostgreSQL dies while an aggregator is between two stages."""
    run.fleet.steady(has_aggregator=False)
    run.fleet.ready(run.fleet.aggregator(FAILPOINTS=f"{point}=sleep:2@1"))
    run.publish(100)
    eventually(lambda: run.oracle.ask_postgres("SELECT FROM pipeline_window"), seconds=20)

    _restart_postgres(run)

    run.judge_when_drained(seconds=_DRAIN_SECONDS)


def test_sessions_terminated_during_a_write_cost_a_lease_and_no_row(run: Run) -> None:
    """T19: every session of the aggregator is ended while its insert is on the way."""
    run.fleet.steady(has_aggregator=False)
    run.fleet.ready(run.fleet.aggregator(PGAPPNAME="doomed"))
    run.fleet.store.fail(Fault(kind=Kind.LATE, marker=run.store.insert, times=1, seconds=1))
    run.publish(100)
    eventually(lambda: run.fleet.store.struck, seconds=20, what="the insert is on its way")

    ended = run.oracle.ask_postgres(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'doomed'"
    )

    assert ended
    run.judge_when_drained(seconds=_DRAIN_SECONDS)


@pytest.mark.slow
def test_a_postgresql_that_stops_answering_for_a_while_costs_latency_only(run: Run) -> None:
    """T19: black hole between the workers and PostgreSQL, then cut connections."""
    run.fleet.steady()
    writer = run.writer(transactions_per_second=30)
    for _ in range(3):
        eventually(lambda: run.oracle.stored(run.name), seconds=30)
        run.fleet.postgres.cut()
    run.fleet.postgres.fail(Fault(kind=Kind.BLACK_HOLE))
    eventually(lambda: len(run.books.acknowledged) > 200, seconds=30, what="the writers continue")
    run.fleet.heal()
    run.fleet.postgres.cut()
    writer.stop()

    run.judge_when_drained(seconds=_DRAIN_SECONDS)


@pytest.mark.parametrize("kind", [Kind.DROP_ANSWER, Kind.HOLD_ANSWER])
def test_a_commit_whose_answer_is_lost_is_found_out_from_the_ledger(run: Run, kind: Kind) -> None:
    """T18: the ack is committed, but the aggregator does not learn it."""
    run.fleet.steady()
    run.fleet.postgres.fail(Fault(kind=kind, marker=b"DELETE FROM pipeline_batch", times=1))
    run.publish(100)
    eventually(lambda: run.fleet.postgres.answers_lost, seconds=30, what="the answer to the ack is lost")
    run.fleet.heal()

    run.judge_when_drained(seconds=_DRAIN_SECONDS)


def test_a_transaction_that_stays_open_delays_nobody_and_is_not_skipped(run: Run) -> None:
    """T21: an old transaction holds events while younger ones are dispatched; its own come exactly once, after it.

    Prepared transactions are switched off on the server of the tests; for the dispatcher they are just as open.
    """
    run.fleet.steady()
    published, may_commit = threading.Event(), threading.Event()
    slow = threading.Thread(target=_publish_slowly, args=(run, published, may_commit))
    slow.start()
    assert published.wait(30)
    run.publish(100)
    eventually(lambda: run.oracle.stored(run.name) == 100, seconds=20, what="the younger ones are stored")

    may_commit.set()
    slow.join()

    assert run.judge_when_drained(seconds=_DRAIN_SECONDS).stored == 110


def test_fifty_writers_in_any_order_of_commits_are_delivered_completely(run: Run) -> None:
    """T22: random delays before the commits, rollbacks, savepoints, and ids from per-session sequence caches."""
    run.fleet.steady()
    _cache_ids(20)
    many = [run.writer(number, transactions_per_second=4) for number in range(_MANY)]
    eventually(lambda: len(run.books.acknowledged) > 500, seconds=60, what="enough events are committed")
    run.stop_writers()
    _cache_ids(1)

    verdict = run.judge_when_drained(seconds=_DRAIN_SECONDS)
    assert len(many) == _MANY
    assert run.books.rolled_back
    assert verdict.committed == len(run.books.acknowledged)


def _restart_postgres(run: Run) -> None:
    postgres = run.fleet.services.postgres
    assert postgres.pid is not None
    os.kill(postgres.pid, signal.SIGQUIT)
    eventually(lambda: not postgres.is_running, seconds=20, what="PostgreSQL has stopped")
    postgres.start()
    postgres.wait_until_ready()
    connection.close()


def _publish_slowly(run: Run, published: threading.Event, may_commit: threading.Event) -> None:
    with transaction.atomic():
        run.books.acknowledged.update(writers.publish_events(run.name, ["slow"] * 10))
        published.set()
        may_commit.wait(60)
    connection.close()


def _cache_ids(count: int) -> None:
    with closing(psycopg2.connect(os.environ["DATABASE_URL"])) as own, own.cursor() as cursor:
        for outbox in ("outbox_event", "outbox_user"):
            cursor.execute("SELECT pg_get_serial_sequence(%s, 'id')", [outbox])
            (sequence,) = cursor.fetchone() or ("",)
            cursor.execute(f"ALTER SEQUENCE {sequence} CACHE {count}")
        own.commit()
