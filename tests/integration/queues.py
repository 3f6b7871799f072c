"""RabbitMQ as the tests see it: counted, emptied, and read message by message."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import TYPE_CHECKING, Any

import dramatiq
import pika

from towpath.conf.current import config
from towpath.rabbitmq.queues import queue_states

if TYPE_CHECKING:
    from collections.abc import Iterator


def queue_lengths() -> dict[str, int]:
    """Messages ready in each queue of the pipeline."""
    return {queue: state.messages for queue, state in queue_states(config()).items()}


#: What purges, kept: to connect takes longer than to purge, and every test purges.
_kept: list[Any] = []


def purge_queues() -> None:
    """Empty every queue of the pipeline that exists."""
    try:
        _purge_over_kept_connection()
    except pika.exceptions.AMQPConnectionError:  # a test has restarted RabbitMQ meanwhile
        _kept.clear()
        _purge_over_kept_connection()


def _purge_over_kept_connection() -> None:
    if not _kept:
        parameters = copy.copy(dramatiq.get_broker().parameters)  # type: ignore[attr-defined]
        parameters.heartbeat = 0  # nobody would answer between two tests
        _kept.append(pika.BlockingConnection(parameters=parameters))
    (connection,) = _kept
    channel = connection.channel()
    for queue in (name + suffix for name in config().queues for suffix in ("", ".DQ", ".XQ")):
        try:
            channel.queue_purge(queue)
        except pika.exceptions.ChannelClosedByBroker:  # nobody has used it yet
            channel = connection.channel()
    channel.close()


@contextlib.contextmanager
def declared_otherwise(queue: str) -> Iterator[None]:
    """A queue of ours is there, as a worker's declaration does not fit; gone afterwards."""
    with _connection() as connection:
        channel = connection.channel()
        channel.queue_delete(queue)
        channel.queue_declare(queue, durable=True)
        yield
        channel.queue_delete(queue)


def take_messages(queue: str) -> list[dict[str, Any]]:
    """Take every message out of a queue; their JSON."""
    taken = []
    with _connection() as connection:
        channel = connection.channel()
        while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
            taken.append(json.loads(got[2]))
    return taken


@contextlib.contextmanager
def _connection() -> Iterator[Any]:
    parameters = dramatiq.get_broker().parameters  # type: ignore[attr-defined]
    with contextlib.closing(pika.BlockingConnection(parameters=parameters)) as connection:
        yield connection
