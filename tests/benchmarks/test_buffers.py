"""The measure of buffers says what PostgreSQL itself says of a statement."""

from __future__ import annotations

import json

from django.db import connection

from tests.benchmarks.buffers import measuring
from tests.benchmarks.rounds import Pipeline
from tests.benchmarks.traffic import publish_events
from towpath.ledger.batches import count_batches


def test_a_statement_has_the_buffers_that_explain_shows() -> None:
    publish_events(2000)
    pipeline = Pipeline.new()
    while len(pipeline.dispatched.batches) < 2:
        pipeline.dispatcher.look()

    with measuring() as buffers, buffers.during("a count"):
        count_batches()
    with connection.cursor() as cursor:
        cursor.execute(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT outbox, count(*),"
            " count(*) FILTER (WHERE window_id IS NULL), sum(rows)::bigint FROM pipeline_batch GROUP BY outbox"
        )
        answer = cursor.fetchone()[0]
        plan = (json.loads(answer) if isinstance(answer, str) else answer)[0]["Plan"]

    assert buffers.totals["a count: ledger.batches.count_batches"] > 0
    assert buffers.totals["a count: ledger.batches.count_batches"] == (
        plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    )


def test_a_copy_and_what_triggers_read_are_counted() -> None:
    pipeline = Pipeline.new()
    batches = pipeline.batches_of_one_row(1)

    with measuring() as buffers, buffers.during("deliver"):
        pipeline.deliver(*batches)

    assert buffers.by_relation["deliver: flow.load.load"]["outbox_event"] > 0
    assert buffers.by_relation["deliver: ledger.receipts.ack"]["pipeline_window_pkey"] > 0
