"""RabbitMQ, as far as the pipeline looks at it itself; everything else goes through dramatiq's broker."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, cast

import dramatiq
import pika
import pika.exceptions
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.errors import ConnectionClosed

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
    except (pika.exceptions.AMQPError, OSError) as error:  # a certificate that is not trusted is an OSError
        raise BrokerUnreachable(f"RabbitMQ is not reachable: {type(error).__name__} {error}".strip()) from error
    return lengths


def enqueue_all(messages: Sequence[dramatiq.Message[Any]]) -> None:
    """Put the messages onto their queues and return when RabbitMQ has taken responsibility for all of them.

    As `Broker.enqueue` for each, but in an AMQP transaction: one wait for the broker instead of one for each message
    (a hundred messages: 9 ms instead of 50). Raises dramatiq's ConnectionClosed; some messages may be out then.
    """
    broker = _rabbitmq()
    for message in messages:
        broker.emit_before("enqueue", message, None)
    for is_last_attempt in (False, True):
        try:
            _publish_in_transaction(broker, messages)
            break
        except pika.exceptions.AMQPError as error:
            # As dramatiq does it: the connection may have died long ago, and the queue may be gone.
            del broker.connection
            broker.queues_pending.update(message.queue_name for message in messages)
            if is_last_attempt:
                raise ConnectionClosed(error) from error  # type: ignore[no-untyped-call]
    for message in messages:
        broker.emit_after("enqueue", message, None)


def _publish_in_transaction(broker: RabbitmqBroker, messages: Sequence[dramatiq.Message[Any]]) -> None:
    for queue in {message.queue_name for message in messages}:
        broker.declare_queue(queue, ensure=True)
    # Of its own: the thread's channel is in confirm mode, and a channel is either the one or the other.
    channel = broker.connection.channel()
    returned: list[str] = []
    channel.add_on_return_callback(lambda _channel, method, _properties, _body: returned.append(method.routing_key))
    channel.tx_select()
    for message in messages:
        channel.basic_publish(
            exchange="",
            routing_key=message.queue_name,
            body=message.encode(),
            properties=pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent.value),
            mandatory=True,
        )
    channel.tx_commit()
    # What was returned came before the commit's answer; its callback is called in here.
    broker.connection.process_data_events(time_limit=0)
    if returned:
        raise pika.exceptions.AMQPChannelError(f"RabbitMQ has no queue {returned[0]}")
    channel.close()


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
        found.append("no blocked_connection_timeout: remove it from RABBITMQ_URL, the default is 5 s")
    return found


def _rabbitmq() -> RabbitmqBroker:
    return cast("RabbitmqBroker", dramatiq.get_broker())
