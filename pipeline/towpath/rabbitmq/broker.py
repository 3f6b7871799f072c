"""dramatiq's broker for RabbitMQ, with a check of what arrives in the pipeline's queues and one way to enqueue there.

Nothing depends on what RabbitMQ says: a message is a hint that the ledger has something new. A foreign message is
removed from its queue, counted by reason, and forgotten.
"""

from __future__ import annotations

import copy
import functools
import struct
import time
from collections.abc import Iterator, Sequence
from typing import Any, cast

import dramatiq
import pika
import pika.exceptions
import pika.frame
import pika.spec
from dramatiq.brokers.rabbitmq import RabbitmqBroker, _RabbitmqConsumer
from dramatiq.common import q_name
from dramatiq.encoder import JSONEncoder
from dramatiq.errors import ConnectionClosed
from dramatiq.message import get_encoder

from towpath.conf.names import QueueNames
from towpath.rabbitmq.messages import MessageRejected, accept, largest_body, sent_options
from towpath.telemetry import heartbeat, report
from towpath.telemetry.secrets import without_secrets

#: A connection that enqueues waits for answers, so it must soon notice if none comes (pika: after twice this plus ten
#: seconds). One that consumes has time.
_ENQUEUEING_HEARTBEAT_SECONDS = 4
#: An attempt that failed sooner found a connection that had died long ago, so another attempt is worth it.
_QUICK_FAILURE_SECONDS = 2.0
#: The most batches of a backlog that a worker fetches. Each makes nearly a window, and occupies an actor's thread until
#: the window is sealed. The other threads are for fresh batches, and another aggregator can take what is not fetched.
_BACKLOG_PREFETCH = 4
#: Where the pipeline's own actors are.
_OURS = "towpath.actors"
#: AMQP's code.
_ACCESS_REFUSED = 403

#: A frame's head: kind, channel, bytes. In the one before a message's body: class, weight, the body's bytes.
_FRAME = struct.Struct(">BHL")
_BODY_BYTES = struct.Struct(">Q")
_BODY_BYTES_AT = 4

_json = JSONEncoder()


