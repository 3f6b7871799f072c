"""RabbitMQ loses messages, repeats them, or goes away: it only ever shares out work."""

from __future__ import annotations

import os
import random
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pika
import pytest

from tests.faults.conftest import Run
from tests.faults.proxy import Fault, Kind
from tests.faults.reported import problems
from tests.integration.workers import SHIFTS
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

_DRAIN_SECONDS = 60


@pytest.fixture
def channel(run: Run) -> Iterator[pika.adapters.blocking_connection.BlockingChannel]:
    """A channel of the test's own, past the proxy."""
    assert run.fleet.services.rabbitmq.is_running
    with closing(pika.BlockingConnection(pika.URLParameters(os.environ["RABBITMQ_URL"]))) as connection:
        yield connection.channel()


def test_a_queue_purged_or_deleted_under_load_costs_latency_only(
    run: Run, channel: pika.adapters.blocking_connection.BlockingChannel
) -> None:
    """T23: what was in the queue is sealed by recovery."""
    run.fleet.steady()
    writer = run.writer()
    for action in (channel.queue_purge, channel.queue_delete, channel.queue_purge):
        stored = run.oracle.stored(run.name)
        eventually(lambda: run.oracle.stored(run.name) > stored, seconds=30, what="it continues")
        with suppress(pika.exceptions.ChannelClosedByBroker):
            action("towpath.aggregate")
    writer.stop()

    run.judge_when_drained(seconds=_DRAIN_SECONDS)


def test_a_queue_that_refuses_its_arguments_does_not_stop_delivery(
    run: Run, channel: pika.adapters.blocking_connection.BlockingChannel
) -> None:
    """T23: somebody declared the queue with other arguments. No message goes out; recovery writes the rows."""
    run.fleet.steady(has_aggregator=False)
    channel.queue_delete("towpath.aggregate")
    channel.queue_declare("towpath.aggregate", durable=True, arguments={"x-max-length": 1000})
    try:
        run.publish(100)

        run.judge_when_drained(seconds=_DRAIN_SECONDS)
    finally:
        channel.queue_delete("towpath.aggregate")
        run.fleet.kill_all()


@pytest.mark.slow
@pytest.mark.own_services
def test_a_killed_rabbitmq_costs_latency_only(run: Run) -> None:
    """T23: kill -9 under load, and the start of a new node on the same data."""
    run.fleet.steady()
    rabbitmq = run.fleet.services.rabbitmq
    writer = run.writer()
    eventually(lambda: run.oracle.stored(run.name), seconds=30)

    rabbitmq.kill()
    rabbitmq.start()
    rabbitmq.wait_until_ready()
    stored = run.oracle.stored(run.name)
    eventually(lambda: run.oracle.stored(run.name) > stored + 50, seconds=60, what="it continues on its own")
    writer.stop()

    run.judge_when_drained(seconds=_DRAIN_SECONDS)


@pytest.mark.slow
@pytest.mark.own_services
@pytest.mark.timeout(300)
def test_a_blocked_rabbitmq_costs_latency_only_and_is_reported(run: Run) -> None:
    """T24: memory alarm. The dispatcher gives up within 30 s, so that what is committed later is dispatched, too.

    What is in the ledger is sealed by recovery meanwhile.
    """
    run.fleet.steady()
    rabbitmq = run.fleet.services.rabbitmq
    rabbitmq.control("set_vm_memory_high_watermark", "absolute", "1")
    try:
        run.publish(100)
        run.create_users(10)

        eventually(lambda: run.oracle.stored(run.name) == 110, seconds=90, what="recovery delivers without RabbitMQ")
        eventually(lambda: problems("the dispatch shift was interrupted"), seconds=90, what="status says so")
        run.publish(100)
        eventually(lambda: run.oracle.stored(run.name) == 210, seconds=90, what="later events are dispatched, too")
    finally:
        rabbitmq.control("set_vm_memory_high_watermark", "absolute", str(512 * 1024 * 1024))

    run.judge_when_drained(seconds=_DRAIN_SECONDS)


def test_consumers_cut_off_while_their_actors_wait_do_no_harm(run: Run) -> None:
    """T25: the connection breaks again and again; delivery tags are used anew on the next one."""
    run.fleet.steady()
    writer = run.writer()
    for _ in range(5):
        stored = run.oracle.stored(run.name)
        eventually(lambda: run.oracle.stored(run.name) > stored, seconds=60, what="it continues")
        run.fleet.rabbitmq.cut()
    writer.stop()

    run.judge_when_drained(seconds=_DRAIN_SECONDS)


def test_a_rabbitmq_that_cannot_be_reached_stops_neither_writers_nor_what_is_sealed(run: Run) -> None:
    """T23: refused connections, for a while."""
    run.fleet.steady()
    writer = run.writer()
    eventually(lambda: run.oracle.stored(run.name), seconds=30)
    run.fleet.rabbitmq.fail(Fault(kind=Kind.REFUSE))
    committed = len(run.books.acknowledged)
    eventually(lambda: len(run.books.acknowledged) > committed + 100, seconds=30, what="the writers continue")
    run.fleet.heal()
    writer.stop()

    run.judge_when_drained(seconds=_DRAIN_SECONDS)


@pytest.mark.parametrize("dropped", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
def test_messages_doubled_shuffled_and_dropped_make_each_row_arrive_once(
    run: Run, channel: pika.adapters.blocking_connection.BlockingChannel, dropped: float
) -> None:
    """T26: every message twice, in random order, three of ten not at all."""
    run.fleet.kill_all()
    run.fleet.ready(run.fleet.idle_dispatcher(BATCH_IDS="10", UNSEALED_SECONDS="15"))
    for shift in SHIFTS:
        shift.send()
    run.publish(200)
    run.create_users(50)
    messages = _all_messages(run, channel, count=25)
    dice = random.Random(run.name)
    kept = [message for message in messages if dice.random() >= dropped]
    twice = [*kept, *kept]
    dice.shuffle(twice)
    for properties, body in twice:
        channel.basic_publish("", "towpath.aggregate", body, properties)

    run.fleet.aggregator()
    run.fleet.aggregator()

    run.judge_when_drained(seconds=_DRAIN_SECONDS)
    run.fleet.kill_all()


def _all_messages(
    run: Run, channel: pika.adapters.blocking_connection.BlockingChannel, *, count: int
) -> list[tuple[pika.BasicProperties, bytes]]:
    taken: list[tuple[pika.BasicProperties, bytes]] = []

    def take() -> bool:
        # A test before may have deleted the queue: until the dispatcher has declared it, a look costs the channel.
        own = channel.connection.channel()
        with suppress(pika.exceptions.ChannelClosedByBroker):
            while (answer := own.basic_get("towpath.aggregate", auto_ack=True))[0] is not None:
                taken.append((answer[1], answer[2]))
            own.close()
        return len(taken) >= count

    eventually(take, seconds=30, what=f"{count} batches of {run.name} are dispatched")
    return taken
