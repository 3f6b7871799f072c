"""The history of the last two hours: a row a minute, bounded, and as `status` counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.db import connection

from tests.integration.rows import create_users, write_events
from tests.integration.windows import deliver, sealed
from towpath.ledger.history import MINUTES_KEPT, Lately, read_history, read_lately
from towpath.ledger.models import History
from towpath.watch.history import add_minute_if_due, measured
from towpath.watch.status import read_status

if TYPE_CHECKING:
    from towpath.eventlog.store import EventStore


def a_minute_passes() -> None:
    with connection.cursor() as cursor:
        # In two steps, because a minute is there once, and the rows come in any order.
        for moved in ("- interval '1 year'", "+ interval '1 year' - interval '1 min'"):
            cursor.execute(f"UPDATE pipeline_history SET minute = minute {moved}, measured_at = measured_at {moved}")


def test_a_minute_is_noted_once_and_says_what_status_says() -> None:
    create_users(3)

    assert add_minute_if_due() is True
    assert add_minute_if_due() is False

    (minute,) = read_history(minutes=120)
    figures = read_status().figures
    assert (minute.pending, minute.in_flight, minute.typical_seconds) == (3, 0, None)
    assert measured(figures).pending == 3
    assert minute.oldest_age_seconds is not None


def test_what_is_stored_counts_in_its_own_minute(store: EventStore) -> None:
    add_minute_if_due()
    a_minute_passes()
    write_events(["{}"] * 5)
    deliver(sealed(), store)

    assert 60 * (read_lately().stored_per_second or 0) == pytest.approx(5, rel=0.1)
    add_minute_if_due()

    assert [minute.stored for minute in read_history(minutes=120)] == [0, 5]
    # While the present minute is short, the one before counts as well.
    assert 60 * (read_lately().stored_per_second or 0) == pytest.approx(5, rel=0.1)
    assert 55 < read_history(minutes=120)[1].seconds < 65


def test_a_minute_notes_how_long_a_window_typically_takes(store: EventStore) -> None:
    add_minute_if_due()
    a_minute_passes()
    for seconds in (2, 3, 40):
        write_events(["{}"] * 5)
        window = sealed()
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE pipeline_window SET dispatched_from = statement_timestamp() - make_interval(secs => %s)"
                " WHERE id = %s",
                [seconds, window.id],
            )
        deliver(window, store)

    assert read_lately().typical_seconds == pytest.approx(3, abs=1)
    add_minute_if_due()

    # A minute without a window has none of its own, and that of the one before is shown.
    assert [minute.typical_seconds is None for minute in read_history(minutes=120)] == [True, False]
    assert read_lately().typical_seconds == pytest.approx(3, abs=1)


def test_what_was_measured_hours_ago_is_not_said_of_now(store: EventStore) -> None:
    add_minute_if_due()
    for _ in range(4):
        a_minute_passes()
    write_events(["{}"] * 5)
    deliver(sealed(), store)

    assert read_lately() == Lately()


def test_a_late_window_counts_too(store: EventStore) -> None:
    write_events(["{}"] * 5)
    window = sealed()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pipeline_window SET is_late = true")
    add_minute_if_due()
    a_minute_passes()

    deliver(window, store)

    assert 60 * (read_lately().stored_per_second or 0) == pytest.approx(5, rel=0.1)


def test_the_history_is_bounded() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO pipeline_history
            SELECT date_trunc('minute', now()) - ago, now() - ago, 60, 0, 1, 0, 0, 0, 0, 0.5, 0.2
            FROM (SELECT n * interval '1 min' AS ago FROM generate_series(1, 1000) AS n) AS minutes
            """
        )

    add_minute_if_due()

    assert MINUTES_KEPT <= History.objects.count() <= MINUTES_KEPT + 2
    assert len(read_history(minutes=120)) <= 121
