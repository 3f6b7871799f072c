"""Where the processor time of an event goes: all processes on the path, during the drain of a backlog."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.local.stack import DEFAULT_AGGREGATORS
from tests.benchmarks.end_to_end import SMALL_WINDOWS
from tests.benchmarks.figure import Figure, measured
from tests.benchmarks.product import Product, cpu_seconds
from tests.benchmarks.traffic import publish_backlog

if TYPE_CHECKING:
    from tests.benchmarks.lab import Lab


def processor_time(lab: Lab) -> list[Figure]:
    """Microseconds an event, by process, in windows of at most a thousand rows and in windows that grow."""
    events = lab.sizes.backlog_events
    microseconds: dict[str, list[float]] = {}
    for turn in range(lab.sizes.repeats):
        for windows, knobs in (("1000-row windows", SMALL_WINDOWS), ("growing windows", {})):
            with Product(lab, aggregators=DEFAULT_AGGREGATORS, knobs=knobs) as product:
                product.warm_up()
                lab.clear()
                publish_backlog(events)
                before = _seconds(lab, product)
                product.drain(events)
                after = _seconds(lab, product)
            lab.say(f"    {turn + 1}/{lab.sizes.repeats}  {windows}")
            for name in after:
                figure = f"processor: {windows}, {name}"
                microseconds.setdefault(figure, []).append((after[name] - before[name]) * 1e6 / events)
    return [measured(name, values, unit="µs an event") for name, values in microseconds.items()]


def _seconds(lab: Lab, product: Product) -> dict[str, float]:
    services = (lab.stack.clickhouse, lab.stack.postgres, lab.stack.rabbitmq)
    return {
        **{service.name: cpu_seconds(service) for service in services if service is not None},
        **product.cpu_seconds(),
    }
