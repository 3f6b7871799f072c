"""What is told of each stage of a window: a log event, an observation, a step for the heartbeat, a span if traced.

Everything here is done once for a window or an insert, never for a row.
"""

from __future__ import annotations

import contextlib
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from towpath.eventlog.columns import ROW_COLUMNS
from towpath.eventlog.errors import EventStoreError, OutcomeUnknown, RowsRefused, StoreUnavailable, WriteTooLarge
from towpath.telemetry import heartbeat, metrics, tracing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from structlog.typing import FilteringBoundLogger as BoundLogger

_EVENTS = {"seal": "window_sealed", "load": "window_loaded", "write": "window_written", "ack": "window_acked"}

_OUTCOMES: dict[type[EventStoreError], metrics.Inserted] = {
    RowsRefused: "refused",
    WriteTooLarge: "too_large",
    StoreUnavailable: "unavailable",
    OutcomeUnknown: "unknown",
}

_PLACES = {column.name: place for place, column in enumerate(ROW_COLUMNS)}
#: What an application binds may be anything: only what can do no harm in a log line gets into one.
_HARMLESS = re.compile(rb"[A-Za-z0-9._:@-]{1,100}")


def done(stage: Literal["seal", "load", "write", "ack"], since: float, context: BoundLogger, **about: object) -> float:
    """A stage of the window that `context` logs about is over; it began at `since` (on the monotonic clock).

    Returns now, which is when the next stage begins.
    """
    now = time.monotonic()
    heartbeat.step()
    metrics.stage_seconds.labels(stage).observe(now - since)
    tracing.add_stage(stage, seconds=now - since)
    context.info(_EVENTS[stage], seconds=round(now - since, 4), **about)
    return now


@contextlib.contextmanager
def insert() -> Iterator[None]:
    """Around one insert into the event store: counted by the way in which it ends."""
    heartbeat.step()
    try:
        yield
    except EventStoreError as error:
        metrics.inserts.labels(_OUTCOMES[type(error)]).inc()
        raise
    metrics.inserts.labels("stored").inc()


def acked(delivered: Mapping[str, int], body: bytes) -> None:
    """Count a delivered window. The latency is that of its first and its last row: no row is looked at by itself."""
    for outbox, rows in delivered.items():
        metrics.acked_rows.labels(outbox).inc(rows)
    metrics.window_rows.observe(sum(delivered.values()))
    now = datetime.now(UTC)
    for row in _ends(body):
        # PostgreSQL knows times that Python does not: infinity, and before Christ.
        with contextlib.suppress(ValueError):
            happened_at = datetime.fromisoformat(row[_PLACES["event_date_time"]].decode())
            metrics.end_to_end_seconds.observe(max(0.0, (now - happened_at).total_seconds()))


def origins(body: bytes) -> dict[str, list[str]]:
    """The request ids and actors of a window's first and last row, for its log line.

    A window mixes the events of many requests, and looking at each would be work per row: the event log's columns
    `request_id` and `actor` have them all, and its `window_id` leads there.
    """
    found: dict[str, list[str]] = {}
    for name in ("request_id", "actor"):
        values = dict.fromkeys(row[_PLACES[name]] for row in _ends(body))
        if harmless := [value.decode() for value in values if _HARMLESS.fullmatch(value)]:
            found[f"{name}s"] = harmless
    return found


def _ends(body: bytes) -> list[list[bytes]]:
    """The fields of the first and the last row of COPY text."""
    if not body:
        return []
    first = body[: body.index(b"\n")]
    last = body[body.rfind(b"\n", 0, -1) + 1 : -1]
    return [row.split(b"\t") for row in dict.fromkeys((first, last))]
