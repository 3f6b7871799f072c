"""Who is served beside whom: a fresh event beside a backlog, and the windows of a backlog with a larger fleet.

Each figure is a ratio within one run of this machine. The clock of an event is that of `rates`: from the return of its
COMMIT to the answer of a query that shows it.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from django.db import connection

from deploy.local.stack import DEFAULT_AGGREGATORS
from tests.benchmarks.figure import Bound, Figure, Partner, in_turns, measured
from tests.benchmarks.product import Drain, Product
from tests.benchmarks.rates import Probes
from tests.benchmarks.traffic import in_thread, publish_backlog, publish_users
from tests.faults.proxy import Fault, Kind, Proxy, with_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.benchmarks.lab import Lab

#: Pause between two events of the small outbox.
_PAUSE_SECONDS = 0.25
#: Of each connection to the slow store: a window of 10,000 users takes a few seconds, and one event none.
_SLOW_BYTES_PER_SECOND = 500_000
_SMALL, _LARGE = 2, 8


def neighbours(lab: Lab) -> list[Figure]:
    """All figures of this group."""
    return [*_beside_a_backlog(lab), *_larger_fleet(lab)]


def _beside_a_backlog(lab: Lab) -> list[Figure]:
    """Seconds until an event is stored: alone, beside another outbox's backlog, and just after a giant in its own."""
    events = lab.sizes.backlog_events

    def slow(backlog: int) -> float:
        with _slow_store(lab) as proxy:
            return _median_seconds(lab, backlog=backlog, proxy=proxy)

    sides = {
        "alone": lambda: _median_seconds(lab, backlog=0),
        "beside another outbox's backlog": lambda: _median_seconds(lab, backlog=events),
        "after a giant in its outbox": lambda: _median_seconds(lab, backlog=events, outbox="outbox_user"),
        "alone, slow store": lambda: slow(0),
        "beside another outbox's backlog, slow store": lambda: slow(events),
    }
    seconds = in_turns(sides, repeats=lab.sizes.repeats, say=lab.say, unit="s")

    def against(name: str, partner: str) -> Figure:
        return measured(
            f"neighbours: an event {name}, median",
            seconds[name],
            unit="s",
            partner=Partner(name=partner, values=seconds[partner]),
            bound=Bound("at most", 3),
        )

    return [
        against("beside another outbox's backlog", "alone"),
        against("after a giant in its outbox", "alone"),
        against("beside another outbox's backlog, slow store", "alone, slow store"),
    ]


def _median_seconds(lab: Lab, *, backlog: int, outbox: str = "outbox_event", proxy: Proxy | None = None) -> float:
    """Publish an event now and then for a while, or until the product has drained a backlog of users.

    A `proxy` is what it goes through to the store; it is healed when the last event is published.
    """
    probes = Probes(outbox)
    client = lab.new_clickhouse_client()
    knobs = {"EVENT_STORE_URL": with_port(lab.environment["EVENT_STORE_URL"], proxy.port)} if proxy else None
    with Product(lab, aggregators=DEFAULT_AGGREGATORS, knobs=knobs) as product:
        product.warm_up()
        lab.clear()
        if backlog:
            publish_backlog(backlog)
        poller = in_thread(lambda: probes.poll(client))
        product.begin_shifts()
        published = 0
        until = time.monotonic() + lab.sizes.latency_seconds
        while time.monotonic() < until and (not backlog or _stored(lab) < backlog):
            probes.committed(_publish_one(outbox))
            published += 1
            time.sleep(_PAUSE_SECONDS)
        if proxy is not None:
            proxy.heal()
        probes.close()
        poller.join()
        product.wait_until_acked(backlog + published)
        product.end_shifts()
        product.check_stored(backlog + published)
    client.close()
    return statistics.median(probes.seconds)


def _stored(lab: Lab) -> int:
    (found,) = lab.clickhouse.query("SELECT count() FROM event_log WHERE outbox = 'outbox_user'").result_rows
    return int(found[0])


def _publish_one(outbox: str) -> int:
    if outbox == "outbox_user":
        return publish_users(1)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO outbox_event (event_type, event_date_time, event_context, metadata_version)"
            " VALUES ('bench', clock_timestamp(), '{}', 1) RETURNING id"
        )
        return int(cursor.fetchone()[0])


@contextlib.contextmanager
def _slow_store(lab: Lab) -> Iterator[Proxy]:
    """On the way to the event store, as slow for each connection as a store that takes a few thousand rows a second."""
    port = urlsplit(lab.environment["EVENT_STORE_URL"]).port
    assert port is not None
    with Proxy(port) as proxy:
        proxy.fail(Fault(kind=Kind.SLOW, bytes_per_second=_SLOW_BYTES_PER_SECOND))
        yield proxy


def _larger_fleet(lab: Lab) -> list[Figure]:
    """Inserts, and events a second, of the same backlog with two aggregators and with eight."""
    events = lab.sizes.backlog_events
    drains: dict[int, list[Drain]] = {_SMALL: [], _LARGE: []}

    def fleet(aggregators: int) -> Callable[[], float]:
        def run() -> float:
            with Product(lab, aggregators=aggregators) as product:
                product.warm_up()
                lab.clear()
                publish_backlog(events)
                drains[aggregators].append(product.drain(events))
            return drains[aggregators][-1].windows_per_million_events

        return run

    in_turns(
        {f"{aggregators} aggregators": fleet(aggregators) for aggregators in drains},
        repeats=lab.sizes.repeats,
        say=lab.say,
        unit="inserts per million",
    )

    def against(name: str, value: Callable[[Drain], float], unit: str, bound: Bound) -> Figure:
        small, large = ([value(drain) for drain in drains[size]] for size in (_SMALL, _LARGE))
        partner = Partner(name=f"{_SMALL} aggregators", values=small)
        return measured(f"neighbours: {name}, {_LARGE} aggregators", large, unit=unit, partner=partner, bound=bound)

    return [
        against(
            "inserts per million", lambda drain: drain.windows_per_million_events, "inserts", Bound("at most", 1.1)
        ),
        against("a backlog", lambda drain: drain.events_per_second, "events/s", Bound("at least", 0.8)),
    ]
