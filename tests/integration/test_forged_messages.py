"""RabbitMQ in the hands of a stranger: anyone who may send messages there can neither write nor change an event."""

from __future__ import annotations

import contextlib
import json
import os
import struct
import uuid
from typing import TYPE_CHECKING, Any

import dramatiq
import pika
import pytest

from tests.integration.dispatching import Sent, dispatch_all, make_dispatcher
from tests.integration.invariants import assert_delivered_within
from tests.integration.queues import queue_length, queue_lengths
from tests.integration.rows import create_users, undelivered, write_events
from tests.integration.workers import QUICK
from tests.waiting import eventually
from towpath.actors import aggregate, enqueue_batches
from towpath.ledger.foreign import ledger_id
from towpath.ledger.models import Window
from towpath.rabbitmq.broker import Broker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.integration.event_log import EventLog
    from tests.integration.workers import Workers
    from tests.services import Services

WAIT_SECONDS = 60


def forge(**message: Any) -> None:
    aggregate.broker.enqueue(
        dramatiq.Message(
            queue_name="towpath.aggregate", actor_name="towpath.aggregate", args=(), kwargs=message, options={}
        )
    )


@pytest.mark.timeout(180)
def test_forged_messages_store_nothing_and_stop_nobody(workers: Workers, event_log: EventLog) -> None:
    # Given an event that nobody has dispatched yet, and messages that no dispatcher has sent
    create_users(3)
    sent = Sent()
    dispatch_all(make_dispatcher(sent))
    (batch,) = sent.batches
    (waiting,) = write_events(['{"not":"dispatched"}'])
    true = {"batch": batch.id, "outbox": batch.outbox, "ids": batch.ids, "bytes": 0}
    forged: list[dict[str, Any]] = [
        # No such batch; a batch that the ledger knows otherwise.
        {**true, "batch": batch.id + 1_000_000, "outbox": "outbox_event", "ids": [waiting]},
        {**true, "outbox": "outbox_event", "ids": [waiting]},
        {**true, "outbox": "users; DROP TABLE users", "ids": [-1, 0, 2**70]},
        {**true, "bytes": -(10**15)},
        # No batch at all.
        *({**true, "batch": wrong} for wrong in ("1; DROP TABLE users", None, True, 1.5, [batch.id], 2**63, -1)),
        {**true, "ids": None},
        {**true, "bytes": "many"},
        {"batch": batch.id},
        {**true, "rows": 1},
    ]
    for message in forged:
        forge(**message)

    # When an aggregator takes them, and the dispatcher's own message after them
    workers.aggregator(**{**QUICK, "WINDOW_WRITERS": "1"})
    eventually(lambda: not queue_length("towpath.aggregate"), seconds=WAIT_SECONDS)
    create_users(1, prefix="after")
    dispatch_all(make_dispatcher(enqueue_batches))

    # Then what was dispatched is stored once, as the ledger has it
    eventually(lambda: undelivered() == {}, seconds=WAIT_SECONDS)
    assert event_log.count() == 5
    assert event_log.distinct() == 5
    assert {event.event_context for event in event_log.events() if event.outbox == "outbox_event"} == {
        b'{"not":"dispatched"}'
    }


# --- Messages that would tell dramatiq what to do ----------------------------------------------------------------

#: 2099, in milliseconds.
_FAR_AWAY = 4_070_908_800_000


def raw(queue: str, bodies: Iterable[bytes], properties: pika.BasicProperties | None = None) -> None:
    """Put bodies into a queue, as anybody can who may send messages there."""
    broker = aggregate.broker
    assert isinstance(broker, Broker)
    broker.declare_queue(queue, ensure=True)
    with contextlib.closing(pika.BlockingConnection(broker.parameters)) as connection:
        channel = connection.channel()
        for body in bodies:
            channel.basic_publish("", queue, body, properties or pika.BasicProperties(delivery_mode=2, priority=255))


def forged(queue: str, actor: str, kwargs: object, **changes: object) -> bytes:
    message = dramatiq.Message(queue_name=queue, actor_name=actor, args=(), kwargs={}, options={}).asdict()
    return json.dumps({**message, "kwargs": kwargs, **changes}).encode()


def batch(number: int, **changes: object) -> bytes:
    kwargs = {"ledger": ledger_id(), "batch": number, "outbox": "outbox_user", "ids": [1], "bytes": 0}
    return forged("towpath.aggregate", "towpath.aggregate", kwargs, **changes)


def tick(actor: str = "towpath.dispatch_shift", **changes: object) -> bytes:
    return forged("towpath.dispatch", actor, {}, **changes)


def empty() -> bool:
    return not any(queue_lengths().values())


@pytest.mark.timeout(240)
def test_messages_of_the_far_future_hold_up_nothing_even_after_a_restart(workers: Workers, event_log: EventLog) -> None:
    # Given more of them than the workers fetch at a time, before the ticks and before the batches
    later: dict[str, Any] = {"options": {"eta": _FAR_AWAY}}
    raw(
        "towpath.dispatch",
        [tick(**later), tick("towpath.recover_shift", **later), tick("towpath.verify", **later)] * 20,
    )
    raw("towpath.aggregate", [batch(1, **later)] * 60)
    raw("towpath.dispatch.DQ", [forged("towpath.dispatch.DQ", "towpath.dispatch_shift", {}, **later)] * 20)
    raw("towpath.aggregate.DQ", [forged("towpath.aggregate.DQ", "towpath.aggregate", {"batch": 1}, **later)] * 20)

    # When the workers start, and start again
    dispatcher = workers.idle_dispatcher(**QUICK)
    aggregator = workers.aggregator(**QUICK)
    create_users(3)
    assert_delivered_within(event_log, committed=3, seconds=WAIT_SECONDS)
    for process in (dispatcher, aggregator):
        process.kill()
        process.start()
    create_users(3, prefix="later")

    # Then nothing waits for 2099, and nothing is left of it
    assert_delivered_within(event_log, committed=6, seconds=WAIT_SECONDS)
    eventually(empty, seconds=WAIT_SECONDS)


