"""The gauges of the ledger: the figures that `status` shows, read from PostgreSQL when they are asked for.

So they are true whatever else is down. They cost the same however much has piled up, and are given up after a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from towpath.errors import NotReadable
from towpath.ledger.moment import Parts, one_moment
from towpath.telemetry import metrics
from towpath.watch.figures import read_figures
from towpath.watch.vacuum import longest_seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from towpath.ledger.canaries import Canary
    from towpath.telemetry.metrics import LedgerGauge
    from towpath.watch.figures import Figures

log = structlog.get_logger()

#: A scrape is answered within two seconds, and a locked outbox must not take the time of the others.
_SECONDS = 1.2


class LedgerCollector(Collector):
    """Every `LEDGER_GAUGES`. Raises DatabaseError, InterfaceError or NotReadable while PostgreSQL does not answer."""

    def collect(self) -> Iterable[GaugeMetricFamily]:
        found = read_gauges()
        return [_family(gauge, found[gauge]) for gauge in metrics.LEDGER_GAUGES]


def read_gauges() -> dict[LedgerGauge, Mapping[str, float]]:
    """Return every gauge's values at one moment, by the label's value; by "" where the gauge has no label.

    An outbox that cannot be read in time is left out. Raises NotReadable if the ledger cannot be read: figures of an
    unknown time are worse than none.
    """
    with one_moment() as cursor:
        parts = Parts(cursor, seconds=_SECONDS)
        figures = read_figures(parts)
    if not figures.is_ledger_read:
        raise NotReadable("; ".join(parts.unread))
    for unread in parts.unread:
        log.warning("gauge_not_read", error=unread)
    return _samples(figures)


def _samples(figures: Figures) -> dict[LedgerGauge, Mapping[str, float]]:
    outboxes, ledger = figures.outboxes, figures.ledger
    return {
        metrics.pending_rows: {name: outbox.pending for name, outbox in outboxes.items()},
        metrics.in_flight_rows: {name: outbox.in_flight for name, outbox in outboxes.items()},
        # Left out if there are rows, but none of their ages could be read.
        metrics.oldest_age_seconds: {
            name: outbox.oldest_age_seconds or 0.0
            for name, outbox in outboxes.items()
            if outbox.oldest_age_seconds is not None or not outbox.pending + outbox.in_flight
        },
        metrics.dead_letters: {name: outbox.dead_letters for name, outbox in outboxes.items()},
        metrics.last_dispatch: {name: at.timestamp() for name, at in ledger.last_dispatches.items()},
        metrics.canary_seconds: _canary(ledger.canary),
        metrics.unsealed_batches: {"": figures.batches.unsealed},
        metrics.open_windows: {"": ledger.open_windows.total},
        metrics.expired_leases: {"": ledger.open_windows.expired_leases},
        metrics.shift_alive_age_seconds: {name: shift.alive_seconds_ago for name, shift in ledger.shifts.items()},
        metrics.shift_taken_age_seconds: {name: shift.taken_seconds_ago for name, shift in ledger.shifts.items()},
        metrics.unverified_age_seconds: {"": ledger.unverified.oldest_seconds},
        metrics.mismatched_windows: {"": ledger.unverified.contradicted},
        metrics.contradicted_proofs: {"": ledger.contradicted_proofs},
        metrics.vanished_windows: {"": ledger.vanished.windows},
        metrics.unsealed_proofs_age_seconds: {"": ledger.unsealed_proofs.oldest_seconds or 0.0},
        metrics.vacuum_held_seconds: {} if figures.holders is None else longest_seconds(figures.holders),
    }


def _canary(canary: Canary | None) -> Mapping[str, float]:
    """Nothing while there is none."""
    return {} if canary is None or canary.worst_seconds is None else {"": canary.worst_seconds}


def _family(gauge: LedgerGauge, samples: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(gauge.name, gauge.help, labels=[gauge.label] if gauge.label else None)
    for label, value in samples.items():
        family.add_metric([label] if gauge.label else [], value)
    return family


#: What the web process serves.
LEDGER = CollectorRegistry()
LEDGER.register(LedgerCollector())
ProcessCollector(registry=LEDGER)
