"""Processes that freeze, come twice, are told to stop, or do not come back."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg2
import pytest
from django.conf import settings
from django.db import connection

from deploy.local.clickhouse import ClickHouse
from deploy.local.errors import StartError
from deploy.local.supervisor import Supervisor
from tests.faults.conftest import Run
from tests.faults.fleet import family, freeze, thaw, wait_until_frozen
from tests.faults.proxy import Fault, Kind
from tests.faults.reported import problems
from tests.ports import any_free_port
from tests.waiting import eventually
from towpath.actors import enqueue_batches
from towpath.flow.dispatch import Dispatcher, DispatchLimits
from towpath.outbox.models import all_outboxes

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.local.process import Process

_DRAIN_SECONDS = 60
#: `SHUTDOWN_SECONDS` by default, and what ending the processes takes.
_GRACE_SECONDS = 25
#: From the end of a dispatcher to the next one's first dispatch.
_FOLLOW_SECONDS = 5


@pytest.mark.parametrize("point", ["loaded", "written"])
def test_an_aggregator_that_wakes_up_after_its_lease_does_no_harm(run: Run, point: str) -> None:
    """T20: it stops itself before its insert, or before its ack; another one delivers the window; then it continues."""
    run.fleet.steady(has_aggregator=False)
    zombie = run.fleet.aggregator(FAILPOINTS=f"{point}=stop@1")
    run.fleet.ready(zombie)
    run.publish(100)
    wait_until_frozen(zombie, seconds=20)
    run.wait_until_drained(seconds=_DRAIN_SECONDS)

    thaw(zombie)

    eventually(lambda: "window_lease_lost" in zombie.program.log.read_text(), seconds=20, what="its ack is refused")
    run.judge_when_drained(seconds=_DRAIN_SECONDS)


@pytest.mark.slow
def test_a_frozen_aggregator_is_replaced_and_harmless_when_it_returns(run: Run) -> None:
    """T20: SIGSTOP under load, longer than the lease, to all of it."""
    run.fleet.steady()
    victim = run.fleet.aggregator()
    run.fleet.ready(victim)
    writer = run.writer()
    eventually(lambda: run.oracle.stored(run.name), seconds=30)
    freeze(victim)
    committed = len(run.books.acknowledged)
    eventually(lambda: len(run.books.acknowledged) > committed + 200, seconds=30)
    thaw(victim)
    writer.stop()

    run.judge_when_drained(seconds=_DRAIN_SECONDS)


def test_dispatchers_beside_each_other_dispatch_each_row_once(run: Run) -> None:
    """T27: three more dispatchers than there should be, at the same cursor, without any shift that keeps them apart."""
    run.fleet.steady()
    stopping = threading.Event()
    errors: list[BaseException] = []
    rivals = [threading.Thread(target=_dispatch_until, args=(stopping, errors)) for _ in range(3)]
    for rival in rivals:
        rival.start()
    writer = run.writer(transactions_per_second=40)
    eventually(lambda: len(run.books.acknowledged) > 500, seconds=60)
    writer.stop()
    stopping.set()
    for rival in rivals:
        rival.join()

    assert not errors
    run.judge_when_drained(seconds=_DRAIN_SECONDS)


@pytest.mark.slow
def test_two_schedulers_and_two_dispatchers_do_no_more_than_one(run: Run) -> None:
    """T27: shifts that are started twice take the token from each other; one of each stays."""
    run.fleet.steady()
    run.fleet.ready(run.fleet.dispatcher())
    writer = run.writer()
    eventually(lambda: len(run.books.acknowledged) > 200, seconds=60)
    writer.stop()

    run.judge_when_drained(seconds=_DRAIN_SECONDS)
    assert run.oracle.ask_postgres("SELECT name FROM pipeline_shift ORDER BY name") == [("dispatch",), ("recover",)]


@pytest.mark.parametrize("signals", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_aggregator_told_to_stop_under_load_stops_in_time_and_loses_nothing(run: Run, signals: int) -> None:
    """T32: SIGTERM drains what is sealed within the grace time; a second SIGTERM ends it immediately."""
    run.fleet.steady(has_aggregator=False)
    leaving = run.fleet.aggregator()
    run.fleet.ready(leaving)
    writer = run.writer()
    eventually(lambda: run.oracle.stored(run.name), seconds=30)

    _terminate(leaving)
    if signals == 2:
        _terminate(leaving)
    eventually(lambda: not leaving.is_running, seconds=_GRACE_SECONDS, what="it has stopped")
    writer.stop()

    run.judge_when_drained(seconds=_DRAIN_SECONDS)


@pytest.mark.slow
def test_an_aggregator_told_to_stop_while_the_store_hangs_stops_in_time(run: Run) -> None:
    """T32: its window stays in the ledger."""
    run.fleet.steady(has_aggregator=False)
    leaving = run.fleet.aggregator(STORE_TIMEOUT_SECONDS="60")
    run.fleet.ready(leaving)
    run.fleet.store.fail(Fault(kind=Kind.HOLD_ANSWER, marker=run.store.insert, times=1))
    run.publish(100)
    eventually(lambda: run.fleet.store.answers_lost, seconds=20)

    _terminate(leaving)

    eventually(lambda: not leaving.is_running, seconds=_GRACE_SECONDS, what="it has stopped")
    run.judge_when_drained(seconds=_DRAIN_SECONDS)


@pytest.mark.clickhouse(reason="the engine is ClickHouse's")
@pytest.mark.own_services
def test_a_second_server_on_the_same_folder_says_so_and_ends(run: Run, tmp_path: Path) -> None:
    """T33: the embedded engine opened twice. (That clients are made after the fork is shown by every worker here.)"""
    first = run.fleet.services
    second = ClickHouse(first.folder / "clickhouse", any_free_port(), tmp_path / "second.log")
    second.start()

    with pytest.raises(StartError):
        second.wait_until_ready()

    assert not second.is_running
    assert (tmp_path / "second.log").read_text().strip()
    assert first.clickhouse.check_ready()


def test_a_killed_dispatcher_is_replaced_at_once_and_its_shift_goes_on(run: Run, tmp_path: Path) -> None:
    """T38: under its supervisor, without a scheduler: a new one is started within 5 seconds, not at the next minute.

    What Python takes to start is left out, because it depends on what else the machine does: the new one continues with
    the shift within 5 seconds of being ready.
    """
    run.fleet.kill_all()
    with Supervisor(tmp_path / "supervised") as supervisor:
        dispatcher = run.fleet.dispatcher()
        run.fleet.release(dispatcher)
        run.fleet.ready(dispatcher, run.fleet.aggregator())
        dispatcher.kill()
        supervisor.start(dispatcher)
        run.publish(10)
        run.wait_until_drained()
        killed = dispatcher.pid

        max(family(dispatcher), key=lambda process: process.num_threads()).kill()
        run.publish(10)

        eventually(lambda: supervisor.pid(dispatcher.name) not in {None, killed}, seconds=5, what="another is started")
        dispatcher.wait_until_ready()
        eventually(lambda: run.oracle.stored(run.name) == 20, seconds=5, what="the last ten are stored")

    run.judge_when_drained(seconds=_DRAIN_SECONDS)


def test_a_dispatcher_whose_worker_is_killed_is_followed_by_its_standby_within_five_seconds(run: Run) -> None:
    """T38: kill -9 of the one process that has the shifts, no scheduler; by PostgreSQL's clock, from the kill on."""
    run.fleet.kill_all()
    first = run.fleet.dispatcher()
    run.fleet.ready(first, run.fleet.aggregator())
    run.publish(10)
    run.wait_until_drained(seconds=_DRAIN_SECONDS)
    run.fleet.ready(run.fleet.idle_dispatcher())

    ((killed_at,),) = run.oracle.ask_postgres("SELECT clock_timestamp()")
    max(family(first), key=lambda process: process.num_threads()).kill()
    run.publish(10)
    run.judge_when_drained(seconds=_DRAIN_SECONDS)

    ((dispatched_after,),) = run.oracle.ask_postgres(
        "SELECT extract(epoch FROM min(dispatched_from) - %s)::float FROM pipeline_window WHERE dispatched_from > %s",
        [killed_at, killed_at],
    )
    assert dispatched_after < _FOLLOW_SECONDS
    shifts = run.oracle.ask_postgres(
        "SELECT name, extract(epoch FROM taken_at - %s)::float FROM pipeline_shift ORDER BY name", [killed_at]
    )
    assert [name for name, _ in shifts] == ["dispatch", "recover"]
    assert all(0 < taken_after < _FOLLOW_SECONDS for _, taken_after in shifts)