class Broker(RabbitmqBroker):
    """dramatiq's broker for RabbitMQ. On the pipeline's queues, it accepts and sends only the pipeline's messages. A
    project's own queues work as with dramatiq's broker."""

    #: The most ids in a message: a body that is too large for them is rejected unread. A worker sets its own limit.
    batch_ids = 1000

    def __init__(self, *, queue_prefix: str = "", **options: Any) -> None:
        super().__init__(**options)
        #: The pipeline's.
        self.own_queues = QueueNames.of(queue_prefix)

    def declare_actor(self, actor: dramatiq.Actor[Any, Any]) -> None:
        if actor.queue_name in self.own_queues and actor.fn.__module__ != _OURS:
            # A message that is sent to it would be taken for a foreign one.
            raise ValueError(
                f"{actor.fn.__module__}.{actor.actor_name}: the queue {actor.queue_name!r} is the pipeline's own."
                " Give this actor another queue_name."
            )
        super().declare_actor(actor)

    @property
    def consumer_class(self) -> type[_RabbitmqConsumer]:
        return _CheckedConsumer

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Any:
        if queue_name == self.own_queues.aggregate_backlog:
            # dramatiq fetches two messages for each thread: a quarter leaves half of the threads, however many.
            prefetch = max(1, min(_BACKLOG_PREFETCH, prefetch // 4))
        try:
            return super().consume(queue_name, prefetch, timeout)
        except ConnectionClosed as error:
            _note_refusal(queue_name, error, own=self.own_queues)
            raise
        except Exception as error:
            heartbeat.not_refused(queue_name)
            # A name that does not resolve, a certificate that has expired, a server that is frozen: dramatiq expects
            # none of these, and would log a traceback every few seconds.
            raise _connection_closed(error) from error

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        if message.queue_name in self.own_queues and delay is None:
            enqueue_all([message])
            return message
        return super().enqueue(message, delay=delay)

    def _ensure_queue(self, canonical_queue_name: str) -> None:
        try:
            super()._ensure_queue(canonical_queue_name)  # type: ignore[no-untyped-call]
        except ConnectionClosed as error:
            if (
                canonical_queue_name not in self.own_queues
                or getattr(error.message, "reply_code", None) != _ACCESS_REFUSED
            ):
                raise
            # The scheduler's user may only send messages. The worker that consumes a queue declares it.
            self.queues_pending.discard(canonical_queue_name)

    @property
    def connection(self) -> pika.BlockingConnection:
        """The connection on which this thread enqueues."""
        if getattr(self.state, "connection", None) is None:
            hosts = self.parameters if isinstance(self.parameters, list) else [self.parameters]
            self.state.connection = pika.BlockingConnection([_for_enqueueing(host) for host in hosts])
            self.connections.add(self.state.connection)
        return self.state.connection

    @connection.deleter
    def connection(self) -> None:
        RabbitmqBroker.connection.fdel(self)  # type: ignore[attr-defined]  # a property, untyped

    def keep_alive(self) -> None:
        """Answer RabbitMQ's heartbeats on this thread's connection, if it has one."""
        if getattr(self.state, "connection", None) is not None:
            try:
                self.state.connection.process_data_events(time_limit=0)
            except Exception:  # noqa: BLE001 - whatever it is: the next message gets a new connection
                del self.connection


class _CheckedConsumer(_RabbitmqConsumer):
    def __init__(self, broker: Broker, queue_name: str, prefetch: int, timeout: int) -> None:
        super().__init__(broker, queue_name, prefetch, timeout)  # type: ignore[no-untyped-call]
        if q_name(queue_name) in broker.own_queues:
            driver = self.connection._impl
            driver._read_frame = functools.partial(_read_frame, driver)
            self.iterator = self._checked(self.iterator)

    def _checked(self, deliveries: Iterator[tuple[Any, Any, bytes]]) -> Iterator[tuple[Any, Any, Any]]:
        """Yield the deliveries that are messages of the pipeline. All others end here, before dramatiq reads them."""
        for method, properties, body in _noted(deliveries, self.queue_name):
            if method is None:
                yield None, None, None
                continue
            actors = {name: actor.queue_name for name, actor in self.broker.actors.items()}
            try:
                largest = largest_body(batch_ids=self.broker.batch_ids)
                fields = accept(body, queue=self.queue_name, actors=actors, largest=largest)
            except MessageRejected as rejected:
                # Acked, not refused: otherwise the queue for failed messages would grow with foreign messages.
                self.channel.basic_ack(method.delivery_tag)
                report.rejected(rejected.reason, queue=self.queue_name)
                yield None, None, None
            else:
                yield method, properties, get_encoder().encode(fields)


def _noted(deliveries: Iterator[tuple[Any, Any, bytes]], queue_name: str) -> Iterator[tuple[Any, Any, bytes]]:
    try:
        for delivery in deliveries:
            # dramatiq also counts "nothing for a while" as a delivery.
            heartbeat.not_refused(queue_name)
            yield delivery
    except pika.exceptions.ChannelClosedByBroker:
        heartbeat.refused(queue_name)
        raise


def _note_refusal(queue_name: str, error: ConnectionClosed, *, own: QueueNames) -> None:
    """An outage ends on its own. A queue that RabbitMQ refuses stays refused."""
    if q_name(queue_name) in own and isinstance(error.message, pika.exceptions.ChannelClosedByBroker):
        heartbeat.refused(queue_name)
    else:
        heartbeat.not_refused(queue_name)


def _read_frame(driver: Any) -> tuple[int, Any]:
    """The next frame that has arrived, and its length, as pika reads it; but no message's properties and headers.

    They are not needed, and pika loses its connection over some that RabbitMQ accepts (a time after the year 9999, deep
    tables, a number that is not one): it would meet the same message again for ever.
    """
    arrived = driver._frame_buffer
    kind, channel, length = _FRAME.unpack(arrived[: _FRAME.size].ljust(_FRAME.size, b"\0"))
    end = _FRAME.size + length + pika.spec.FRAME_END_SIZE
    if kind != pika.spec.FRAME_HEADER or len(arrived) < end:
        return cast("tuple[int, Any]", pika.frame.decode_frame(arrived))
    (body_bytes,) = _BODY_BYTES.unpack_from(arrived, _FRAME.size + _BODY_BYTES_AT)
    return end, pika.frame.Header(channel, body_bytes, pika.BasicProperties())


def enqueue_all(messages: Sequence[dramatiq.Message[Any]]) -> None:
    """Put the messages onto their queues and return when RabbitMQ has taken responsibility for all of them.

    As `Broker.enqueue` for each, but in an AMQP transaction: one wait for the broker instead of one for each message
    (a hundred messages: 9 ms instead of 50). Raises dramatiq's ConnectionClosed, whatever the driver or the system
    raised; some messages may be out then.
    """
    broker = the_broker()
    for message in messages:
        broker.emit_before("enqueue", message, None)
    for is_last_attempt in (False, True):
        began = time.monotonic()
        try:
            _enqueue_in_transaction(broker, messages)
            break
        except Exception as error:
            # As dramatiq does it: the connection may have died long ago, and the queue may be gone. Of every kind,
            # because a broker fails in many: no address for its name, an expired certificate, no file descriptor left.
            del broker.connection
            broker.queues_pending.update(message.queue_name for message in messages)
            if is_last_attempt or time.monotonic() - began > _QUICK_FAILURE_SECONDS:
                raise _connection_closed(error) from error
    for message in messages:
        broker.emit_after("enqueue", message, None)


def _enqueue_in_transaction(broker: RabbitmqBroker, messages: Sequence[dramatiq.Message[Any]]) -> None:
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
            body=_json.encode({**message.asdict(), "options": sent_options(message.options)}),
            properties=pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent.value),
            mandatory=True,
        )
    channel.tx_commit()
    # What was returned came before the commit's answer; its callback is called in here.
    broker.connection.process_data_events(time_limit=0)
    if returned:
        raise pika.exceptions.AMQPChannelError(
            f"RabbitMQ has no queue {returned[0]}. The worker that consumes a queue declares it: start that worker,"
            " with a user that has the rights in deploy/rabbitmq/definitions.json"
        )
    channel.close()


