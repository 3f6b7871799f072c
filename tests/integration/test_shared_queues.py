"""Two projects that share RabbitMQ's queues take each other's messages; with a prefix they do not."""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

import dramatiq
import pika
import pytest
from django.db import connection

from tests.integration.manage import doctor
from tests.integration.queues import queue_length
from tests.integration.rows import create_users, undelivered
from tests.integration.windows import dispatched, seal
from tests.integration.workers import QUICK, Workers
from tests.waiting import eventually
from towpath.conf.current import config
from towpath.ledger.foreign import note_foreign, read_foreign
from towpath.ledger.models import Foreign
from towpath.watch.status import read_status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.event_log import EventLog

pytestmark = pytest.mark.django_db(transaction=True)

OTHER = "00000000deadbeef"
WAIT_SECONDS = 60


def problems() -> list[str]:
    return [problem for problem in read_status().problems if "another project" in problem]


def without_age(problem: str) -> str:
    return re.sub(r"\d+ s ago", "some seconds ago", problem)


def send_foreign(queue: str) -> None:
    """A message as another project sends it, which has declared the queue: here nobody may have.

    When this returns, it is in the queue.
    """
    kwargs = {"ledger": OTHER, "batch": 1, "outbox": "outbox_user", "ids": [1], "bytes": 0}
    message: dramatiq.Message[None] = dramatiq.Message(
        queue_name=queue, actor_name=queue, args=(), kwargs=kwargs, options={}
    )
    broker: Any = dramatiq.get_broker()
    with pika.BlockingConnection(broker.parameters) as rabbitmq:
        channel = rabbitmq.channel()
        channel.confirm_delivery()
        channel.queue_declare(queue, durable=True, arguments=broker._build_queue_arguments(queue))
        channel.basic_publish("", queue, json.dumps(message.asdict()).encode(), mandatory=True)


@contextlib.contextmanager
def foreign_consumer(*queues: str) -> Iterator[None]:
    """Somebody else's consumer, which takes every message of the queues of batches."""
    broker: Any = dramatiq.get_broker()
    with pika.BlockingConnection(broker.parameters) as rabbitmq:
        channel = rabbitmq.channel()
        for queue in queues:
            channel.queue_declare(queue, durable=True, arguments=broker._build_queue_arguments(queue))
            channel.basic_consume(queue, lambda *_: None, auto_ack=True)
        yield


@pytest.mark.timing
@pytest.mark.parametrize("queue", ["towpath.aggregate", "towpath.aggregate_backlog"])
def test_another_projects_message_is_a_problem_that_names_the_queue_and_what_to_do(
    workers: Workers, event_log: EventLog, queue: str
) -> None:
    workers.dispatcher(**QUICK)
    workers.aggregator(**QUICK)
    workers.wait_until_ready()
    create_users(3)
    eventually(lambda: not undelivered(), seconds=WAIT_SECONDS)
    assert problems() == []
    assert doctor()[1]["messages"]["is_ok"]

    send_foreign(queue)

    eventually(problems, seconds=WAIT_SECONDS)
    (problem,) = problems()
    assert f"another project sends messages to the queue {queue}," in problem
    assert OTHER in problem
    assert "QUEUE_PREFIX" in problem
    # And the doctor says the same
    code, findings = doctor()
    assert code == 1
    assert not findings["messages"]["is_ok"]
    assert without_age(findings["messages"]["detail"]) == without_age(problem)
    # It has cost no event of this project
    create_users(3, prefix="later-")
    eventually(lambda: not undelivered(), seconds=WAIT_SECONDS)
    assert event_log.count() == 6


def test_it_is_forgotten_ten_minutes_after_the_last_one() -> None:
    note_foreign("towpath.aggregate", ledger=OTHER)
    note_foreign("towpath.aggregate", ledger="another")
    (foreign,) = read_foreign()
    assert (foreign.queue, foreign.ledger) == ("towpath.aggregate", "another")
    assert "its ledger is another" in doctor()[1]["messages"]["detail"]

    with connection.cursor() as cursor:
        cursor.execute("UPDATE pipeline_foreign SET seen_at = seen_at - interval '10 minutes'")

    assert read_foreign() == []
    assert doctor()[1]["messages"]["is_ok"]
    assert Foreign.objects.count() == 1


@pytest.mark.parametrize(("missed", "is_problem"), [(4, False), (5, True)])
def test_a_consumer_that_takes_messages_and_leaves_no_trace_is_a_problem(missed: int, *, is_problem: bool) -> None:
    for number in range(20):
        create_users(1, prefix=f"{number}-")
        seal(dispatched(), found="ledger" if number < missed else "message")

    assert any("Check whether something else consumes" in problem for problem in read_status().problems) == is_problem


@pytest.mark.timing
def test_the_doctor_is_not_content_with_consumers_of_another_project(workers: Workers, event_log: EventLog) -> None:
    # Given a project without an aggregator, whose queues somebody else's consume
    workers.dispatcher(**QUICK)
    workers.wait_until_ready()
    queues = config().queues
    with foreign_consumer(queues.aggregate, queues.aggregate_backlog):
        # When it publishes
        create_users(3)
        eventually(lambda: not undelivered(), seconds=WAIT_SECONDS)

        # Then recovery delivers its events
        assert event_log.count() == 3
        # And the doctor says what is wrong, although no queue lacks a consumer
        code, findings = doctor()
        assert code == 1
        assert findings["queue towpath.aggregate"] == {
            "check": "queue towpath.aggregate",
            "is_ok": True,
            "detail": "1 consumer(s)",
        }
        assert not findings["messages"]["is_ok"]
        assert "they are another project's. Give each project its own virtual host" in findings["messages"]["detail"]
        assert "set QUEUE_PREFIX" in findings["messages"]["detail"]


@pytest.mark.timing
def test_queues_with_a_prefix_are_a_projects_own(workers: Workers, event_log: EventLog) -> None:
    # Given messages of a project without a prefix, which nobody takes
    knobs = {**QUICK, "QUEUE_PREFIX": "shop"}
    workers.dispatcher(**knobs)
    workers.aggregator(**knobs)
    workers.wait_until_ready()
    send_foreign("towpath.aggregate")

    # When a project with one publishes
    create_users(3)

    # Then its events are stored, by its own messages, and the others are where they were
    eventually(lambda: not undelivered(), seconds=WAIT_SECONDS)
    assert event_log.count() == 3
    assert queue_length("towpath.aggregate") == 1
    assert problems() == []
