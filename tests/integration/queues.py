"""RabbitMQ as the tests see it: counted, emptied, and read message by message."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import dramatiq
import pika

from towpath.rabbitmq.messages import QUEUES
from towpath.rabbitmq.queues import queue_states

if TYPE_CHECKING:
    from collections.abc import Iterator


def queue_lengths() -> dict[str, int]:
    """Messages ready in each queue of the pipeline."""
    return {queue: state.messages for queue, state in queue_states().items()}


def purge_queues() -> None:
    """Empty every queue of the pipeline that exists."""
    with _connection() as connection:
        for queue in (name + suffix for name in QUEUES for suffix in ("", ".DQ", ".XQ")):
            with contextlib.suppress(pika.exceptions.ChannelClosedByBroker):  # nobody has used it yet
                connection.channel().queue_purge(queue)


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
