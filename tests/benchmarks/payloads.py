"""Figure 5: large contexts in a frozen outbox. Bytes a second, and the memory of the process that carries them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings

from deploy.local.stack import DEFAULT_AGGREGATORS
from tests.benchmarks import partners
from tests.benchmarks.figure import Bound, Figure, Partner, in_turns, measured
from tests.benchmarks.product import WARM_UP_EVENTS, Product
from tests.benchmarks.traffic import publish_events, publish_in_pieces
from towpath.outbox.models import OutboxEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.benchmarks.lab import Lab

_MIB = 1 << 20
_SIZES = {"64 KiB": 64 << 10, "1 MiB": 1 << 20, "10 MiB": 10 << 20}


def payloads(lab: Lab) -> list[Figure]:
    """For each size, the product in turns with the bare pipe on the same bytes."""
    return [figure for name, size in _SIZES.items() for figure in _payload(lab, name, size)]


def _payload(lab: Lab, name: str, size: int) -> list[Figure]:
    events = max(2, lab.sizes.payload_total_bytes // size)
    total = events * size / _MIB
    memory: list[float] = []

    def publish() -> None:
        lab.clear()
        publish_in_pieces(events, context_bytes=size)

    def product() -> float:
        with Product(lab, aggregators=DEFAULT_AGGREGATORS) as running:
            running.warm_up()
            publish()
            with running.watching_memory() as over_idle:
                drain = running.drain(events)
            memory.append(max(over_idle) / _MIB)
            return total / drain.seconds

    def bare_pipe() -> float:
        lab.clear()
        publish_events(WARM_UP_EVENTS)
        partners.bare_pipe(lab, OutboxEvent, window_rows=1000)
        publish()
        # As many rows as a window of the product may have bytes.
        rows = max(1, min(1000, settings.TOWPATH.window_bytes // size))
        return total / partners.bare_pipe(lab, OutboxEvent, window_rows=rows)

    sides: dict[str, Callable[[], float]] = {f"bare pipe, {name}": bare_pipe, f"towpath, {name}": product}
    rates = in_turns(sides, repeats=lab.sizes.repeats, say=lab.say, unit="MiB/s")
    return [
        measured(
            f"payload: {name} contexts",
            rates[f"towpath, {name}"],
            unit="MiB/s",
            partner=Partner(name="bare pipe, MiB/s", values=rates[f"bare pipe, {name}"]),
            bound=Bound("at least", 0.7),
        ),
        measured(
            f"memory: aggregator over idle, {name} contexts, worst of all runs",
            [max(memory)],
            unit="MiB",
            bound=Bound("at most", 200),
        ),
    ]
