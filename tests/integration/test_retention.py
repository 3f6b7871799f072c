"""Retention: whole months are dropped once all of them is proven and sealed, on both stores; whenever the power fails,
the next run completes it, and no check calls their rows lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import date, datetime, timedelta, tzinfo
from typing import Any, Self
from uuid import UUID, uuid4

import psycopg2
import pytest
from django.db import connection
from pytest_django import Settings

from tests.integration.manage import here, status
from tests.integration.proving import EACH_STORE, STORES, Tampered, audited, columns
from tests.integration.rows import create_users, write_events
from tests.integration.windows import deliver, sealed, taken_over
from tests.services import Services
from tests.waiting import eventually
from towpath.conf.current import config
from towpath.eventlog.errors import StoreUnavailable
from towpath.eventlog.store import Store
from towpath.flow.delivery import Delivery
from towpath.flow.verify import purge_receipts, verify_receipts
from towpath.ledger import proofs
from towpath.ledger.models import ContradictedWindow, Proof, Window
from towpath.management import keeping
from towpath.outbox.models import OutboxEvent
from towpath.proof import sealing

MARCH, APRIL = "2020-03", "2020-04"


@pytest.fixture(params=EACH_STORE)
def kept(request: pytest.FixtureRequest, services: Services, settings: Settings) -> Iterator[Tampered]:
    """A window with rows of two months of long ago, one of this month; verified, sealed."""
    store: Tampered = STORES[request.param](services)
    settings.TOWPATH = replace(config(), event_store_url=store.url)
    write_events(['{"n": 1}', '{"n": 2}', '{"n": 3}'], at="2020-03-31 23:59:59.999999+00")
    write_events(['{"n": 4}', '{"n": 5}'], at="2020-04-01 00:00:00+00")
    deliver_and_verify(store)
    create_users(2)
    deliver_and_verify(store)
    seal()
    yield store
    store.close()


def deliver_and_verify(store: Tampered) -> None:
    assert deliver(sealed(), store.store) is Delivery.ACKED
    assert verify_receipts(store.store, should_stop=lambda: False) == 0


def seal() -> None:
    assert list(sealing.seal_all(key=""))
    OutboxEvent.objects.all().delete()  # the event about it


def retain(*arguments: str, months: int = 24) -> dict[str, Any]:
    done = here("eventlog", "retain", "--months", str(months), "--json", "--yes", *arguments)
    assert done.stdout, done.stderr
    return {**json.loads(done.stdout), "exit": done.returncode}


def stored_months(store: Tampered) -> list[str]:
    return [f"{month:%Y-%m}" for month in store.store.months() if month.year == 2020]


def age_receipts() -> None:
    """As if the receipts were older than they are kept."""
    purge_receipts(receipt_days=0, should_stop=lambda: False)
    assert not Window.objects.filter(verified_at__isnull=False).exists()


def test_whole_months_that_are_old_enough_are_dropped(kept: Tampered) -> None:
    answer = retain()

    assert answer["exit"] == 0
    assert answer["dropped"] == [
        {"month": MARCH, "windows": 1, "rows": 3, "is_completed": False},
        {"month": APRIL, "windows": 1, "rows": 2, "is_completed": False},
    ]
    assert stored_months(kept) == []
    assert kept.store.months()  # this month
    contexts = [json.loads(event.event_context) for event in OutboxEvent.objects.order_by("id")]
    assert [(one["month"], one["rows"], one["windows"]) for one in contexts] == [(MARCH, 3, 1), (APRIL, 2, 1)]
    assert {event.event_type for event in OutboxEvent.objects.all()} == {"log_month_dropped"}


def test_an_audit_ends_well_and_shows_what_was_dropped(kept: Tampered) -> None:
    retain()

    found = audited()
    assert found["exit"] == 0, found
    assert [(one["kind"], one["month"], one["rows"]) for one in found["amendments"]] == [
        ("dropped", MARCH, 3),
        ("dropped", APRIL, 2),
    ]
    assert all("kept for 24 month(s) (dropped by " in one["reason"] for one in found["amendments"])

    # Also once the amendments are sealed, receipts are purged, and proofs with them
    deliver_and_verify(kept)
    seal()
    age_receipts()
    retain()
    again = audited()
    of_later = {"seals": 2, "unsealed": 0, "windows": 2, "rows": 5, "position": again["position"]}
    assert again == found | of_later  # the last is log_audited
    assert not Proof.objects.filter(month__year=2020).exclude(kind="dropped").exists()


@pytest.mark.usefixtures("kept")
def test_proofs_go_with_their_receipts_and_seals_stay() -> None:
    assert retain()["proofs_deleted"] == 0  # the receipts are there
    assert Proof.objects.filter(month__year=2020, kind="verified").count() == 2

    age_receipts()

    assert [retain()["proofs_deleted"] for _ in range(2)] == [2, 0]
    assert not Proof.objects.filter(month__year=2020, kind="verified").exists()
    assert audited()["seals"] == 1


@pytest.mark.usefixtures("kept")
def test_a_period_has_no_lost_rows_after_its_month_was_dropped() -> None:
    before = json.loads(here("pipeline", "verify", "--json").stdout)
    retain()

    done = here("pipeline", "verify", "--json")

    assert done.returncode == 0
    assert json.loads(done.stdout)["outboxes"]["outbox_user"] == before["outboxes"]["outbox_user"]
    assert json.loads(done.stdout)["outboxes"]["outbox_event"]["lost"] == 0


def test_a_row_that_is_lost_beside_a_dropped_month_is_still_called_lost(kept: Tampered) -> None:
    retain()
    kept.delete(where="outbox = 'outbox_user'")

    done = here("pipeline", "verify", "--json")

    assert done.returncode == 1
    assert json.loads(done.stdout)["outboxes"]["outbox_user"]["lost"] == 2


def test_a_dry_run_changes_nothing(kept: Tampered) -> None:
    answer = retain("--dry-run")

    assert [one["month"] for one in answer["would_drop"]] == [MARCH, APRIL]
    assert stored_months(kept) == [MARCH, APRIL]
    assert not OutboxEvent.objects.exists()
    assert not Proof.objects.filter(kind="dropped").exists()


def test_a_month_that_is_young_enough_stays(kept: Tampered) -> None:
    answer = retain(months=1200)

    assert (answer["exit"], answer["dropped"]) == (0, [])
    assert stored_months(kept) == [MARCH, APRIL]


class _Ahead(datetime):
    """The clock of a machine that is a century ahead."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) + timedelta(days=36525)


