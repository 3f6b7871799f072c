"""The gauges of the ledger, read from PostgreSQL when they are asked for: true whatever else is down.

Bounded, whatever the backlog: index scans that stop early, a statement timeout, and one reading every few seconds.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from towpath.ledger.moment import Parts, one_moment
from towpath.outbox.models import all_outboxes
from towpath.telemetry import metrics
from towpath.watch.status import oldest_age_seconds, read_mismatches, read_outbox

if TYPE_CHECKING:
    from collections.abc import Iterable

    from django.db.backends.utils import CursorWrapper

    from towpath.outbox.models import Outbox
    from towpath.telemetry.metrics import LedgerGauge

log = structlog.get_logger()

#: However often anybody asks, the database is not asked more often than this.
_FRESH_SECONDS = 2.0
_TIMEOUT_MILLISECONDS = 3000
#: For the outboxes, each of which may be locked by somebody: the others are measured all the same.
_SECONDS = 1.2

#: (label's value, value)
Sample = tuple[str, float]


class LedgerCollector(Collector):
    """Every `LEDGER_GAUGES`. Raises DatabaseError or InterfaceError while PostgreSQL does not answer in time."""

    def __init__(self) -> None:
        self._reading = threading.Lock()
        self._read_at = float("-inf")
        self._read: dict[LedgerGauge, list[Sample]] = {}

    def collect(self) -> Iterable[GaugeMetricFamily]:
        with self._reading:
            if time.monotonic() - self._read_at > _FRESH_SECONDS:
                self._read = read_gauges()
                self._read_at = time.monotonic()
            return [_family(gauge, self._read[gauge]) for gauge in metrics.LEDGER_GAUGES]


def read_gauges() -> dict[LedgerGauge, list[Sample]]:
    """Every gauge's samples, of one moment."""
    found: dict[LedgerGauge, list[Sample]] = {gauge: [] for gauge in metrics.LEDGER_GAUGES}
    with one_moment() as cursor:
        parts = Parts(cursor, seconds=_SECONDS)
        for name, model in all_outboxes().items():
            with parts.part(name):
                for gauge, value in _of_outbox(cursor, model).items():
                    found[gauge].append((name, value))
            with parts.part(f"the age of the oldest event of {name}"):
                found[metrics.oldest_age_seconds].append((name, oldest_age_seconds(model) or 0.0))
        for unread in parts.unread:
            log.warning("gauge_not_read", error=unread)
        cursor.execute(f"SET LOCAL statement_timeout = {_TIMEOUT_MILLISECONDS}")
        for gauges, sql in _QUERIES.items():
            cursor.execute(sql)
            for row in cursor.fetchall():
                label, values = (row[0], row[1:]) if gauges[0].label else ("", row)
                for gauge, value in zip(gauges, values, strict=True):
                    if value is not None:
                        found[gauge].append((label, float(value)))
        found[metrics.mismatched_windows].append(("", float(read_mismatches(cursor)[0])))
    return found


_QUERIES: dict[tuple[LedgerGauge, ...], str] = {
    (metrics.last_dispatch,): "SELECT outbox, extract(epoch FROM dispatched_at)::float8 FROM pipeline_cursor",
    (metrics.shift_alive_age_seconds, metrics.shift_taken_age_seconds): (
        "SELECT name, extract(epoch FROM clock_timestamp() - alive_at)::float8,"
        " extract(epoch FROM clock_timestamp() - taken_at)::float8 FROM pipeline_shift"
    ),
    # What is in flight is bounded by MAX_OPEN_WINDOWS; each of these has an index of just these rows.
    (metrics.unsealed_batches,): "SELECT count(*) FROM pipeline_batch WHERE window_id IS NULL",
    (metrics.open_windows, metrics.expired_leases): (
        "SELECT count(*), count(*) FILTER (WHERE lease_until < clock_timestamp()) FROM pipeline_window"
        " WHERE acked_at IS NULL"
    ),
    (metrics.unverified_age_seconds,): (
        "SELECT coalesce(extract(epoch FROM clock_timestamp() - min(acked_at)), 0)::float8 FROM pipeline_window"
        " WHERE acked_at IS NOT NULL AND verified_at IS NULL"
    ),
}


def _of_outbox(cursor: CursorWrapper, model: type[Outbox]) -> dict[LedgerGauge, float]:
    outbox = read_outbox(cursor, model)
    return {
        metrics.pending_rows: outbox.pending,
        metrics.in_flight_rows: outbox.in_flight,
        metrics.dead_letters: outbox.dead_letters,
    }


def _family(gauge: LedgerGauge, samples: list[Sample]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(gauge.name, gauge.help, labels=[gauge.label] if gauge.label else None)
    for label, value in samples:
        family.add_metric([label] if gauge.label else [], value)
    return family


#: What the web process serves.
LEDGER = CollectorRegistry()
LEDGER.register(LedgerCollector())
ProcessCollector(registry=LEDGER)
