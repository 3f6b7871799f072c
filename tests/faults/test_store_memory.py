"""What the event store remembers and forgets: its token log, parts of windows, views, its columns."""

from __future__ import annotations

from uuid import UUID

import pytest

from tests.faults.conftest import Run
from tests.waiting import eventually

_DRAIN_SECONDS = 40
_TWO_MONTHS = ("2020-01-31 23:59:59+00", "2020-02-01 00:00:00+00")


@pytest.fixture
def killed_after_write(run: Run) -> Run:
    """An aggregator wrote a window of 100 rows over two months and died before its ack. Nobody has replayed it yet."""
    return _run_killed_at(run, "written")


@pytest.fixture
def killed_before_write(run: Run) -> Run:
    """An aggregator sealed and loaded a window of 100 rows over two months and died."""
    return _run_killed_at(run, "loaded")


def _run_killed_at(run: Run, point: str) -> Run:
    run.fleet.steady(has_aggregator=False)
    # The lease is long enough for the test to change the store before the replay.
    doomed = run.fleet.aggregator(FAILPOINTS=f"{point}=kill@1", LEASE_SECONDS="8")
    run.fleet.ready(doomed)
    run.publish(100, at=_TWO_MONTHS)
    run.fleet.wait_until_dead(doomed)
    return run


def test_a_window_whose_token_is_forgotten_is_not_written_again(killed_after_write: Run) -> None:
    """T14: the store does not know the window's token any more. Read-back saves the day."""
    run = killed_after_write
    run.store.forget_tokens()

    run.judge_when_drained(seconds=_DRAIN_SECONDS)


def test_rows_that_vanished_behind_their_token_are_written_again(killed_after_write: Run) -> None:
    """T15: the store remembers the token but lost the rows (they are deleted here, the token stays)."""
    run = killed_after_write
    assert run.oracle.stored(run.name) == 100
    run.store.delete("1 = 1")
    assert run.oracle.stored(run.name) == 0
    run.sampler.pause()  # the rows are gone on purpose

    run.judge_when_drained(seconds=_DRAIN_SECONDS)


@pytest.mark.slow
def test_a_month_that_vanished_behind_its_token_is_written_again(killed_after_write: Run) -> None:
    """T15, T16: half of the window is there, the other half's token stands for nothing."""
    run = killed_after_write
    run.store.delete("event_date_time >= '2020-02-01'")
    assert run.oracle.stored(run.name) == 50
    run.sampler.pause()

    run.judge_when_drained(seconds=_DRAIN_SECONDS)


def test_a_window_of_which_one_month_was_written_is_completed(killed_before_write: Run) -> None:
    """T16: the server died between the parts of two months. The test writes the first part in its place."""
    run = killed_before_write
    _write_first_month(run)
    assert run.oracle.stored(run.name) == 50

    run.judge_when_drained(seconds=_DRAIN_SECONDS)


@pytest.mark.slow
@pytest.mark.clickhouse(reason="a materialized view of PostgreSQL is not filled by inserts")
def test_a_materialized_view_counts_each_event_once(run: Run) -> None:
    """T17: a view with a target of its own, a window replayed as a whole."""
    run.store.ask(
        "CREATE TABLE counted (event_type String, n UInt64) ENGINE = SummingMergeTree ORDER BY event_type"
        " SETTINGS non_replicated_deduplication_window = 10000"
    )
    run.store.ask(
        "CREATE MATERIALIZED VIEW counting TO counted AS SELECT event_type, count() AS n FROM event_log GROUP BY 1"
    )
    try:
        _run_killed_at(run, "written")
        run.judge_when_drained(seconds=_DRAIN_SECONDS)

        assert run.store.ask("SELECT sum(n) FROM counted") == [["100"]]
    finally:
        run.store.ask("DROP TABLE counting SYNC")
        run.store.ask("DROP TABLE counted SYNC")


def test_a_store_whose_table_lost_a_column_keeps_everything_waiting(run: Run) -> None:
    """T36: nothing is deleted, the reason is in the ledger, and it continues on its own once the column is back."""
    run.fleet.steady()
    run.store.ask("ALTER TABLE event_log DROP COLUMN metadata_version")
    try:
        run.publish(100)
        eventually(lambda: _last_errors(run), seconds=20, what="an error is in the ledger")
        assert run.oracle.ask_postgres("SELECT count(*) FROM outbox_event") == [(100,)]
        assert run.oracle.ask_postgres("SELECT count(*) FROM pipeline_deadletter") == [(0,)]
    finally:
        run.store.ask(f"ALTER TABLE event_log ADD COLUMN metadata_version {run.store.whole_number}")

    run.judge_when_drained(seconds=_DRAIN_SECONDS)


def _last_errors(run: Run) -> list[tuple[object, ...]]:
    return run.oracle.ask_postgres(
        "SELECT last_error FROM pipeline_window WHERE acked_at IS NULL AND failed_at IS NOT NULL"
    )


def _write_first_month(run: Run) -> None:
    """What ClickHouse has done of the window's insert when it dies between the two parts.

    Only to make this state the product's own load and store are used; they are not what is judged.
    """
    from django.conf import settings

    from towpath.eventlog.connect import connect
    from towpath.flow.load import load
    from towpath.ledger.windows import SealedWindow

    ((window_id, lease_token),) = run.oracle.ask_postgres(
        "SELECT id::text, lease_token::text FROM pipeline_window WHERE acked_at IS NULL"
    )
    window = SealedWindow(UUID(window_id), UUID(lease_token), 30, 1, {"outbox_event": 100})
    lines = load(window, environment="test", max_bytes=None).rows.splitlines(keepends=True)
    january = [line for line in lines if b"\t2020-01-" in line]
    store = connect(settings.TOWPATH.event_store_url, timeout_seconds=30)
    store.write(b"".join(january), row_count=len(january), token=window_id)
    store.close()