def test_a_machine_whose_clock_is_ahead_drops_nothing_too_early(
    kept: Tampered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "datetime", _Ahead)

    answer = retain(months=1200)

    assert (answer["exit"], answer["dropped"]) == (0, [])
    assert stored_months(kept) == [MARCH, APRIL]


def test_a_month_with_a_window_that_is_not_verified_is_refused(kept: Tampered) -> None:
    write_events(['{"n": 6}'], at="2020-03-05 00:00:00+00")
    assert deliver(sealed(), kept.store) is Delivery.ACKED

    answer = retain()

    assert answer["exit"] == 1
    assert answer["refused"].keys() == {MARCH}
    assert "1 window(s) without a proof" in answer["refused"][MARCH]
    assert "pipeline verify --deep" in answer["refused"][MARCH]
    assert stored_months(kept) == [MARCH]
    assert not Proof.objects.filter(kind="dropped", month="2020-03-01").exists()


def write_late(store: Tampered) -> None:
    """An event of March that comes late: stored, acked, and not verified yet."""
    write_events(['{"n": 6}'], at="2020-03-05 00:00:00+00")
    assert deliver(sealed(), store.store) is Delivery.ACKED


def test_a_window_that_comes_while_the_person_is_asked_is_not_dropped(
    kept: Tampered, monkeypatch: pytest.MonkeyPatch
) -> None:
    def think(_question: str) -> str:
        write_late(kept)
        return "drop"

    monkeypatch.setattr("builtins.input", think)

    done = here("eventlog", "retain", "--months", "24")

    # Then its month stays, and is named, and the other one goes
    assert done.returncode == 1
    assert "! 2020-03 has 1 window(s) without a proof" in done.stdout
    assert "2020-04  1 window(s), 2 row(s)  dropped" in done.stdout
    assert stored_months(kept) == [MARCH]
    assert not Proof.objects.filter(kind="dropped", month="2020-03-01").exists()


