"""Figures 1, 5 (small events) and 9: N committed events to N stored and acked, by the product's processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.users.models import OutboxUser
from deploy.local.stack import DEFAULT_AGGREGATORS
from tests.benchmarks import partners
from tests.benchmarks.figure import Bound, Figure, Partner, in_turns, measured
from tests.benchmarks.product import WARM_UP_EVENTS, Drain, Product
from tests.benchmarks.traffic import publish_backlog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.benchmarks.lab import Lab

#: Windows of the first figure: a thousand rows, however busy the store is.
SMALL_WINDOWS = {"WINDOW_ROWS": "1000", "WINDOW_MAX_ROWS": "1000"}

_MIB = 1 << 20


def end_to_end(lab: Lab) -> list[Figure]:
    """Drains of a backlog in turns with the partners' drains of the same rows."""
    events = lab.sizes.backlog_events
    memory: list[float] = []
    drains: dict[str, list[Drain]] = {"small": [], "growing": []}

    def product(name: str, knobs: Mapping[str, str]) -> Callable[[], float]:
        def run() -> float:
            with Product(lab, aggregators=DEFAULT_AGGREGATORS, knobs=knobs) as running:
                running.warm_up()
                lab.clear()
                publish_backlog(events)
                with running.watching_memory() as over_idle:
                    drains[name].append(running.drain(events))
                memory.append(max(over_idle) / _MIB)
            return drains[name][-1].events_per_second

        return run

    def partner(run: Callable[[], float], count: int) -> Callable[[], float]:
        def timed() -> float:
            # As warm as the product: the driver's first insert alone takes seconds in a new process.
            lab.clear()
            publish_backlog(WARM_UP_EVENTS)
            run()
            lab.clear()
            publish_backlog(count)
            return count / run()

        return timed

    orm_events = lab.sizes.orm_events
    rates = in_turns(
        {
            "bare pipe, 1000-row windows": partner(
                lambda: partners.bare_pipe(lab, OutboxUser, window_rows=1000), events
            ),
            "towpath, 1000-row windows": product("small", SMALL_WINDOWS),
            "bare pipe, 10,000-row windows": partner(
                lambda: partners.bare_pipe(lab, OutboxUser, window_rows=10_000), events
            ),
            "towpath, growing windows": product("growing", {}),
            "ORM loop, 1000 rows": partner(lambda: partners.orm_loop(lab, rows=1000), orm_events),
            "ORM loop, 100 rows": partner(lambda: partners.orm_loop(lab, rows=100), orm_events),
        },
        repeats=lab.sizes.repeats,
        say=lab.say,
        unit="events/s",
    )

    def against(own: str, other: str, bound: Bound | None) -> Figure:
        return measured(
            f"end to end: {own} / {other}",
            rates[own],
            unit="events/s",
            partner=Partner(name=other, values=rates[other]),
            bound=bound,
        )

    small, growing = "towpath, 1000-row windows", "towpath, growing windows"
    return [
        against(small, "bare pipe, 1000-row windows", Bound("at least", 1.2)),
        against(growing, "bare pipe, 10,000-row windows", Bound("at least", 0.9)),
        against(small, "ORM loop, 100 rows", Bound("at least", 10)),
        against(growing, "ORM loop, 1000 rows", None),
        measured(
            "windows: inserts per million events, backlog, at most 1000 rows",
            [drain.windows_per_million_events for drain in drains["small"]],
            unit="inserts",
        ),
        measured(
            "windows: inserts per million events, backlog",
            [drain.windows_per_million_events for drain in drains["growing"]],
            unit="inserts",
            # 10,000-row windows throughout would be 100; the first and the last of a backlog are smaller.
            bound=Bound("at most", 200),
        ),
        measured(
            "memory: aggregator over idle, small events, worst of all runs",
            [max(memory)],
            unit="MiB",
            bound=Bound("at most", 64),
        ),
    ]


def growth(lab: Lab) -> list[Figure]:
    """The same backlog with more processes. What one machine's cores allow, and no more."""
    events = lab.sizes.backlog_events

    def fleet(*, aggregators: int, dispatchers: int = 1) -> Callable[[], float]:
        def run() -> float:
            with Product(lab, aggregators=aggregators, dispatchers=dispatchers) as running:
                running.warm_up()
                lab.clear()
                publish_backlog(events)
                return running.drain(events).events_per_second

        return run

    sides = {
        "1 aggregator": fleet(aggregators=1),
        "2 aggregators": fleet(aggregators=2),
        "4 aggregators": fleet(aggregators=4),
        "2 aggregators, 3 dispatchers": fleet(aggregators=2, dispatchers=3),
    }
    rates = in_turns(sides, repeats=lab.sizes.repeats, say=lab.say, unit="events/s")
    one, two = rates["1 aggregator"], rates["2 aggregators"]
    return [
        measured("growth: 1 aggregator", one, unit="events/s"),
        measured("growth: 2 aggregators", two, unit="events/s", partner=Partner(name="1 aggregator", values=one)),
        measured(
            "growth: 4 aggregators",
            rates["4 aggregators"],
            unit="events/s",
            partner=Partner(name="1 aggregator", values=one),
        ),
        measured(
            "growth: 2 more dispatchers standing by",
            rates["2 aggregators, 3 dispatchers"],
            unit="events/s",
            partner=Partner(name="1 dispatcher", values=two),
            bound=Bound("at least", 0.8),
        ),
    ]