@pytest.mark.timeout(240)
def test_messages_that_nobody_of_ours_has_sent_are_rejected_once_and_told_of_in_a_few_lines(
    workers: Workers, event_log: EventLog, services: Services, request: pytest.FixtureRequest
) -> None:
    mark = f"swordfish{uuid.uuid4().hex}"
    bodies = [
        batch(1, options=None),
        batch(1, options={"max_retries": 10**9, "min_backoff": 1, "max_backoff": 1}),
        batch(1, options={"retries": "many"}),
        batch(1, args=[mark]),
        forged("towpath.aggregate", "towpath.aggregate", {"batch": mark}),
        forged("towpath.aggregate", mark, {}),
        forged("towpath.aggregate", "towpath.dispatch_shift", {}),
        b"\xff\x00" + mark.encode(),
        b"[" * 100_000,
        b"{}",
    ]
    raw("towpath.aggregate", bodies * 100)
    raw("towpath.aggregate", [os.urandom(16 * 1024 * 1024)])
    raw(
        "towpath.dispatch", [tick(options=None), tick(options={"max_retries": None}), tick(mark), tick(args=None)] * 100
    )

    workers.idle_dispatcher(**QUICK)
    workers.aggregator(**QUICK)
    create_users(3)

    assert_delivered_within(event_log, committed=3, seconds=WAIT_SECONDS)
    eventually(empty, seconds=WAIT_SECONDS)  # those for failed messages, too
    for name in ("aggregator-1", "dispatcher"):
        log = (services.folder / "log" / request.node.name[:80] / f"{name}.log").read_text()
        assert "messages_rejected" in log
        assert mark not in log
        assert "Traceback" not in log
        assert len(log) < 50_000


@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [1_000, pytest.param(30_000, marks=pytest.mark.slow)])
def test_batches_that_the_ledger_does_not_have_delay_nobody(workers: Workers, event_log: EventLog, count: int) -> None:
    workers.idle_dispatcher()
    workers.aggregator()
    workers.wait_until_ready()
    create_users(1, prefix="first")
    assert_delivered_within(event_log, committed=1, seconds=WAIT_SECONDS)

    raw("towpath.aggregate", (batch(10**12 + number) for number in range(count)))
    create_users(5)

    # Not even as long as recovery waits for an aggregator.
    assert_delivered_within(event_log, committed=6, seconds=10)
    assert set(Window.objects.values_list("found", flat=True)) <= {"message", "ledger"}
    eventually(empty, seconds=2 * WAIT_SECONDS)


class Headers(pika.BasicProperties):  # type: ignore[misc]  # pika has no types
    """Headers as they are on the wire."""

    def __init__(self, table: bytes) -> None:
        super().__init__()
        self._table = table

    def encode(self) -> list[bytes]:
        return [struct.pack(">HI", self.FLAG_HEADERS, len(self._table)), self._table]


def nested(depth: int) -> bytes:
    table = b""
    for _ in range(depth):
        table = b"\x01aF" + struct.pack(">I", len(table)) + table
    return table


@pytest.mark.timeout(240)
def test_headers_that_the_driver_cannot_read_hold_up_nothing(
    workers: Workers, event_log: EventLog, services: Services, request: pytest.FixtureRequest
) -> None:
    # A time that no calendar has, and tables in tables. (RabbitMQ itself takes no number that is none.)
    for table in (b"\x01aT" + struct.pack(">Q", 2**63), nested(2000)):
        raw("towpath.dispatch", [tick()], Headers(table))
        raw("towpath.aggregate", [batch(1)], Headers(table))
        raw("towpath.aggregate.DQ", [b"{}"], Headers(table))

    workers.idle_dispatcher(**QUICK)
    workers.aggregator(**QUICK)
    create_users(3)

    assert_delivered_within(event_log, committed=3, seconds=WAIT_SECONDS)
    eventually(empty, seconds=WAIT_SECONDS)
    for name in ("aggregator-1", "dispatcher"):
        log = (services.folder / "log" / request.node.name[:80] / f"{name}.log").read_text()
        assert "connection error" not in log


def test_a_project_s_own_queues_take_what_dramatiq_takes(services: Services) -> None:
    assert services.rabbitmq.is_running
    broker = dramatiq.get_broker()
    assert isinstance(broker, Broker)
    queue = f"of-a-project-{uuid.uuid4().hex}"
    broker.declare_queue(queue, ensure=True)
    own: dramatiq.Message[None] = dramatiq.Message(
        queue, "somebody_s", (1, "two"), {"three": [3.5]}, {"own": True, "max_retries": 7}
    )
    broker.enqueue(own)

    consumer = broker.consume(queue, timeout=5000)
    try:
        received = next(consumer)
        assert received is not None
        assert received._message == own
    finally:
        consumer.close()
        broker.channel.queue_delete(queue)
