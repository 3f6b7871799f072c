"""What the path reports: once for a window, an insert or a message, never for a row.

A report is a log event, an observation, a step for the heartbeat, and a span when the window is traced.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import structlog

from towpath.telemetry import heartbeat, metrics, tracing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from structlog.typing import FilteringBoundLogger as BoundLogger

    from towpath.telemetry.metrics import InsertOutcome, RejectReason

log = structlog.get_logger()

_EVENTS = {"seal": "window_sealed", "load": "window_loaded", "write": "window_written", "ack": "window_acked"}

#: The log has a line about each reason at most this often, however many messages are rejected.
_REJECTIONS_LOGGED_SECONDS = 10.0

_rejected = Counter[tuple[str, "RejectReason"]]()
_logged_at: dict[tuple[str, RejectReason], float] = {}


def stage_done(
    stage: Literal["seal", "load", "write", "ack"], *, since: float, context: BoundLogger, **fields: object
) -> float:
    """Report that the window which `context` logs about has passed this stage, which began at `since` (monotonic).

    `fields` go into the log event. Returns now, which is when the next stage begins.
    """
    now = time.monotonic()
    heartbeat.step()
    metrics.stage_seconds.labels(stage).observe(now - since)
    tracing.add_stage(stage, seconds=now - since)
    context.info(_EVENTS[stage], seconds=round(now - since, 4), **fields)
    return now


@contextlib.contextmanager
def insert(outcomes: Mapping[type[Exception], InsertOutcome]) -> Iterator[None]:
    """Count the insert that is made inside, as `stored` or by the error that it ends with."""
    heartbeat.step()
    try:
        yield
    except tuple(outcomes) as error:
        metrics.inserts.labels(next(name for kind, name in outcomes.items() if isinstance(error, kind))).inc()
        raise
    metrics.inserts.labels("stored").inc()


def window_delivered(rows: Mapping[str, int], *, event_times: Iterable[str]) -> None:
    """Count the rows of a delivered window by outbox, and the seconds since these times of its events.

    The times are PostgreSQL's, as text.
    """
    for outbox, count in rows.items():
        metrics.acked_rows.labels(outbox).inc(count)
    metrics.window_rows.observe(sum(rows.values()))
    now = datetime.now(UTC)
    for event_time in event_times:
        # PostgreSQL knows times that Python does not: infinity, and years BC.
        with contextlib.suppress(ValueError):
            metrics.end_to_end_seconds.observe(max(0.0, (now - datetime.fromisoformat(event_time)).total_seconds()))


def rejected(reason: RejectReason, *, queue: str, count: int = 1) -> None:
    """Count messages that were removed unused, and log their number now and then. Their content is never logged."""
    metrics.rejected_messages.labels(reason).inc(count)
    _rejected[queue, reason] += count
    now = time.monotonic()
    if now - _logged_at.get((queue, reason), float("-inf")) >= _REJECTIONS_LOGGED_SECONDS:
        _logged_at[queue, reason] = now
        log.warning("messages_rejected", queue=queue, reason=reason, messages=_rejected.pop((queue, reason)))
