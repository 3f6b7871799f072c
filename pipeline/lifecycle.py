"""Ties the pipeline to the life of a dramatiq worker: metrics and heartbeat from its start; SIGTERM drains what is
sealed, then the process ends."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import dramatiq
import structlog
from django.conf import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

log = structlog.get_logger()


class PipelineLifecycle(dramatiq.Middleware):
    """The actors are imported late: settings name this class before any app is loaded."""

    def __init__(self) -> None:
        self._deadline = 0.0
        self._is_worker = False

    def after_worker_boot(self, _broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        from pipeline import actors, heartbeat, metrics  # noqa: PLC0415

        threading.Thread(target=actors.warm_up, name="warm-up", daemon=True).start()
        self._is_worker = True
        role = heartbeat.role_of(worker.consumer_whitelist)
        heartbeat.start(role, threads=lambda: _threads_that_must_live(worker))
        if settings.METRICS_PORT:
            try:
                metrics.serve(settings.METRICS_PORT)
            except OSError as error:
                # Events are worth more than figures about them.
                log.error("metrics_not_served", port=settings.METRICS_PORT, error=str(error))  # noqa: TRY400

    def before_enqueue(self, _broker: dramatiq.Broker, message: dramatiq.Message[Any], _delay: int | None) -> None:
        # The scheduler does nothing but send ticks, each of which is its heartbeat; before it, because it lives also
        # while the broker does not take them.
        if settings.HEARTBEAT_DIR and not self._is_worker and "scheduled_at" in message.options:
            from pipeline import heartbeat  # noqa: PLC0415

            heartbeat.beat("scheduler", within_seconds=heartbeat.SCHEDULER_WITHIN_SECONDS)

    def after_ack(self, _broker: dramatiq.Broker, _message: dramatiq.MessageProxy) -> None:
        from pipeline import failpoints  # noqa: PLC0415

        failpoints.reach("message_acked")

    def before_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        from pipeline import actors  # noqa: PLC0415

        # dramatiq gives running messages a part of it first (--worker-shutdown-timeout).
        self._deadline = time.monotonic() + 0.9 * settings.SHUTDOWN_SECONDS
        actors.start_stopping()

    def after_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        from pipeline import actors  # noqa: PLC0415

        is_drained = actors.finish_stopping(timeout_seconds=max(1.0, self._deadline - time.monotonic()))
        log.info("worker_drained" if is_drained else "worker_stopped_undrained")


def _threads_that_must_live(worker: dramatiq.Worker) -> Iterator[threading.Thread]:
    from pipeline import actors  # noqa: PLC0415

    if not actors.stopping.is_set():
        yield from worker.consumers.values()
        yield from worker.workers
        yield from actors.writers()
