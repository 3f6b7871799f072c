"""Whatever keeps events from moving is in `status` within thirty seconds, with its cause, and gone when it is over."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import dramatiq
import pytest
from django.db import connection

from deploy.local.process import Process, Program
from tests.faults.conftest import Run
from tests.faults.proxy import Fault, Kind
from tests.faults.reported import problems
from tests.integration.workers import QUICK, SHIFTS
from tests.waiting import eventually
from towpath.actors import verify

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_REPORTED_SECONDS = 30
_DRAIN_SECONDS = 60
#: As in production, so that recovery does not hide that an aggregator is missing.
_UNHURRIED = {"UNSEALED_SECONDS": "15", "STORE_TIMEOUT_SECONDS": "60", "LEASE_SECONDS": "10"}


def test_without_an_aggregator_status_asks_for_one(run: Run) -> None:
    run.fleet.kill_all()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM pipeline_window WHERE acked_at IS NOT NULL")  # whose batches a message has brought
    run.fleet.ready(run.fleet.idle_dispatcher(**_UNHURRIED))
    run.publish(10)

    eventually(lambda: problems("check that an aggregator is running"), seconds=_REPORTED_SECONDS)
    run.judge_when_drained(seconds=_DRAIN_SECONDS)  # recovery delivers them
    assert problems("no aggregator took the batches")
    run.fleet.kill_all()


def test_a_store_that_is_frozen_is_reported_while_it_is_and_no_longer(run: Run) -> None:
    run.fleet.kill_all()
    run.fleet.ready(run.fleet.idle_dispatcher(**_UNHURRIED), run.fleet.aggregator(**_UNHURRIED))
    run.publish(1)
    run.wait_until_drained(seconds=_DRAIN_SECONDS)
    run.fleet.store.fail(Fault(kind=Kind.BLACK_HOLE))
    run.publish(10)

    eventually(lambda: problems("the event store has not answered yet"), seconds=_REPORTED_SECONDS)
    run.fleet.heal()

    run.judge_when_drained(seconds=_DRAIN_SECONDS)
    assert not problems("window(s)")
    run.fleet.kill_all()


def test_a_frozen_rabbitmq_costs_seconds_and_is_reported(run: Run) -> None:
    run.fleet.kill_all()
    run.fleet.ready(run.fleet.idle_dispatcher(), run.fleet.aggregator())
    run.publish(1)
    run.wait_until_drained(seconds=_DRAIN_SECONDS)
    run.fleet.rabbitmq.fail(Fault(kind=Kind.BLACK_HOLE))
    try:
        run.publish(10)

        run.wait_until_drained(seconds=_DRAIN_SECONDS)  # found in the ledger
        eventually(lambda: problems("the dispatch shift was interrupted"), seconds=_REPORTED_SECONDS)
        run.publish(10)
        run.wait_until_drained(seconds=_DRAIN_SECONDS)
    finally:
        run.fleet.heal()
    run.publish(10)
    eventually(lambda: not problems("interrupted"), seconds=_REPORTED_SECONDS, what="it is over when a message is out")

    run.judge_when_drained(seconds=_DRAIN_SECONDS)
    run.fleet.kill_all()


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("amqp://u:p@does-not-exist.invalid/v", "gaierror"),
        ("amqps://guest:guest@127.0.0.1:RABBITMQ/", "SSL"),
        ("amqp://guest:wrong@127.0.0.1:RABBITMQ/", "ProbableAuthenticationError"),
        ("amqp://u:p@127.0.0.1:1/v", "ConnectionRefusedError"),
    ],
)
def test_however_the_dispatcher_s_rabbitmq_fails_events_are_delivered_and_status_says_how(
    run: Run, url: str, named: str
) -> None:
    port = urlsplit(os.environ["RABBITMQ_URL"]).port
    run.fleet.kill_all()
    run.fleet.idle_dispatcher(RABBITMQ_URL=url.replace("RABBITMQ", str(port)))
    run.fleet.ready(run.fleet.aggregator())
    run.publish(10)

    eventually(lambda: problems(named), seconds=_REPORTED_SECONDS, what=f"status names {named}")
    run.judge_when_drained(seconds=_DRAIN_SECONDS)
    run.fleet.kill_all()


@pytest.fixture
def one_thread(run: Run, tmp_path: Path) -> Iterator[Process]:
    """A dispatcher with a single thread for messages."""
    command = (
        sys.executable,
        "-m",
        "towpath.conf.launch",
        "dramatiq",
        "django_dramatiq.setup",
        "towpath.actors",
        "--processes",
        "1",
        "--threads",
        "1",
        "--queues",
        "towpath.dispatch",
    )
    run.fleet.kill_all()
    process = Process(
        Program(name="one-thread", argv=command, log=tmp_path / "one-thread.log", environment={**os.environ, **QUICK})
    )
    process.start()
    yield process
    process.kill()


@pytest.mark.usefixtures("one_thread")
def test_a_dispatcher_with_one_thread_dispatches_recovers_and_verifies(run: Run) -> None:
    for actor in _ticks():
        actor.send()
    doomed = run.fleet.aggregator(FAILPOINTS="sealed=kill@1")
    run.publish(20)
    run.fleet.wait_until_dead(doomed)

    run.judge_when_drained(seconds=_DRAIN_SECONDS)  # by recovery
    for actor in _ticks():
        actor.send()
    eventually(
        lambda: run.oracle.ask_postgres("SELECT bool_and(verified_at IS NOT NULL) FROM pipeline_window") == [(True,)],
        seconds=_DRAIN_SECONDS,
        what="all receipts are verified",
    )
    assert not problems("no tick for")
    assert not problems("was last alive")


def _ticks() -> tuple[dramatiq.Actor[[], None], ...]:
    return (*SHIFTS, verify)