def test_a_scheduler_that_died_is_reported_and_stops_nothing(run: Run) -> None:
    """T39: the shift continues for as long as its process lives; `status` says that nobody starts new ones."""
    run.fleet.steady()

    def is_reported() -> bool:
        _age_shifts(200)  # again and again: a shift that has just been sent is still to be taken
        return bool(problems("scheduler"))

    eventually(is_reported, seconds=20)
    run.publish(100)
    run.judge_when_drained(seconds=_DRAIN_SECONDS)
    _age_shifts(0)


def _age_shifts(seconds: int) -> None:
    with closing(psycopg2.connect(os.environ["DATABASE_URL"])) as own, own.cursor() as cursor:
        cursor.execute("UPDATE pipeline_shift SET taken_at = clock_timestamp() - make_interval(secs => %s)", [seconds])
        own.commit()


def _dispatch_until(stopping: threading.Event, errors: list[BaseException]) -> None:
    limits = DispatchLimits(
        batch_ids=20, batch_bytes=1_000_000, in_flight_rows=settings.TOWPATH.max_open_windows * 1000
    )
    dispatcher = Dispatcher(all_outboxes(), limits=limits, enqueue=enqueue_batches)
    try:
        while not stopping.wait(0.02):
            dispatcher.look()
    except BaseException as error:  # noqa: BLE001 - raised where it is seen
        errors.append(error)
    finally:
        connection.close()


def _terminate(process: Process) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGTERM)
