"""RabbitMQ as the tests see it: counted, emptied, and read message by message."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import TYPE_CHECKING, Any, TypeVar

import dramatiq
import pika

from towpath.conf.current import config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


#: What purges and counts, kept: to connect takes longer than either, and every test purges.
_kept: list[pika.BlockingConnection] = []


def queue_lengths() -> dict[str, int]:
    """Messages ready in each queue of the pipeline. One that nobody has used yet has none."""
    return _with_kept_connection(lambda connection: {queue: _length(connection, queue) for queue in _every_queue()})


def queue_length(queue: str) -> int:
    """Messages ready in one queue."""
    return _with_kept_connection(lambda connection: _length(connection, queue))


def purge_queues() -> None:
    """Empty every queue of the pipeline that exists."""
    _with_kept_connection(_purge)


def forget_connection() -> None:
    """Close what is kept."""
    while _kept:
        _kept.pop().close()


def _every_queue() -> list[str]:
    return [name + suffix for name in config().queues for suffix in ("", ".DQ", ".XQ")]


def _with_kept_connection(work: Callable[[pika.BlockingConnection], T]) -> T:
    try:
        return work(_connected())
    except pika.exceptions.AMQPConnectionError:  # a test has restarted RabbitMQ meanwhile
        _kept.clear()
        return work(_connected())


def _connected() -> pika.BlockingConnection:
    if not _kept:
        parameters = copy.copy(dramatiq.get_broker().parameters)  # type: ignore[attr-defined]
        parameters.heartbeat = 0  # nobody would answer between two tests
        _kept.append(pika.BlockingConnection(parameters=parameters))
    return _kept[0]


def _length(connection: pika.BlockingConnection, queue: str) -> int:
    channel = connection.channel()
    try:
        declared = channel.queue_declare(queue, passive=True)
    except pika.exceptions.ChannelClosedByBroker:  # nobody has used it yet
        return 0
    channel.close()
    return int(declared.method.message_count)


def _purge(connection: pika.BlockingConnection) -> None:
    channel = connection.channel()
    for queue in _every_queue():
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
