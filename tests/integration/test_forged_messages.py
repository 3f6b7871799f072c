"""RabbitMQ in the hands of a stranger: whoever may publish there can neither write nor change nor delete an event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dramatiq
import pytest

from pipeline.actors import aggregate, publish_batches
from pipeline.broker import queue_lengths
from tests.integration.dispatching import Sent, dispatch_all, make_dispatcher
from tests.integration.rows import create_users, undelivered, write_events
from tests.integration.workers import QUICK
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.integration.event_log import EventLog
    from tests.integration.workers import Workers

WAIT_SECONDS = 60


def forge(**message: Any) -> None:  # noqa: ANN401 - anything can be sent
    aggregate.broker.enqueue(
        dramatiq.Message(queue_name="aggregate", actor_name="aggregate", args=(), kwargs=message, options={})
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
    eventually(lambda: not queue_lengths()["aggregate"], seconds=WAIT_SECONDS)
    create_users(1, prefix="after")
    dispatch_all(make_dispatcher(publish_batches))

    # Then what was dispatched is stored once, as the ledger has it
    eventually(lambda: undelivered() == {}, seconds=WAIT_SECONDS)
    assert event_log.count() == 5
    assert event_log.distinct() == 5
    assert {event.event_context for event in event_log.events() if event.outbox == "outbox_event"} == {
        b'{"not":"dispatched"}'
    }
