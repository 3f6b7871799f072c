"""The pipeline's own event, through the whole path: sent once each interval, seen in the store, late when it is not."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import pytest
from django.db import connection
from django.test import Client

from tests.integration.manage import CLICKHOUSE_DOWN, doctor, here, status
from tests.integration.rows import write_events
from tests.integration.scraping import Samples, measure_at_each_scrape
from tests.integration.windows import deliver_all
from tests.integration.workers import QUICK
from tests.waiting import eventually
from towpath.eventlog.connect import connect
from towpath.eventlog.errors import EventStoreError
from towpath.flow import canary
from towpath.flow.pausing import pause_dispatch
from towpath.ledger import canaries
from towpath.ledger.models import Canary
from towpath.ledger.pauses import EVERY_OUTBOX
from towpath.outbox.models import OutboxEvent
from towpath.telemetry.metrics import canary_seconds
from towpath.watch.gauges import read_gauges
from towpath.watch.thresholds import CANARY_LATE_SECONDS

if TYPE_CHECKING:
    from tests.integration.event_log import EventLog
    from tests.integration.workers import Workers
    from towpath.eventlog.store import Store

WAIT_SECONDS = 60


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_at_each_scrape(monkeypatch)


def later(seconds: float) -> None:
    """So much time passes for the canaries."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE pipeline_canary SET published_at = published_at - make_interval(secs => %(by)s),"
            " queryable_at = queryable_at - make_interval(secs => %(by)s)",
            {"by": seconds},
        )


def known() -> canaries.Canary:
    found = canaries.read_canary()
    assert found is not None
    return found


def scraped() -> float | None:
    samples = Samples(Client().get("/metrics").content.decode())
    return samples["towpath_canary_seconds"] if "towpath_canary_seconds" in samples.names() else None


def canary_problems() -> list[str]:
    return [problem for problem in status()["problems"] if "canary" in problem]


# --- On real processes -------------------------------------------------------------------------------------------


def test_it_goes_through_the_whole_path_and_is_measured(workers: Workers, event_log: EventLog) -> None:
    # Given processes of which the dispatcher sends one every second
    workers.dispatcher(**QUICK, CANARY_SECONDS="1")
    workers.aggregator(**QUICK)

    # When three were seen in the store
    eventually(lambda: Canary._base_manager.filter(queryable_at__isnull=False).count() >= 3, seconds=WAIT_SECONDS)

    # Then they are events of the log, with the tokens that the ledger has, and each took a plausible time
    seen = Canary._base_manager.filter(queryable_at__isnull=False).order_by("number")
    sent = [json.loads(event.event_context) for event in event_log.events() if event.event_type == "canary_sent"]
    tokens = [one["canary"] for one in sent]
    assert {str(one.token) for one in seen} <= set(tokens)
    assert len(tokens) == len(set(tokens))
    for one in seen:
        assert one.queryable_at is not None
        assert 0 < (one.queryable_at - one.published_at).total_seconds() < WAIT_SECONDS
    assert known().seconds is not None


def test_none_is_sent_unless_it_is_asked_for_and_none_is_missed(workers: Workers, event_log: EventLog) -> None:
    # Given one of before the setting was taken away
    canary.send_if_due(every_seconds=60)
    later(600)
    assert len(canary_problems()) == 1

    workers.dispatcher(**QUICK)
    workers.aggregator(**QUICK)
    workers.wait_until_ready()
    write_events(["{}"])
    eventually(lambda: event_log.count() == 2, seconds=WAIT_SECONDS)
    eventually(lambda: not Canary._base_manager.exists(), seconds=WAIT_SECONDS)

    assert canary_problems() == []
    assert status()["canary"] is None
    assert scraped() is None


# --- Step by step ------------------------------------------------------------------------------------------------


def test_one_at_a_time_and_one_each_interval(store: Store) -> None:
    assert canary.send_if_due(every_seconds=60) is True
    later(70)
    assert canary.send_if_due(every_seconds=60) is False  # the first is still on its way

    deliver_all(store)
    canary.watch(store, stopping=threading.Event())
    assert canary.send_if_due(every_seconds=60) is True

    deliver_all(store)
    canary.watch(store, stopping=threading.Event())
    assert canary.send_if_due(every_seconds=60) is False  # the second is younger than a minute
    assert OutboxEvent.objects.count() == 0


