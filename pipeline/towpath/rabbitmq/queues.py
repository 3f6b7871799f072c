"""The pipeline's queues as RabbitMQ shows them, and the settings of the connection: what `doctor` asks."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import pika
import pika.exceptions

from towpath.errors import BrokerUnreachable
from towpath.rabbitmq.broker import Broker, reason_of, the_broker
from towpath.rabbitmq.messages import QUEUES

#: AMQP's code.
_NOT_FOUND = 404


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue as RabbitMQ sees it: messages that are ready, and consumers."""

    messages: int
    consumers: int


def queue_states() -> dict[str, QueueState]:
    """Each queue of the pipeline, including those for delayed and failed messages. Raises BrokerUnreachable."""
    names = [name + suffix for name in QUEUES for suffix in ("", ".DQ", ".XQ")]
    try:
        with contextlib.closing(pika.BlockingConnection(parameters=the_broker().parameters)) as connection:
            return {name: _state(connection, name) for name in names}
    except BrokerUnreachable:
        raise
    except Exception as error:
        text = f"RabbitMQ is not reachable ({reason_of(error)}): start it, or correct RABBITMQ_URL"
        raise BrokerUnreachable(text) from error


def _state(connection: pika.BlockingConnection, queue: str) -> QueueState:
    try:
        found = connection.channel().queue_declare(queue, passive=True).method
    except pika.exceptions.ChannelClosedByBroker as error:
        if error.reply_code == _NOT_FOUND:  # nobody has used it yet
            return QueueState(0, 0)
        raise BrokerUnreachable(
            f"RabbitMQ refuses the queue {queue} ({reason_of(error)}): somebody may have declared it for"
            " themselves. Delete it, or close their connection; workers declare it again"
        ) from error
    return QueueState(found.message_count, found.consumer_count)


def problems() -> list[str]:
    """What is wrong with the connection's settings, and how to fix it."""
    broker = the_broker()
    found = []
    if not isinstance(broker, Broker):
        found.append(f"what arrives in the queues is not checked: set BROKER to {Broker.__module__}.Broker")
    if not broker.confirm_delivery:
        found.append("publisher confirms are off: set confirm_delivery=True in DRAMATIQ_BROKER")
    hosts = broker.parameters if isinstance(broker.parameters, list) else [broker.parameters]
    if any(not host.heartbeat for host in hosts):
        found.append("heartbeats are off: remove heartbeat=0 from RABBITMQ_URL")
    if any(not host.blocked_connection_timeout for host in hosts):
        found.append("no blocked_connection_timeout: remove it from RABBITMQ_URL, the default is 5 s")
    return found
