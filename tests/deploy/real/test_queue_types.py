"""RabbitMQ 4 compares the virtual host's default queue type with that of a queue which is declared; 3.10 does not."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from deploy.rabbitmq import setup
from tests.deploy.conftest import wait_until_an_event_is_stored
from tests.deploy.real.asking import all_are_consumed, doctor, nobody_consumes, queues
from tests.waiting import eventually

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from tests.deploy.deployment import Deployment

pytestmark = pytest.mark.timeout(300)

_WAIT_SECONDS = 90


def test_workers_get_their_queues_after_a_setup_without_the_type_that_they_were_made_with(
    quorum: Deployment, clickhouse: Client
) -> None:
    """As compose does: `migrate` with the type once, then without it at each start."""
    workers = [quorum.start("dispatcher"), quorum.start("aggregator")]
    eventually(partial(all_are_consumed, quorum), seconds=_WAIT_SECONDS, what="all are consumed")
    for worker in workers:
        worker.stop()
    eventually(partial(nobody_consumes, quorum), seconds=_WAIT_SECONDS, what="the workers are gone")

    del quorum.changes["RABBITMQ_QUEUE_TYPE"]
    quorum.run("migrate")
    for role in ("dispatcher", "aggregator", "web"):
        quorum.start(role)

    eventually(partial(all_are_consumed, quorum), seconds=_WAIT_SECONDS, what="all are consumed again")
    assert {queue["type"] for queue in queues(quorum).values()} == {"quorum"}
    assert doctor(quorum)["queues"]["is_ok"]
    wait_until_an_event_is_stored(quorum, clickhouse)


def test_the_doctor_shows_what_rabbitmq_says_when_the_default_type_is_another_and_setup_repairs_it(
    quorum: Deployment,
) -> None:
    worker = quorum.start("dispatcher")
    aggregator = quorum.start("aggregator")
    eventually(partial(all_are_consumed, quorum), seconds=_WAIT_SECONDS, what="all are consumed")
    worker.stop()
    environment = quorum.environment("migrate")

    # When somebody changes it, past our setup
    content = setup.definitions(environment["RABBITMQ_URL"], queue_type="classic")
    setup.import_definitions(environment["RABBITMQ_ADMIN_URL"], content)
    aggregator.stop()
    eventually(partial(nobody_consumes, quorum), seconds=_WAIT_SECONDS, what="the workers are gone")
    quorum.start("dispatcher")
    quorum.start("aggregator")
    log = quorum.log_folder / "aggregator.log"
    eventually(lambda: "PRECONDITION_FAILED" in log.read_text(), seconds=_WAIT_SECONDS, what="it is refused")

    detail = doctor(quorum)["queues"]["detail"]
    assert "406" in detail
    assert "x-queue-type" in detail
    assert "deploy.rabbitmq.setup" in detail
    assert nobody_consumes(quorum)

    # Then the setup repairs it, and the workers continue on their own
    del quorum.changes["RABBITMQ_QUEUE_TYPE"]
    quorum.run("migrate")
    eventually(partial(all_are_consumed, quorum), seconds=_WAIT_SECONDS, what="all are consumed again")
    assert doctor(quorum)["queues"]["is_ok"]
