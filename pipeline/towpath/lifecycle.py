"""Ties the pipeline to the life of a dramatiq worker: it has metrics and a heartbeat from its start, and on SIGTERM it
delivers what is sealed before it ends. For the scheduler: metrics from its first tick, and each tick is a heartbeat.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dramatiq
import structlog
from django.db.backends.signals import connection_created

from towpath.conf.current import config
from towpath.ledger.session import lengthen_limits
from towpath.rabbitmq.broker import Broker
from towpath.telemetry import failpoints, heartbeat, metrics

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from towpath.process import Process

log = structlog.get_logger()


class PipelineLifecycle(dramatiq.Middleware):
    """A middleware of dramatiq."""

    def __init__(self) -> None:
        self._is_worker = False
        self._deadline = 0.0
        self._has_ticked = False

    # --- A worker ------------------------------------------------------------------------------------------------

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        self._is_worker = True
        queues = config().queues
        if worker.consumer_whitelist and queues.aggregate in worker.consumer_whitelist:
            # An aggregator is started for its one queue, and also takes the queue of backlogs.
            worker.consumer_whitelist.add(queues.aggregate_backlog)
        if isinstance(broker, Broker):
            broker.batch_ids = config().largest_batch_ids
        connection_created.connect(lengthen_limits)

    def after_worker_boot(self, _broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        process = _process()
        process.start(worker.consumer_whitelist)
        if config().heartbeat_dir:
            heartbeat.start(
                config().queues.role_of(worker.consumer_whitelist),
                folder=Path(config().heartbeat_dir),
                wedged_seconds=config().wedged_seconds,
                threads=lambda: threads_that_must_live(worker, process),
            )
        _serve_metrics()

    def after_ack(self, _broker: dramatiq.Broker, _message: dramatiq.MessageProxy) -> None:
        failpoints.reach("message_acked")

    def before_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        # dramatiq first gives running messages a part of it (--worker-shutdown-timeout).
        self._deadline = time.monotonic() + 0.9 * config().shutdown_seconds
        _process().stop()

    def after_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        is_drained = _process().drain(timeout_seconds=max(1.0, self._deadline - time.monotonic()))
        log.info("worker_drained" if is_drained else "worker_stopped_undrained")

    # --- The scheduler, which periodiq runs: it does not say that it has started, but ticks as soon as it has -----

    def before_enqueue(self, _broker: dramatiq.Broker, message: dramatiq.Message[Any], _delay: int | None) -> None:
        # Before the tick, because the scheduler is alive even while the broker does not accept it.
        if self._is_tick(message):
            if config().heartbeat_dir:
                heartbeat.beat(
                    "scheduler",
                    folder=Path(config().heartbeat_dir),
                    within_seconds=heartbeat.SCHEDULER_WITHIN_SECONDS,
                )
            if not self._has_ticked:
                self._has_ticked = True
                _serve_metrics()

    def after_enqueue(self, _broker: dramatiq.Broker, message: dramatiq.Message[Any], _delay: int | None) -> None:
        if self._is_tick(message):
            metrics.last_tick.labels(message.actor_name).set_to_current_time()

    def _is_tick(self, message: dramatiq.Message[Any]) -> bool:
        """True if this process is the scheduler, which sends only ticks. A worker may send a tick again, as a retry."""
        return not self._is_worker and "scheduled_at" in message.options


def _process() -> Process:
    # The settings name this module, so that it is imported before any model is ready.
    from towpath.actors import process  # noqa: PLC0415 - as said above

    return process


def threads_that_must_live(worker: dramatiq.Worker, process: Process) -> Iterator[threading.Thread]:
    """Return the required threads: without one of them, the process is dead. None are required once it must stop."""
    if not process.is_stopping:
        yield from worker.consumers.values()
        yield from worker.workers
        yield from process.threads


def _serve_metrics() -> None:
    from towpath.outbox.models import all_outboxes  # noqa: PLC0415 - needs the models

    if config().metrics_port:
        try:
            metrics.serve(config().metrics_port, outboxes=all_outboxes())
        except OSError as error:
            # Events matter more than figures about them.
            log.error("metrics_not_served", port=config().metrics_port, error=str(error))  # noqa: TRY400 - its traceback says no more
