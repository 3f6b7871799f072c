"""Figures 7 (idle cost) and 8: what can be counted. On the product's processes where they are what is counted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from deploy.local.stack import DEFAULT_AGGREGATORS
from tests.benchmarks.counts import count_path
from tests.benchmarks.figure import Bound, Figure, measured
from tests.benchmarks.product import Product
from tests.benchmarks.sql_log import counted, counting
from tests.benchmarks.traffic import publish_backlog

if TYPE_CHECKING:
    from tests.benchmarks.lab import Lab

_COUNTED_EVENTS = 20_000
_SETTLE_SECONDS = 3.0


def counts(lab: Lab) -> list[Figure]:
    """Counts of the stages one by one, and of the processes under a backlog."""
    figures: list[Figure] = []
    for rows in (1_000, 10_000):
        lab.clear()
        path = count_path(
            log=lab.postgres_log,
            store=lab.store,
            clickhouse=lab.clickhouse,
            events=_COUNTED_EVENTS,
            window_rows=rows,
        )
        name = f"counts: {rows:,}-row windows,"
        figures += [
            measured(f"{name} SQL statements per window", [path.statements_per_window], unit=""),
            measured(f"{name} round trips per window", [path.round_trips_per_window], unit=""),
            measured(f"{name} SQL statements per 1000 events", [path.statements_per_event * 1e3], unit=""),
            measured(f"{name} WAL per event after publish", [path.wal_bytes_per_event], unit="bytes"),
            measured(f"{name} WAL per window", [path.wal_bytes_per_window], unit="bytes"),
            measured(f"{name} parts per million events", [path.parts_per_million_events], unit="parts"),
        ]
    return [
        *figures,
        measured("counts: WAL per published user and event", [path.publish.wal_bytes / path.events], unit="bytes"),
        measured("counts: RabbitMQ messages per 1000 events", [path.messages_per_1000_events], unit="messages"),
        measured("counts: SQL statements per look, quiet database", [len(path.quiet_look.statements)], unit=""),
        measured("counts: SQL statements per look, others commit", [len(path.idle_look.statements)], unit=""),
        measured("counts: SQL statements per busy look", [len(path.look.statements)], unit=""),
        *_processes(lab),
    ]


def _processes(lab: Lab) -> list[Figure]:
    """All statements of all processes during the drain of a backlog: ticks, shifts, leases, health checks."""
    events = lab.sizes.backlog_events
    with Product(lab, aggregators=DEFAULT_AGGREGATORS) as product:
        product.warm_up()
        lab.clear()
        publish_backlog(events)
        with counting(lab.postgres_log), counted(lab.postgres_log, is_own=False) as all_counts:
            drain = product.drain(events)
    return [
        measured(
            "counts: SQL statements per 1000 events, all processes, backlog",
            [len(all_counts.statements) * 1e3 / events],
            unit="",
        ),
        measured(
            "counts: SQL statements per window, all processes, backlog",
            [len(all_counts.statements) / drain.windows],
            unit="",
        ),
        measured("counts: WAL per event, all processes, backlog", [all_counts.wal_bytes / events], unit="bytes"),
    ]


def idle(lab: Lab) -> list[Figure]:
    """The pipeline with nothing to do: scheduler, dispatcher and aggregators together."""
    seconds = lab.sizes.idle_seconds
    shares: list[float] = []
    statements: list[float] = []
    lab.clear()
    with Product(lab, aggregators=DEFAULT_AGGREGATORS, has_scheduler=True) as product:
        product.begin_shifts()
        time.sleep(_SETTLE_SECONDS)
        for _ in range(lab.sizes.repeats):
            used, began = sum(product.cpu_seconds().values()), time.monotonic()
            time.sleep(seconds)
            shares.append((sum(product.cpu_seconds().values()) - used) / (time.monotonic() - began) * 100)
        # Apart: logging costs the server something, and the product nothing.
        with counting(lab.postgres_log), counted(lab.postgres_log, is_own=False) as all_counts:
            time.sleep(seconds)
        statements.append(len(all_counts.statements) * 60 / seconds)
    lab.say(f"    {[round(share, 2) for share in shares]} % of a core, {statements[0]:.0f} statements a minute")
    return [
        measured("idle: all processes of the pipeline", shares, unit="% of a core", bound=Bound("at most", 2)),
        measured("idle: SQL statements", statements, unit="a minute", bound=Bound("at most", 600)),
    ]
