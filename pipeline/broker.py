"""RabbitMQ, as far as the pipeline looks at it itself; everything else goes through dramatiq's broker."""

from __future__ import annotations

import contextlib
from typing import cast

import dramatiq
import pika
import pika.exceptions
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from pipeline.errors import BrokerUnreachable

#: The queues of the pipeline. dramatiq adds a `.DQ` (delayed) and a `.XQ` (failed) to each.
QUEUES = ("dispatch", "aggregate")


def queue_lengths() -> dict[str, int]:
    """Messages ready in each queue of the pipeline, those for delayed and failed messages included.

    Raises BrokerUnreachable.
    """
    broker = _rabbitmq()
    lengths: dict[str, int] = {}
    try:
        with contextlib.closing(pika.BlockingConnection(parameters=broker.parameters)) as connection:
            for queue in (name + suffix for name in QUEUES for suffix in ("", ".DQ", ".XQ")):
                channel = connection.channel()
                try:
                    lengths[queue] = channel.queue_declare(queue, passive=True).method.message_count
                except pika.exceptions.ChannelClosedByBroker:
                    lengths[queue] = 0  # nobody has used it yet; the broker has closed the channel over it
    except pika.exceptions.AMQPError as error:
        raise BrokerUnreachable(f"RabbitMQ is not reachable: {type(error).__name__} {error}".strip()) from error
    return lengths


def problems() -> list[str]:
    """What is wrong with the connection's settings, each with what to do."""
    broker = _rabbitmq()
    found = []
    if not broker.confirm_delivery:
        found.append("publisher confirms are off: set confirm_delivery=True in DRAMATIQ_BROKER")
    parameters = broker.parameters if isinstance(broker.parameters, list) else [broker.parameters]
    if any(not one.heartbeat for one in parameters):
        found.append("heartbeats are off: remove heartbeat=0 from RABBITMQ_URL")
    if any(not one.blocked_connection_timeout for one in parameters):
        found.append("no blocked_connection_timeout: remove it from RABBITMQ_URL, the default is 30 s")
    return found


def _rabbitmq() -> RabbitmqBroker:
    return cast("RabbitmqBroker", dramatiq.get_broker())
