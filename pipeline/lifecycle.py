"""Ties the pipeline to the life of a dramatiq worker: SIGTERM drains what is sealed, then the process ends."""

from __future__ import annotations

import dramatiq
import structlog

log = structlog.get_logger()

#: How long a stopping worker may go on writing its sealed windows. What is left is recovered by others.
_DRAIN_SECONDS = 10.0


class PipelineLifecycle(dramatiq.Middleware):
    """The actors are imported late: settings name this class before any app is loaded."""

    def after_ack(self, _broker: dramatiq.Broker, _message: dramatiq.MessageProxy) -> None:
        from pipeline import failpoints  # noqa: PLC0415

        failpoints.reach("message_acked")

    def before_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        from pipeline import actors  # noqa: PLC0415

        actors.start_stopping()

    def after_worker_shutdown(self, _broker: dramatiq.Broker, _worker: dramatiq.Worker) -> None:
        from pipeline import actors  # noqa: PLC0415

        is_drained = actors.finish_stopping(timeout_seconds=_DRAIN_SECONDS)
        log.info("worker_drained" if is_drained else "worker_stopped_undrained")
