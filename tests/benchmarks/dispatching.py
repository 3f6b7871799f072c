"""Figure 6: how many ids a second one dispatcher gets into RabbitMQ, confirmed, with nobody consuming."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from django.db import connection

from tests.benchmarks.figure import Bound, Figure, Partner, in_turns, measured
from tests.benchmarks.in_process import Dispatched, make_dispatcher
from tests.benchmarks.traffic import publish_events
from towpath.actors import enqueue_batches
from towpath.outbox.models import all_outboxes

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.benchmarks.lab import Lab
    from towpath.flow.dispatch import EnqueueBatches


def dispatch(lab: Lab) -> list[Figure]:
    """The product's dispatcher and its enqueue function, in this process, with room for all ids in flight."""
    ids = lab.sizes.dispatch_ids

    def run(enqueue: Callable[[], EnqueueBatches]) -> float:
        lab.clear()
        publish_events(ids)
        dispatcher = make_dispatcher(all_outboxes(), enqueue=enqueue(), in_flight_rows=2 * ids)
        began = time.perf_counter()
        while dispatcher.look():
            pass
        seconds = time.perf_counter() - began
        assert _rows_in_batches() == ids
        return ids / seconds

    rates = in_turns(
        {
            "into the ledger only": lambda: run(Dispatched),
            "into RabbitMQ": lambda: run(lambda: enqueue_batches),
        },
        repeats=lab.sizes.repeats,
        say=lab.say,
        unit="ids/s",
    )
    lab.clear()
    return [
        measured("dispatch: ids into RabbitMQ", rates["into RabbitMQ"], unit="ids/s", bound=Bound("at least", 300_000)),
        measured(
            "dispatch: ids into the ledger only",
            rates["into the ledger only"],
            unit="ids/s",
            partner=Partner(name="into RabbitMQ", values=rates["into RabbitMQ"]),
        ),
    ]


def _rows_in_batches() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT sum(rows) FROM pipeline_batch")
        return int(cursor.fetchone()[0])