def test_a_month_that_is_not_what_the_person_was_asked_about_is_not_dropped(
    kept: Tampered, monkeypatch: pytest.MonkeyPatch
) -> None:
    def think(_question: str) -> str:
        write_events(['{"n": 6}'], at="2020-03-05 00:00:00+00")
        deliver_and_verify(kept)
        seal()
        return "drop"

    monkeypatch.setattr("builtins.input", think)

    assert (
        "! 2020-03 was written to in the meantime: run this again" in here("eventlog", "retain", "--months=24").stdout
    )
    assert stored_months(kept) == [MARCH]
    assert retain()["dropped"] == [{"month": MARCH, "windows": 2, "rows": 4, "is_completed": False}]


def test_a_window_that_comes_to_a_month_of_an_interrupted_run_is_not_dropped(
    kept: Tampered, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object, **__: object) -> bool:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(type(kept.store), "drop_month", dies)
        assert here("eventlog", "retain", "--months", "24", "--yes").returncode == 1

    def think(question: str) -> str:
        assert MARCH in question
        write_late(kept)
        return "drop"

    monkeypatch.setattr("builtins.input", think)

    assert "! 2020-03 has 1 window(s) without a proof" in here("eventlog", "retain", "--months", "24").stdout
    assert stored_months(kept) == [MARCH]


