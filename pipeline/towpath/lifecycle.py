"""Ties the pipeline to the life of a dramatiq worker: metrics and heartbeat from its start; SIGTERM drains what is
sealed, then the process ends. And to that of the scheduler: metrics from its first tick, each of which is a heartbeat.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dramatiq
import structlog
from django.db.backends.signals import connection_created

from towpath.conf.current import config

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

log = structlog.get_logger()


class PipelineLifecycle(dramatiq.Middleware):
    """The actors are imported late: settings name this class before any app is loaded."""

    def __init__(self) -> None:
        self._deadline = 0.0
        self._is_worker = False
        self._has_ticked = False

    def before_worker_boot(self, broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        from towpath.ledger.session import lengthen_limits  # noqa: PLC0415
        from towpath.rabbitmq.broker import Broker  # noqa: PLC0415

        if isinstance(broker, Broker):
            broker.batch_ids = config().batch_ids
        connection_created.connect(lengthen_limits)

    def after_worker_boot(self, _broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        from towpath import actors  # noqa: PLC0415
        from towpath.telemetry import heartbeat  # noqa: PLC0415

        actors.start_working(worker.consumer_whitelist)
        self._is_worker = True
        role = heartbeat.role_of(worker.consumer_whitelist)
        if config().heartbeat_dir:
            heartbeat.start(
                role,
                folder=Path(config().heartbeat_dir),
                wedged_seconds=config().wedged_seconds,
                threads=lambda: _threads_that_must_live(worker),
            )
        _serve_metrics()

    def before_enqueue(self, _broker: dramatiq.Broker, message: dramatiq.Message[Any], _delay: int | None) -> None:
        # Before the tick, because the scheduler lives also while the broker does not take it.
        if self._is_tick(message):
            from towpath.telemetry import heartbeat  # noqa: PLC0415

            if config().heartbeat_dir:
                heartbeat.beat(
                    "scheduler",
                    folder=Path(config().heartbeat_dir),
                    within_seconds=heartbeat.SCHEDULER_WITHIN_SECONDS,
                )
            # periodiq tells nobody that it has started, but ticks as soon as it has.
            if not self._has_ticked:
                self._has_ticked = True
                _serve_metrics()

    def after_enqueue(self, _broker: dramatiq.Broker, message: dramatiq.Message[Any], _delay: int | None) -> None:
        if self._is_tick(message):
            from towpath.telemetry import metrics  # noqa: PLC0415

            metrics.last_tick.labels(message.actor_name).set_to_current_time()

    def after_ack(self, _broker: dramatiq.Broker, _message: dramatiq.MessageProxy) -> None:
        from towpath.telemetry import failpoints  # noqa: PLC0415

        failpoints.reach("message_acked")

    def before_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        from towpath import actors  # noqa: PLC0415

        # dramatiq gives running messages a part of it first (--worker-shutdown-timeout).
        self._deadline = time.monotonic() + 0.9 * config().shutdown_seconds
        actors.start_stopping()

    def after_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        from towpath import actors  # noqa: PLC0415

        is_drained = actors.finish_stopping(timeout_seconds=max(1.0, self._deadline - time.monotonic()))
        log.info("worker_drained" if is_drained else "worker_stopped_undrained")

    def _is_tick(self, message: dramatiq.Message[Any]) -> bool:
        """True if this process is the scheduler, which sends nothing else. A worker may send a tick again, to retry."""
        return not self._is_worker and "scheduled_at" in message.options


def _serve_metrics() -> None:
    from towpath.outbox.models import all_outboxes  # noqa: PLC0415
    from towpath.telemetry import metrics  # noqa: PLC0415

    if config().metrics_port:
        try:
            metrics.serve(config().metrics_port, outboxes=all_outboxes())
        except OSError as error:
            # Events are worth more than figures about them.
            log.error("metrics_not_served", port=config().metrics_port, error=str(error))  # noqa: TRY400


def _threads_that_must_live(worker: dramatiq.Worker) -> Iterator[threading.Thread]:
    from towpath import actors  # noqa: PLC0415

    if not actors.stopping.is_set():
        yield from worker.consumers.values()
        yield from worker.workers
        yield from actors.writers()
        yield from actors.shifts()
