"""The delivery limit of RabbitMQ 4's quorum queues: a message that was returned 20 times is put aside."""

from __future__ import annotations

import contextlib
import uuid
from typing import TYPE_CHECKING

import pika
import pytest

from tests.deploy.conftest import signed_up, stored_emails
from tests.deploy.real.asking import doctor, queues
from tests.waiting import eventually
from towpath.conf.names import QueueNames
from towpath.rabbitmq.queues import FAILED

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from tests.deploy.deployment import Deployment

pytestmark = pytest.mark.timeout(300)

_QUEUES = QueueNames.of("")
_WAIT_SECONDS = 90
_LIMIT = 20


def test_a_message_whose_worker_dies_again_and_again_is_put_aside_and_its_event_stored_once(
    quorum: Deployment, clickhouse: Client
) -> None:
    quorum.changes["UNSEALED_SECONDS"] = "20"  # the message is put aside before recovery seals its batch
    quorum.start("dispatcher")
    quorum.start("web")
    email = f"{uuid.uuid4().hex}@example.com"
    eventually(lambda: signed_up(quorum, email), seconds=_WAIT_SECONDS, what="the web answers")
    eventually(
        lambda: queues(quorum).keys() >= {_QUEUES.aggregate, _QUEUES.aggregate + FAILED},
        seconds=_WAIT_SECONDS,
        what="its batch is sent",
    )
    url = quorum.environment("dispatcher")["RABBITMQ_URL"]

    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        channel = connection.channel()
        returned = 0

        def is_put_aside() -> bool:
            nonlocal returned
            method, _, _ = channel.basic_get(_QUEUES.aggregate)
            if method is not None:
                channel.basic_nack(method.delivery_tag, requeue=True)
                returned += 1
            return bool(channel.queue_declare(_QUEUES.aggregate + FAILED, passive=True).method.message_count)

        eventually(is_put_aside, seconds=_WAIT_SECONDS, what="the message is put aside")

    assert returned == _LIMIT + 1
    assert queues(quorum)[_QUEUES.aggregate]["type"] == "quorum"
    eventually(lambda: email in stored_emails(clickhouse), seconds=_WAIT_SECONDS, what="the event is stored")
    assert stored_emails(clickhouse).count(email) == 1
    finding = doctor(quorum)[f"queue {_QUEUES.aggregate}{FAILED}"]
    assert not finding["is_ok"]
    assert finding["detail"].startswith("1 message(s)")