def test_two_processes_send_one(store: Store) -> None:
    sent: list[bool] = []
    together = threading.Barrier(2)

    def send() -> None:
        try:
            together.wait(10)
            sent.append(canary.send_if_due(every_seconds=60))
        finally:
            connection.close()

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert sorted(sent) == [False, True]
    deliver_all(store)


def test_it_can_be_read_before_it_is_called_queryable(store: Store) -> None:
    canary.send_if_due(every_seconds=60)

    def watch() -> None:
        try:
            canary.watch(store, stopping=threading.Event())
        finally:
            connection.close()

    watching = threading.Thread(target=watch)
    watching.start()
    assert known().seconds is None

    deliver_all(store)
    watching.join(30)

    assert not watching.is_alive()
    found = known()
    assert (found.late_seconds, found.last_error) == (None, "")
    assert found.seconds == found.worst_seconds
    assert found.seconds is not None
    assert 0 < found.seconds < 30


def test_one_that_is_given_up_is_followed_by_the_next_and_stays_late() -> None:
    canary.send_if_due(every_seconds=60)
    later(61 * 60)

    assert canary.send_if_due(every_seconds=60) is True
    canary.watch(connect(CLICKHOUSE_DOWN["EVENT_STORE_URL"], timeout_seconds=1), stopping=_set())

    assert (known().late_seconds or 0) > 3600


def _set() -> threading.Event:
    stopping = threading.Event()
    stopping.set()
    return stopping


# --- What people see ---------------------------------------------------------------------------------------------


def test_status_metric_and_doctor_say_how_long_it_took(store: Store) -> None:
    canary.send_if_due(every_seconds=60)
    deliver_all(store)
    canary.watch(store, stopping=threading.Event())

    seconds = status()["canary"]["seconds"]
    assert scraped() == pytest.approx(seconds)
    assert f"the last canary took {seconds:.1f} s" in here("pipeline", "status").stdout
    assert canary_problems() == []
    assert doctor()[1]["canary"] == {
        "check": "canary",
        "is_ok": True,
        "detail": f"the last one took {seconds:.1f} s",
    }


def test_one_that_is_late_is_a_problem_with_its_section() -> None:
    canary.send_if_due(every_seconds=60)
    assert canary_problems() == []
    later(65)

    (problem,) = canary_problems()
    assert "has been on its way for 1 min, but is not in the event store" in problem
    assert problem.endswith("see docs/runbook.md, TowpathCanaryLate")
    assert (scraped() or 0) > 60
    assert "a canary has been on its way to the event store for 6" in here("pipeline", "status").stdout
    assert doctor()[1]["canary"]["is_ok"] is False


def test_a_store_that_does_not_say_is_named() -> None:
    canary.send_if_due(every_seconds=60)
    later(65)
    down = connect(CLICKHOUSE_DOWN["EVENT_STORE_URL"], timeout_seconds=1)

    with pytest.raises(EventStoreError):
        canary.watch(down, stopping=threading.Event())

    (problem,) = canary_problems()
    assert problem.startswith("the event store does not say whether the canary is stored: ")
    assert "TowpathCanaryLate" in problem


def test_that_nobody_sends_one_is_a_problem(store: Store) -> None:
    canary.send_if_due(every_seconds=60)
    deliver_all(store)
    canary.watch(store, stopping=threading.Event())
    assert canary_problems() == []
    later(200)

    assert canary_problems() == ["no canary has been sent for 3 min: see docs/runbook.md, TowpathCanaryLate"]
    # And the alert's metric does not keep the last good value
    assert read_gauges()[canary_seconds][""] > CANARY_LATE_SECONDS
    assert "the next canary should have been sent" in here("pipeline", "status").stdout


def test_a_canary_that_somebody_keeps_waiting_is_no_problem_of_its_own() -> None:
    canary.send_if_due(every_seconds=60)
    later(65)
    pause_dispatch(EVERY_OUTBOX, by="ada", reason="the store moves")

    assert canary_problems() == []


def test_two_hours_are_kept() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO pipeline_canary (token, published_at, queryable_at, every_seconds)"
            " SELECT gen_random_uuid(), at, at, 60"
            " FROM (SELECT now() - n * interval '1 min' AS at FROM generate_series(2, 1000) AS n) AS minutes"
        )

    assert canary.send_if_due(every_seconds=60) is True

    assert 125 <= Canary._base_manager.count() <= 131
