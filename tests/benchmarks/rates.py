"""Figures 2 and 3: events that come at a steady rate. How many inserts they make, and how soon they can be queried.

Latency has a clock of its own: from the moment the publisher's COMMIT has returned to the moment at which a client of
ours, which asks ClickHouse for the ids that are still missing again and again, sees the row in an answer. The last row
of each step's transaction is asked for. The product's own times are not used.
"""

from __future__ import annotations

import statistics
import threading
import time
from typing import TYPE_CHECKING

from django.db import connection

from deploy.local.stack import DEFAULT_AGGREGATORS
from tests.benchmarks.figure import Bound, Figure, measured
from tests.benchmarks.product import Product, RowsLostError
from tests.benchmarks.traffic import in_thread, publish_users, steadily

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clickhouse_connect.driver.client import Client

    from tests.benchmarks.lab import Lab

LOW_LATENCY = {"DISPATCH_INTERVAL_SECONDS": "0.05", "WINDOW_LINGER_SECONDS": "0.05"}

#: Pause between two looks of the poller: the resolution of the clock, and what it costs the machine.
_LOOK_SECONDS = 0.01
_DRAIN_SECONDS = 30.0


def windows(lab: Lab) -> list[Figure]:
    """Inserts per million events, and per second and aggregator, at rates below the backlog's."""
    per_million: dict[int, list[float]] = {20: [], 1_000: [], 10_000: []}
    per_second: dict[int, list[float]] = {rate: [] for rate in per_million}
    seconds = lab.sizes.rate_seconds
    with Product(lab, aggregators=DEFAULT_AGGREGATORS) as product:
        product.warm_up()
        for turn in range(lab.sizes.repeats):
            for rate, values in per_million.items():
                lab.clear()
                _seed_users()
                began = time.monotonic()
                product.begin_shifts()
                published = steadily(publish_users, per_second=rate, seconds=seconds, step_seconds=0.05)
                product.wait_until_acked(published)
                # The last look comes after the last event, and its windows count, too.
                took_seconds = time.monotonic() - began
                product.end_shifts()
                product.check_stored(published)
                inserts = _windows_written()
                values.append(inserts * 1e6 / published)
                per_second[rate].append(inserts / took_seconds / DEFAULT_AGGREGATORS)
                lab.say(f"    {turn + 1}/{lab.sizes.repeats}  {rate:>6}/s  {inserts} inserts of {published} events")
    return [
        *(
            measured(f"windows: inserts per million events, {rate:,}/s", values, unit="inserts")
            for rate, values in per_million.items()
        ),
        measured(
            "windows: inserts a second per aggregator, 10,000/s",
            per_second[10_000],
            unit="inserts/s",
            bound=Bound("at most", 2),
        ),
    ]


def latency(lab: Lab) -> list[Figure]:
    """Quantiles of commit to queryable; the median of the runs' quantiles."""
    quantiles: dict[tuple[str, int, str], list[float]] = {}
    for turn in range(lab.sizes.repeats):
        for settings, knobs in (("default", {}), ("low latency", LOW_LATENCY)):
            for rate in (100, 5_000):
                p50, p99 = _quantiles(_latencies(lab, rate=rate, knobs=knobs))
                lab.say(
                    f"    {turn + 1}/{lab.sizes.repeats}  {settings:<12} {rate:>5}/s  p50 {p50:.3f} s  p99 {p99:.3f} s"
                )
                quantiles.setdefault((settings, rate, "p50"), []).append(p50)
                quantiles.setdefault((settings, rate, "p99"), []).append(p99)
    limits = {("default", "p50"): 1.5, ("default", "p99"): 2.5, ("low latency", "p99"): 0.3}
    return [
        measured(
            f"latency: {settings}, {rate:,}/s, {quantile}",
            values,
            unit="s",
            bound=Bound("at most", limits[settings, quantile]) if (settings, quantile) in limits else None,
        )
        for (settings, rate, quantile), values in quantiles.items()
    ]


def _latencies(lab: Lab, *, rate: int, knobs: Mapping[str, str]) -> list[float]:
    probes = Probes("outbox_user")
    client = lab.new_clickhouse_client()
    with Product(lab, aggregators=DEFAULT_AGGREGATORS, knobs=knobs) as product:
        product.warm_up()
        lab.clear()
        _seed_users()
        product.begin_shifts()
        poller = in_thread(lambda: probes.poll(client))
        # Commits come in steps of at least 10 ms: more of them would measure this machine's fsync.
        published = steadily(
            lambda count: probes.committed(publish_users(count)),
            per_second=rate,
            seconds=lab.sizes.latency_seconds,
            step_seconds=0.01,
        )
        probes.close()
        poller.join()
        product.wait_until_acked(published)
        product.end_shifts()
        product.check_stored(published)
    client.close()
    if probes.missing:
        raise RowsLostError(f"{len(probes.missing)} events were not to be seen {_DRAIN_SECONDS:g} s after the last one")
    return probes.seconds


class Probes:
    """Ids of an outbox whose commit is known, and how long it took until a query showed them."""

    def __init__(self, outbox: str) -> None:
        self._outbox = outbox
        self.seconds: list[float] = []
        self.missing: dict[int, float] = {}
        self._guard = threading.Lock()
        self._closed_at: float | None = None

    def committed(self, outbox_id: int) -> None:
        """To be called when the COMMIT of the row has returned."""
        with self._guard:
            self.missing[outbox_id] = time.monotonic()

    def close(self) -> None:
        self._closed_at = time.monotonic()

    def poll(self, client: Client) -> None:
        """Ask until all are seen, or the time after `close` is over."""
        while not self._is_over():
            with self._guard:
                asked = list(self.missing)
            if asked:
                ids = ",".join(map(str, asked))
                found = client.query(
                    f"SELECT outbox_id FROM event_log WHERE outbox = '{self._outbox}' AND outbox_id IN ({ids})"
                ).result_rows
                seen_at = time.monotonic()
                with self._guard:
                    self.seconds += [seen_at - self.missing.pop(int(id_)) for (id_,) in found]
            time.sleep(_LOOK_SECONDS)

    def _is_over(self) -> bool:
        if self._closed_at is None:
            return False
        return not self.missing or time.monotonic() > self._closed_at + _DRAIN_SECONDS


def _quantiles(seconds: list[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(seconds, n=100)
    return cuts[49], cuts[98]


def _seed_users() -> None:
    """Users who are there already, and statistics of them: an application does not start with its first event."""
    publish_users(10_000)
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE outbox_user")
        cursor.execute("ANALYZE users")


def _windows_written() -> int:
    with connection.cursor() as cursor:
        # A window that was replayed counts as often as it was tried.
        cursor.execute("SELECT coalesce(sum(attempts), 0) FROM pipeline_window")
        return int(cursor.fetchone()[0])
