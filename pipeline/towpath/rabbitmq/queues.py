"""The pipeline's queues as RabbitMQ shows them, and the connection's settings, for `doctor`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pika
import pika.exceptions
from dramatiq.brokers.rabbitmq import DEAD_MESSAGE_TTL
from dramatiq.common import q_name

from towpath.errors import BrokerUnreachable
from towpath.rabbitmq.broker import Broker, reason_of, the_broker
from towpath.rabbitmq.messages import DELAYED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    from towpath.conf.config import Config
    from towpath.conf.names import QueueNames

#: AMQP's codes.
_ACCESS_REFUSED = 403
_NOT_FOUND = 404

#: What dramatiq appends to the name of a queue for the messages that failed.
FAILED = ".XQ"


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue as RabbitMQ sees it: messages that are ready, and consumers."""

    messages: int
    consumers: int


def queue_states(config: Config, *, only: Iterable[str] | None = None) -> dict[str, QueueState]:
    """Return each queue of the pipeline, with its queues for delayed and failed messages; or `only` these. Raises
    BrokerUnreachable."""
    with _connection(config) as connection:
        return {name: _state(connection, name) for name in only or _names(config.queues)}


def refused_declarations(config: Config) -> list[str]:
    """Return which existing queues of the pipeline RabbitMQ refuses to a worker, and how to fix it. Raises
    BrokerUnreachable.

    It declares them as workers do, which changes nothing. Without the privilege to declare, it finds nothing.
    """
    with _connection(config) as connection:
        return [text for name in _names(config.queues) for text in _refusal(connection, name)]


def _names(queues: QueueNames) -> list[str]:
    return [name + suffix for name in queues for suffix in ("", DELAYED, FAILED)]


@contextlib.contextmanager
def _connection(config: Config) -> Iterator[pika.BlockingConnection]:
    try:
        with contextlib.closing(pika.BlockingConnection(parameters=the_broker().parameters)) as connection:
            yield connection
    except BrokerUnreachable:
        raise
    except Exception as error:
        variable = f"{config.variable_prefix}RABBITMQ_URL"
        text = f"RabbitMQ is not reachable ({reason_of(error)}): start it, or correct {variable}"
        raise BrokerUnreachable(text) from error


def _state(connection: pika.BlockingConnection, queue: str) -> QueueState:
    try:
        found = connection.channel().queue_declare(queue, passive=True).method
    except pika.exceptions.ChannelClosedByBroker as error:
        if error.reply_code == _NOT_FOUND:  # it was never used yet
            return QueueState(0, 0)
        raise BrokerUnreachable(
            f"RabbitMQ refuses the queue {queue} ({reason_of(error)}): another client may have declared it as"
            " exclusive. Delete it, or close that client's connection. Workers declare it again"
        ) from error
    return QueueState(found.message_count, found.consumer_count)


def _refusal(connection: pika.BlockingConnection, queue: str) -> Iterator[str]:
    try:
        channel = connection.channel()
        # A queue that was never used is not created here.
        channel.queue_declare(queue, passive=True)
        channel.queue_declare(queue, durable=True, arguments=_arguments(the_broker(), queue))
    except pika.exceptions.ChannelClosedByBroker as error:
        if error.reply_code not in {_ACCESS_REFUSED, _NOT_FOUND}:
            yield (
                f"RabbitMQ refuses the queue {queue} to workers ({reason_of(error)}): it was declared with other"
                " arguments. To keep its type, run `python -m deploy.rabbitmq.setup`, which makes that type the"
                " virtual host's default. Otherwise delete the queue: workers declare it again, and no event is lost"
            )


def _arguments(broker: RabbitmqBroker, queue: str) -> dict[str, Any]:
    """Return the arguments with which dramatiq declares the queue."""
    if queue.endswith(FAILED):
        return {"x-message-ttl": DEAD_MESSAGE_TTL}
    arguments: dict[str, Any] = broker._build_queue_arguments(q_name(queue))  # type: ignore[no-untyped-call]
    return arguments


def problems() -> list[str]:
    """Return what is wrong with the connection's settings, and how to fix it."""
    broker = the_broker()
    found = []
    if not isinstance(broker, Broker):
        found.append(f"arriving messages are not checked: set BROKER to {Broker.__module__}.Broker")
    if not broker.confirm_delivery:
        found.append("publisher confirms are off: set confirm_delivery=True in DRAMATIQ_BROKER")
    hosts = broker.parameters if isinstance(broker.parameters, list) else [broker.parameters]
    if any(not host.heartbeat for host in hosts):
        found.append("heartbeats are off: remove heartbeat=0 from RABBITMQ_URL")
    if any(not host.blocked_connection_timeout for host in hosts):
        found.append("blocked_connection_timeout is off: remove it from RABBITMQ_URL (the default is 5 s)")
    return found