def keep_alive() -> None:
    """Answer RabbitMQ's heartbeats between two messages of this thread."""
    broker = dramatiq.get_broker()
    if isinstance(broker, Broker):
        broker.keep_alive()


def _for_enqueueing(parameters: pika.ConnectionParameters) -> pika.ConnectionParameters:
    own = copy.copy(parameters)
    if own.heartbeat is None or own.heartbeat > _ENQUEUEING_HEARTBEAT_SECONDS:
        own.heartbeat = _ENQUEUEING_HEARTBEAT_SECONDS
    return own


def _connection_closed(error: Exception) -> ConnectionClosed:
    return ConnectionClosed(reason_of(error))  # type: ignore[no-untyped-call]


def reason_of(error: Exception) -> str:
    """The error in one line without secrets, with its type.

    The error of a frozen broker has no text, and nobody knows a number without its kind.
    """
    # dramatiq's own wraps what it was told.
    inner = error.message if isinstance(error, ConnectionClosed) and isinstance(error.message, Exception) else error
    # Some of pika's say what they are about in their repr only.
    text = f"{type(inner).__name__} {inner}" if str(inner) else repr(inner)
    return without_secrets(text.partition("\n")[0])[:500]


def the_broker() -> RabbitmqBroker:
    """The project's broker, which has RabbitMQ's parameters."""
    return cast("RabbitmqBroker", dramatiq.get_broker())
