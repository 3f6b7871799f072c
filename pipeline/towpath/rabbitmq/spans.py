"""A span for each message that is sent, and for the work at it (extra `tracing`).

They begin in the threads that do the work. The instrumentation for pika begins them in dramatiq's consumer thread, so
they would reach neither the actors nor the writers of windows.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanKind

from towpath.conf.names import QueueNames
from towpath.outbox.middleware import ActorContext
from towpath.rabbitmq.broker import Broker
from towpath.telemetry import spans

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dramatiq


class MessageSpans(ActorContext):
    """dramatiq middleware. Shifts have no span: a trace of a whole minute shows nothing."""

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        queues = broker.own_queues if isinstance(broker, Broker) else QueueNames.of("")
        # Before the first message, which may already be there.
        spans.begin(queues.role_of(worker.consumer_whitelist))

    def after_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        spans.flush()

    def before_enqueue(self, broker: dramatiq.Broker, message: dramatiq.Message[Any], _delay: int | None) -> None:
        if _is_periodic(broker, message):
            return
        # Ended immediately: many messages go out together, and only what follows is of interest.
        with spans.tracer.start_as_current_span(f"send {message.queue_name}", kind=SpanKind.PRODUCER):
            message.options.update(trace=spans.carrier())

    @contextlib.contextmanager
    def context_of(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> Iterator[None]:
        if _is_periodic(broker, message):
            yield
            return
        parent = spans.parent_in(message.options.get("trace", {}))
        name = f"process {message.queue_name}"
        with spans.tracer.start_as_current_span(name, context=parent, kind=SpanKind.CONSUMER) as span:
            if (batch := message.kwargs.get("batch")) is not None:
                spans.remember_message(batch, span.get_span_context())
            yield


def _is_periodic(broker: dramatiq.Broker, message: dramatiq.Message[Any] | dramatiq.MessageProxy) -> bool:
    return "periodic" in broker.get_actor(message.actor_name).options