def test_a_window_that_comes_at_the_last_moment_is_dropped_only_once_it_is_proven(
    kept: Tampered, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given one that is stored after the last look at the month
    drop = type(kept.store).drop_month

    def drop_late(store: Store, month: date, *, windows: int) -> bool:
        if f"{month:%Y-%m}" == MARCH:
            write_late(kept)
        return drop(store, month, windows=windows)

    with monkeypatch.context() as patched:
        patched.setattr(type(kept.store), "drop_month", drop_late)
        answer = retain()
    assert (answer["exit"], answer["refused"].keys()) == (1, {MARCH})
    assert "is still stored: run this again in a few minutes" in answer["refused"][MARCH]

    # Then it is still there, and goes with the next run, once it is proven and sealed
    assert stored_months(kept) == [MARCH]
    assert "without a proof" in retain()["refused"][MARCH]
    assert verify_receipts(kept.store, should_stop=lambda: False) == 0
    seal()
    assert [one["month"] for one in retain()["dropped"]] == [MARCH]
    assert stored_months(kept) == []
    assert audited()["exit"] == 0


def test_postgresql_counts_the_windows_when_nobody_writes_any_more(services: Services) -> None:
    # Given a session that has written to a month, and has not committed yet
    with (
        closing(STORES["postgresql"](services)) as empty,
        closing(psycopg2.connect(empty.url)) as writer,
        ThreadPoolExecutor() as pool,
    ):
        empty.execute(
            "CREATE TABLE IF NOT EXISTS event_log_2020_03 PARTITION OF event_log"
            " FOR VALUES FROM ('2020-03-01 00:00:00+00') TO ('2020-04-01 00:00:00+00')"
        )
        writer.cursor().execute(
            "INSERT INTO event_log (event_type, event_date_time, environment, event_context, metadata_version, outbox,"
            f" outbox_id, window_id) VALUES ('late', '2020-03-05', 'x', '{{}}', 1, 'outbox_event', 1, '{uuid4()}')"
        )

        # When somebody drops the month meanwhile
        dropped = pool.submit(empty.store.drop_month, date(2020, 3, 1), windows=0)
        eventually(lambda: is_waited_for(empty.url), seconds=10, what="the drop waits for the writer")
        writer.commit()

        # Then what was written is there
        assert dropped.result() is False
        assert [f"{month:%Y-%m}" for month in empty.store.months()] == [MARCH]


def is_waited_for(url: str) -> bool:
    """True if a session waits for a lock of a table."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT FROM pg_locks WHERE NOT granted AND locktype = 'relation'")
        return bool(cursor.rowcount)


def test_a_month_with_a_window_that_is_not_sealed_is_refused_until_it_is(kept: Tampered) -> None:
    write_events(['{"n": 6}'], at="2020-03-05 00:00:00+00")
    deliver_and_verify(kept)

    assert "1 window(s) that no seal covers: run `pipeline seals make`" in retain()["refused"][MARCH]

    seal()
    assert retain()["dropped"] == [{"month": MARCH, "windows": 2, "rows": 4, "is_completed": False}]


def test_a_month_with_a_changed_window_is_refused(kept: Tampered) -> None:
    kept.update("environment = 'x'", where="outbox = 'outbox_event' AND event_context = '{\"n\": 2}'")
    assert audited()["exit"] == 1

    answer = retain()

    # The window has rows of both months
    assert answer["refused"].keys() == {MARCH, APRIL}
    assert "1 window(s) that were changed in the event store" in answer["refused"][MARCH]
    assert stored_months(kept) == [MARCH, APRIL]


def test_a_month_with_rows_that_nobody_delivered_is_refused(kept: Tampered) -> None:
    stray = uuid4()
    values = columns().replace("window_id", f"'{stray}'", 1)
    kept.execute(
        f"INSERT INTO event_log ({columns()}) SELECT {values} FROM event_log WHERE event_context = '{{\"n\": 2}}'"
    )

    assert str(stray) in retain()["refused"][MARCH]


def test_a_run_that_ends_before_the_store_has_dropped_the_month_is_completed(
    kept: Tampered, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a run that is interrupted after its commit
    def dies(*_: object, **__: object) -> bool:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(type(kept.store), "drop_month", dies)
        assert here("eventlog", "retain", "--months", "24", "--yes").returncode == 1
    assert stored_months(kept) == [MARCH, APRIL]
    (difference,) = audited()["differences"]
    assert (difference["kind"], difference["month"], difference["rows"]) == ("added", MARCH, 3)
    assert "run `eventlog retain` again" in difference["detail"]
    assert here("pipeline", "verify").returncode == 0

    # When it runs again
    answer = retain()

    # Then the month is dropped, and in the chain once
    assert answer["dropped"] == [
        {"month": MARCH, "windows": 0, "rows": 0, "is_completed": True},
        {"month": APRIL, "windows": 1, "rows": 2, "is_completed": False},
    ]
    assert stored_months(kept) == []
    assert status()["contradicted_proofs"] == 0
    assert [one.rows for one in Proof.objects.filter(kind="dropped", month="2020-03-01")] == [3]
    assert audited()["exit"] == 0


@pytest.mark.usefixtures("kept")
def test_a_run_that_ends_before_its_proofs_are_deleted_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    age_receipts()

    def dies() -> int:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as patched:
        patched.setattr("towpath.proof.retention.purge_proofs", dies)
        assert here("eventlog", "retain", "--months", "24", "--yes").returncode == 1
    assert Proof.objects.filter(month__year=2020, kind="verified").count() == 2
    assert audited()["exit"] == 0

    assert retain()["proofs_deleted"] == 2
    assert audited()["exit"] == 0


def test_an_event_that_cannot_be_recorded_keeps_the_month(kept: Tampered) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE outbox_event ADD CONSTRAINT nothing_new CHECK (event_type = 'tested') NOT VALID")
    try:
        with pytest.raises(Exception, match="nothing_new"):
            here("eventlog", "retain", "--months", "24", "--yes")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE outbox_event DROP CONSTRAINT nothing_new")

    assert stored_months(kept) == [MARCH, APRIL]
    assert not Proof.objects.filter(kind="dropped").exists()


def test_rows_that_come_to_a_dropped_month_are_proven_and_dropped_with_the_next_run(kept: Tampered) -> None:
    retain()
    write_events(['{"n": 7}'], at="2020-03-05 00:00:00+00")
    window = sealed()
    if deliver(window, kept.store) is Delivery.POSTPONED:  # of PostgreSQL, it thinks that there is a partition
        assert deliver(taken_over(window), kept.store) is Delivery.ACKED
    assert verify_receipts(kept.store, should_stop=lambda: False) == 0
    seal()
    kept.update("environment = 'x'", where="event_context = '{\"n\": 7}'")
    assert [one["kind"] for one in audited()["differences"]] == ["edited"]
    assert "1 window(s) that were changed" in retain()["refused"][MARCH]
    kept.update(f"environment = '{config().environment}'", where="event_context = '{\"n\": 7}'")
    assert audited()["exit"] == 0

    assert retain()["dropped"] == [{"month": MARCH, "windows": 1, "rows": 1, "is_completed": False}]
    assert audited()["exit"] == 0


def test_an_audit_accuses_nobody_of_a_month_that_is_dropped_meanwhile(
    kept: Tampered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit has read the proofs of the months, and not yet their rows. Then it walks on."""
    read_page = proofs.read_page

    def dropped_after(**page: int) -> list[proofs.Proof]:
        found = read_page(**page)
        monkeypatch.setattr(proofs, "read_page", read_page)
        assert [one["month"] for one in retain()["dropped"]] == [MARCH, APRIL]
        return found

    monkeypatch.setattr(proofs, "read_page", dropped_after)

    found = audited()

    assert (found["exit"], found["differences"], found["broken_seals"]) == (0, [], [])
    assert stored_months(kept) == []
    assert not ContradictedWindow.objects.exists()


def test_rows_that_somebody_puts_back_into_a_dropped_month_are_strays(kept: Tampered) -> None:
    retain()
    age_receipts()
    retain()
    window = UUID(int=7)
    values = columns().replace("window_id", f"'{window}'", 1).replace("event_date_time", "'2020-03-05 00:00:00'", 1)
    if "postgresql" in kept.url:
        month = "FROM ('2020-03-01 00:00:00+00') TO ('2020-04-01 00:00:00+00')"
        kept.execute(f"CREATE TABLE again PARTITION OF event_log FOR VALUES {month}")
    kept.execute(f"INSERT INTO event_log ({columns()}) SELECT {values} FROM event_log LIMIT 1")

    found = audited()

    assert [(one["kind"], one["window"]) for one in found["differences"]] == [("stray", str(window))]
    if "postgresql" in kept.url:
        kept.execute("DROP TABLE again")


def test_who_may_not_drop_months_changes_nothing(kept: Tampered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(kept.store), "keeping_problems", lambda _store, change: [f"may not {change}"])

    done = here("eventlog", "retain", "--months", "24", "--yes")

    assert (done.returncode, done.stderr) == (1, "Nothing was changed: may not drop.\n")
    assert stored_months(kept) == [MARCH, APRIL]
    assert not Proof.objects.filter(kind="dropped").exists()
    assert retain("--dry-run")["exit"] == 0


def test_nothing_is_dropped_without_a_word_of_consent(kept: Tampered, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_question: str) -> str:
        raise EOFError

    for answer in (nobody, lambda _question: "yes"):
        monkeypatch.setattr("builtins.input", answer)
        done = here("eventlog", "retain", "--months", "24")
        assert done.returncode == 1
        assert "Nothing was changed" in done.stderr
    assert stored_months(kept) == [MARCH, APRIL]

    monkeypatch.setattr("builtins.input", lambda _question: "drop")
    done = here("eventlog", "retain", "--months", "24")
    assert done.returncode == 0
    assert "2020-03  1 window(s), 3 row(s)  dropped" in done.stdout
    assert "nothing to drop" in here("eventlog", "retain", "--months", "24").stdout


@pytest.mark.parametrize("months", ["0", "-1", "x", "1.5", "100000"])
def test_a_number_of_months_is_one_or_more(months: str) -> None:
    assert here("eventlog", "retain", "--months", months).returncode == 1
