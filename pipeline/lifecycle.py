"""Ties the pipeline to the life of a dramatiq worker: SIGTERM drains what is sealed, then the process ends."""

from __future__ import annotations

import threading
import time

import dramatiq
import structlog
from django.conf import settings

log = structlog.get_logger()


class PipelineLifecycle(dramatiq.Middleware):
    """The actors are imported late: settings name this class before any app is loaded."""

    def __init__(self) -> None:
        self._deadline = 0.0

    def after_ack(self, _broker: dramatiq.Broker, _message: dramatiq.MessageProxy) -> None:
        from pipeline import failpoints  # noqa: PLC0415

        failpoints.reach("message_acked")

    def after_worker_boot(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        from pipeline import actors  # noqa: PLC0415

        threading.Thread(target=actors.warm_up, name="warm-up", daemon=True).start()

    def before_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        from pipeline import actors  # noqa: PLC0415

        # dramatiq gives running messages a part of it first (--worker-shutdown-timeout).
        self._deadline = time.monotonic() + 0.9 * settings.SHUTDOWN_SECONDS
        actors.start_stopping()

    def after_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        from pipeline import actors  # noqa: PLC0415

        is_drained = actors.finish_stopping(timeout_seconds=max(1.0, self._deadline - time.monotonic()))
        log.info("worker_drained" if is_drained else "worker_stopped_undrained")
