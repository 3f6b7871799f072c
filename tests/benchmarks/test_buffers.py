"""The measure of buffers says what PostgreSQL itself says of a statement."""

from __future__ import annotations

import json

from django.db import connection

from tests.benchmarks.buffers import measuring
from tests.benchmarks.rounds import Pipeline
from towpath.ledger.deadletters import count_dead_letters


def test_a_statement_has_the_buffers_that_explain_shows() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO pipeline_deadletter (outbox, row_id, error, window_id, at)"
            " SELECT 'outbox_event', n, 'refused', gen_random_uuid(), now() FROM generate_series(1, 2000) AS n"
        )

    with measuring() as buffers, buffers.during("a count"):
        count_dead_letters()
    with connection.cursor() as cursor:
        cursor.execute(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT outbox, count(*) FROM pipeline_deadletter GROUP BY outbox"
        )
        answer = cursor.fetchone()[0]
        plan = (json.loads(answer) if isinstance(answer, str) else answer)[0]["Plan"]

    pages = buffers.totals["a count: ledger.deadletters.count_dead_letters"]
    assert pages == plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] > 10


def test_a_message_that_sets_its_transaction_is_counted() -> None:
    pipeline = Pipeline.new()

    with measuring() as buffers, buffers.during("recover"):
        pipeline.recover()

    assert sum(buffers.totals.values()) > 0


def test_a_copy_and_what_triggers_read_are_counted() -> None:
    pipeline = Pipeline.new()
    batches = pipeline.batches_of_one_row(1)

    with measuring() as buffers, buffers.during("deliver"):
        pipeline.deliver(*batches)

    assert buffers.by_relation["deliver: flow.load.load"]["outbox_event"] > 0
    assert buffers.by_relation["deliver: ledger.ack.ack"]["pipeline_window_pkey"] > 0
