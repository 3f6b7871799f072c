"""What is bound where an event is caused arrives in the columns of the event log."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import dramatiq
import pytest
import structlog
from django.conf import settings
from django.db import connection, transaction
from django.test import Client
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from backend.users.models import OutboxUser
from tests.integration.event_log import EventLog, Who
from tests.integration.superusers import superuser
from tests.integration.windows import deliver, sealed
from tests.knobs import Knobs
from tests.waiting import eventually
from towpath import Event, publish
from towpath.conf.broker_url import with_safe_defaults
from towpath.eventlog.store import EventStore
from towpath.flow.delivery import Delivery
from towpath.outbox.context import bind
from towpath.outbox.middleware import EventContextCarrier
from towpath.outbox.models import OutboxEvent

ADA = {"email": "ada@example.com", "first_name": "Ada", "last_name": "Lovelace"}


class Noted(Event):
    step: str


@transaction.atomic
def note(step: str) -> None:
    publish(Noted(step=step))


def post(client: Client, **headers: str) -> Any:
    return client.post("/api/users", json.dumps(ADA), content_type="application/json", headers=headers)


def bound_by_step() -> dict[str, dict[str, str] | None]:
    return {json.loads(row.event_context)["step"]: row.bound for row in OutboxEvent.objects.all()}


def test_a_request_s_actor_id_and_address_are_columns_of_its_events(store: EventStore, event_log: EventLog) -> None:
    # Given somebody who is signed in, a lean event of theirs, and a frozen one that is bound to nothing
    client = Client(REMOTE_ADDR="2001:db8::7")
    root = superuser()
    client.force_login(root)
    OutboxEvent.objects.all().delete()  # the sign-in
    note("alone")

    response = post(client, **{"X-Request-ID": "from-the-proxy:1"})

    assert (response.status_code, response["X-Request-ID"]) == (201, "from-the-proxy:1")
    assert deliver(sealed(), store) is Delivery.ACKED
    assert event_log.who() == [Who("", "", ""), Who(f"user:{root.pk}", "from-the-proxy:1", "2001:db8::7")]


def test_behind_a_proxy_the_address_of_an_event_is_the_client_s(knobs: Knobs) -> None:
    knobs(trusted_proxies=1)

    response = post(Client(REMOTE_ADDR="10.0.0.1"), **{"X-Forwarded-For": "192.0.2.1, 192.0.2.7"})

    assert response.status_code == 201
    assert [values and values["ip"] for values in OutboxUser.objects.values_list("bound", flat=True)] == ["192.0.2.7"]


@pytest.mark.parametrize("given", ["", "a b", "x" * 101, "a\nb", "<script>", "é"])
def test_a_request_id_that_could_do_harm_is_replaced(given: str) -> None:
    response = Client().get("/admin/login/", headers={"X-Request-ID": given})

    assert response["X-Request-ID"] != given
    assert len(response["X-Request-ID"]) == 36


def test_a_request_leaves_nothing_bound_behind() -> None:
    post(Client())
    note("after")

    assert bound_by_step() == {"after": None}


# --- Carried by messages -----------------------------------------------------------------------------------------


@pytest.fixture
def broker() -> Iterator[RabbitmqBroker]:
    """The real RabbitMQ, with queues of its own and a worker in this process."""
    broker = RabbitmqBroker(
        url=with_safe_defaults(settings.TOWPATH.rabbitmq_url), confirm_delivery=True, middleware=[EventContextCarrier()]
    )
    yield broker
    for suffix in ("", ".DQ", ".XQ"):
        broker.channel.queue_delete(f"carried{suffix}")
    broker.close()


@pytest.mark.timing
def test_an_actor_s_events_and_log_lines_carry_what_was_bound_where_its_message_was_sent(
    broker: RabbitmqBroker,
) -> None:
    in_log_lines = {}

    @dramatiq.actor(broker=broker, queue_name="carried")
    def work(step: str) -> None:
        in_log_lines[step] = structlog.contextvars.get_contextvars()
        with contextlib.closing(connection):
            note(step)
            if step == "first":
                work.send("sent by the first")
            if step == "fails":
                raise ValueError(step)

    with bind(actor="user:7", request_id="r1"):
        work.send("first")
        work.send("fails")
    work.send("of nobody")
    with bind(actor="job:nightly"):
        work.send("last")

    worker = dramatiq.Worker(broker, queues={"carried"}, worker_threads=1)
    worker.start()
    try:
        eventually(lambda: len(bound_by_step()) == 5, seconds=60)
    finally:
        worker.stop()

    of_the_request = {"actor": "user:7", "request_id": "r1"}
    assert bound_by_step() == {
        "first": of_the_request,
        "fails": of_the_request,
        "of nobody": None,
        "last": {"actor": "job:nightly"},
        "sent by the first": of_the_request,
    }
    assert in_log_lines == {step: values or {} for step, values in bound_by_step().items()}


def test_the_application_s_own_broker_carries_the_context() -> None:
    assert any(isinstance(one, EventContextCarrier) for one in dramatiq.get_broker().middleware)
