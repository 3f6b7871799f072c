"""The judge itself: it sees each kind of fault, in the final comparison and in a sample."""

from __future__ import annotations

import pytest
from django.db import connection

from tests.faults import writers
from tests.faults.conftest import Run
from tests.faults.writers import Books, Writer, publish_events

_DRAIN_SECONDS = 60
_COLUMNS = "event_type, event_date_time, environment, metadata_version, outbox, outbox_id, window_id, event_context"


def test_the_oracle_sees_what_is_lost_doubled_made_up_and_altered(run: Run) -> None:
    """Each fault is made by hand behind the product's back."""
    run.fleet.steady()
    run.publish(20)
    run.judge_when_drained(seconds=_DRAIN_SECONDS)
    run.sampler.pause()
    lost, doubled, altered = (
        int(row[0])
        for row in run.store.ask(
            f"SELECT outbox_id FROM event_log WHERE event_context LIKE '%{run.name}%' ORDER BY 1 LIMIT 3"
        )
    )
    _copy(run, doubled, "outbox_id", "event_context")
    _copy(run, doubled, "outbox_id + 1000000000", "replace(event_context, 'something', 'phantom')")
    _copy(run, altered, "outbox_id", "concat(event_context, ' ')")
    run.store.delete(f"outbox_id = {lost}")

    verdict = run.oracle.verdict(run.name, acknowledged=["never committed"])

    assert verdict.lost == [("outbox_event", lost)]
    assert verdict.doubled == [("outbox_event", doubled), ("outbox_event", altered)]
    assert verdict.phantom == [("outbox_event", doubled + 1_000_000_000)]
    assert verdict.altered == [("outbox_event", altered)]
    assert verdict.forgotten == ["never committed"]
    assert len(verdict.doubled_keys) == 2
    assert run.oracle.sample(run.name) == [f"I5: outbox_event {lost} is deleted and not stored"]


def test_a_transaction_whose_session_ends_before_a_savepoint_is_rolled_back_is_not_taken_for_committed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    books = Books()
    writer = Writer(run.name, books, seed="1", transactions_per_second=100.0)

    def work(_number: int) -> list[str]:
        keys = publish_events(run.name, ["something"])
        with monkeypatch.context() as during:
            during.setattr(writers, "publish_events", lambda *_: end_own_session(run))
            writer._roll_back_to_savepoint()
        return keys

    monkeypatch.setattr(writer, "_work", work)
    writer._one(0)

    assert (books.acknowledged, books.failed) == (set(), 1)
    assert run.oracle.committed(run.name) == 0


def end_own_session(run: Run) -> None:
    own = connection.connection.info.backend_pid
    run.oracle.ask_postgres("SELECT pg_terminate_backend(%s, 5000)", [own])


def test_the_oracle_sees_rows_without_columns(run: Run) -> None:
    assert run.oracle.ask_postgres("SELECT FROM generate_series(1, 2)") == [(), ()]
    assert run.oracle.ask_postgres("SELECT FROM generate_series(1, 0)") == []
    assert run.oracle.ask_postgres("SET lock_timeout = 0") == []


def _copy(run: Run, outbox_id: int, new_id: str, new_context: str) -> None:
    columns = _COLUMNS.replace("outbox_id", new_id).replace("event_context", new_context)
    run.store.ask(
        f"INSERT INTO event_log ({_COLUMNS}) SELECT {columns} FROM event_log WHERE outbox_id = {outbox_id} LIMIT 1"
    )
