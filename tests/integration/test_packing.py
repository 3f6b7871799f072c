"""Packed proofs: after RECEIPT_DAYS a proof takes about 60 bytes, and whatever is changed is named as before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from pytest_django import Settings

from tests.integration.erasing import JANE, JOHN, MAIL, deliver_and_verify, erase, write_as
from tests.integration.manage import here, status
from tests.integration.packing import forge_packed, pack, packed_count, rewrite_packed
from tests.integration.proving import EACH_STORE, STORES, Tampered, audited, copy_of
from tests.integration.receipts import LONG_AGO, delivered, verified
from tests.integration.rows import create_users, write_events
from tests.integration.windows import deliver, sealed
from tests.services import Services
from towpath.conf.current import config
from towpath.eventlog.query import Query
from towpath.eventlog.store import Store
from towpath.explorer.provenance import steps
from towpath.flow.delivery import Delivery
from towpath.flow.verify import purge_receipts
from towpath.ledger import packed, proofs, provenance, sampling, seals
from towpath.ledger.models import ContradictedWindow, PackedProofs, Proof, Seal, Window
from towpath.ledger.packed import POSITIONS_PER_ROW
from towpath.ledger.windows import new_window_id
from towpath.outbox.models import OutboxEvent
from towpath.process import Process
from towpath.proof import packing, sealing
from towpath.proof.packing import pack_proofs
from towpath.proof.sample import check_sample_if_due
from towpath.proof.statement import NO_DIGEST, digest_of, parse

MARCH, APRIL = "2020-03", "2020-04"


@pytest.fixture(params=EACH_STORE)
def log(request: pytest.FixtureRequest, services: Services, settings: Settings) -> Iterator[Tampered]:
    """Four proofs of three windows, packed: of one window with rows of two months of long ago, and two of this one."""
    store: Tampered = STORES[request.param](services)
    settings.TOWPATH = replace(config(), event_store_url=store.url)
    write_events(['{"n": 1}', '{"n": 2}', '{"n": 3}'], at="2020-03-31 23:59:59.999999+00")
    write_events(['{"n": 4}', '{"n": 5}'], at="2020-04-01 00:00:00+00")
    deliver_and_verify(store)
    for prefix in ("a", "b"):
        create_users(3, prefix=prefix)
        deliver_and_verify(store)
    seal()
    assert pack() == packed_count() == 4
    assert not Proof.objects.exists()
    yield store
    store.close()


def seal() -> None:
    assert list(sealing.seal_all(key=""))
    OutboxEvent.objects.all().delete()  # the event about it


def of_events() -> UUID:
    """The window of the events."""
    window: UUID = PackedProofs.objects.get(month=date(2020, 3, 1)).windows[0]
    return window


def march(log: Tampered) -> list[int]:
    rows = log.store.row_digests(of_events(), columns=log.store.covered_columns())
    return [row.outbox_id for row in rows if f"{row.month:%Y-%m}" == MARCH]


def differences(audit: dict[str, Any]) -> list[tuple[str, str, list[int]]]:
    assert audit["exit"] == 1
    assert not audit["broken_seals"]
    return [(one["kind"], one["month"], one["row_ids"]) for one in audit["differences"]]


# --- What is read of them --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("log")
def test_nothing_is_reported_when_nothing_was_changed() -> None:
    found = audited()

    assert (found["exit"], found["is_ok"]) == (0, True)
    assert (found["windows"], found["rows"], found["seals"], found["unsealed"]) == (3, 11, 1, 0)


def test_one_byte_of_one_context_is_named_with_its_row(log: Tampered) -> None:
    row_id = march(log)[1]
    log.update("event_context = '{\"n\": 9}'", where=f"outbox = 'outbox_event' AND outbox_id = {row_id}")

    assert differences(audited()) == [("edited", MARCH, [row_id])]
    assert status()["contradicted_proofs"] == 1

    log.update("event_context = '{\"n\": 2}'", where=f"outbox = 'outbox_event' AND outbox_id = {row_id}")
    assert audited()["exit"] == 0
    assert status()["contradicted_proofs"] == 0


def test_a_lost_row_is_named(log: Tampered) -> None:
    row_id = march(log)[2]
    log.delete(where=f"outbox = 'outbox_event' AND outbox_id = {row_id}")

    assert differences(audited()) == [("lost", MARCH, [row_id])]


def test_an_added_and_a_doubled_row_are_named(log: Tampered) -> None:
    row_id = march(log)[0]
    copy_of(log, row_id, outbox_id="900001")
    assert differences(audited()) == [("added", MARCH, [900001])]

    log.delete(where="outbox_id = 900001")
    copy_of(log, row_id)
    assert differences(audited()) == [("doubled", MARCH, [row_id])]


def test_a_row_added_under_an_outbox_that_the_window_has_not_is_named(log: Tampered) -> None:
    row_id = march(log)[0]
    copy_of(log, row_id, outbox="'outbox_user'")

    assert differences(audited()) == [("added", MARCH, [row_id])]


def test_a_row_in_a_window_of_its_own_is_a_stray(log: Tampered) -> None:
    copy_of(log, march(log)[0], window_id=f"'{uuid4()}'", outbox_id="77")

    assert differences(audited()) == [("stray", MARCH, [77])]


def test_a_month_dropped_by_hand_is_named(log: Tampered) -> None:
    log.drop_month("2020_03")

    assert differences(audited()) == [("lost", MARCH, [])]


def test_the_nightly_sample_finds_them(log: Tampered) -> None:
    log.update("environment = 'x'", where="outbox = 'outbox_event'")
    assert set(sampling.choose_windows(1000)) == {
        window for one in PackedProofs.objects.all() for window in one.windows
    }
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM pipeline_mark WHERE name = 'sampled'")

    assert check_sample_if_due(log.store, should_stop=lambda: False) == 1
    assert status()["contradicted_proofs"] == 1


def test_a_continued_audit_of_a_period_names_what_was_packed_with_its_windows(log: Tampered) -> None:
    # Given a window that was found changed, and that is packed with others of the period
    since = datetime.now(UTC) - timedelta(hours=1)
    rewrite_packed(f"dispatched_from = '{since - timedelta(hours=3)}'")
    log.update("environment = 'x'", where="outbox = 'outbox_event'")
    period = ("--since", f"{since:%Y-%m-%d %H:%M:%S}")
    assert len(audited(*period)["differences"]) == 2

    continued = audited(*period, "--after", str(proofs.last_position()))

    assert (continued["exit"], len(continued["differences"])) == (1, 2)


@pytest.mark.usefixtures("log")
def test_a_period_has_the_windows_that_were_packed_with_its_own() -> None:
    now = datetime.now(UTC)

    assert audited("--since", f"{now - timedelta(hours=1):%Y-%m-%d %H:%M:%S}")["windows"] == 3
    assert audited("--until", f"{now - timedelta(hours=1):%Y-%m-%d %H:%M:%S}")["windows"] == 0


def test_the_history_of_an_event_keeps_its_digest_and_its_seal(log: Tampered) -> None:
    known = provenance.read(of_events(), outbox="outbox_event", month=date(2020, 3, 31))

    (proof,) = known.proofs
    assert (proof.kind, proof.rows, proof.seal, len(proof.digest)) == ("verified", 3, 1, 64)
    assert (proof.dispatched_at, proof.proven_at) == (None, None)
    assert known.receipt is None
    event = next(row for row in log.store.read_rows([of_events()], Query()) if row.event_date_time.month == 3)
    assert [(step.name, step.at is None, step.state) for step in steps(event, known)] == [
        ("Published", False, "done"),
        ("Dispatched", True, "done"),
        ("Stored", False, "done"),
        ("Verified", True, "done"),
        ("Sealed", False, "done"),
    ]


def test_the_history_of_an_event_shows_whatever_times_somebody_has_written(store: Store) -> None:
    window = proven(store, users=1)
    seal()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pipeline_proof SET proven_at = '20000-01-01', dispatched_at = '0044-03-15 BC'")
        cursor.execute("UPDATE pipeline_seal SET sealed_at = 'infinity'")
        cursor.execute("UPDATE pipeline_window SET acked_at = '20000-01-01', verified_at = 'infinity'")

    known = provenance.read(window, outbox="outbox_user", month=datetime.now(UTC).date())

    assert (len(known.proofs), known.receipt is not None) == (1, True)


# --- What somebody changes of them -----------------------------------------------------------------------------------

REWRITTEN = {
    "a digest": "digests = set_byte(digests, 0, 255 - get_byte(digests, 0))",
    "a number of rows": "rows[1] = rows[1] + 1",
    "a window": f"windows[1] = '{uuid4()}'",
    "an outbox": "outboxes[1] = 'outbox_user'",
    "which outbox": "outbox_numbers[1] = 2",
    "a place": "places[1] = 989",
    "no place": "places[1] = NULL",
    "no window": "windows[1] = NULL",
    "no digest": "digests = ''",
    "a list that is cut off": "rows = rows[1:0]",
    "a place that is too high": "places[1] = 990",
    "a place below the first": "places[1] = -1",
    "the lowest window": "first_window = 'ffffffff-ffff-ffff-ffff-ffffffffffff'",
    "the highest window": "last_window = '00000000-0000-0000-0000-000000000000'",
    "the first position": "first_position = first_position + 100",
    "a position that is too high": "first_position = 9223372036854775807",
    "the month": "month = '2020-05-01'",
    "a month that Python cannot hold": "month = '20000-01-01'",
    "the whole row": None,
}


@pytest.mark.parametrize("assignment", REWRITTEN.values(), ids=REWRITTEN)
@pytest.mark.usefixtures("log")
def test_packed_proofs_that_are_rewritten_break_their_seal(assignment: str | None) -> None:
    where = "month = '2020-03-01'"
    if assignment:
        rewrite_packed(assignment, where=where)
    else:
        PackedProofs.objects.filter(month=date(2020, 3, 1)).delete()

    found = audited()

    assert (found["exit"], found["is_complete"]) == (1, True)
    assert [(one["number"], one["kind"]) for one in found["broken_seals"] if MARCH in one["detail"]] == [(1, "proofs")]


@pytest.mark.usefixtures("log")
def test_what_the_digests_cover_cannot_be_rewritten() -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pipeline_coverage SET columns = replace(columns, 'environment,', '')")

    assert {one["kind"] for one in audited()["broken_seals"]} == {"proofs"}


def test_a_row_edited_together_with_its_packed_proof_is_named_by_the_seal(log: Tampered) -> None:
    log.update("environment = 'x'", where=f"outbox = 'outbox_event' AND outbox_id = {march(log)[0]}")
    digests = log.store.window_digests([of_events()], columns=log.store.covered_columns())
    (digest,) = [one.digest for one in digests if f"{one.month:%Y-%m}" == MARCH]
    rewrite_packed(f"digests = '\\x{digest}'", where="month = '2020-03-01'")

    found = audited()

    assert [(one["number"], one["kind"]) for one in found["broken_seals"]] == [(1, "proofs")]


def test_a_packed_proof_that_is_rewritten_is_told_from_an_edited_row(log: Tampered) -> None:
    rewrite_packed("digests = set_byte(digests, 0, 255 - get_byte(digests, 0))", where="month = '2020-03-01'")

    found = audited()

    assert [one["kind"] for one in found["broken_seals"]] == ["proofs"]
    assert [(one["kind"], one["window"]) for one in found["differences"]] == [("receipt", str(of_events()))]
    assert march(log)


HIGHEST = 9223372036854775807


@pytest.mark.parametrize("position", [-HIGHEST - 1, -5, 2147483647, HIGHEST])
@pytest.mark.parametrize("is_packed", [True, False])
def test_no_position_ends_an_audit_or_a_sample(log: Tampered, position: int, *, is_packed: bool) -> None:
    if is_packed:
        forge_packed(first_position=str(position))
    else:
        columns = log.store.covered_columns()
        digests = log.store.window_digests([of_events()], columns=columns)[:1]
        proofs.amend(digests, kind="accepted", columns=columns, reason="")
        with connection.cursor() as cursor:
            cursor.execute("UPDATE pipeline_proof SET position = %s", [position])

    assert audited()["is_complete"]
    sampling.choose_windows(1000)


@pytest.mark.parametrize("rows", [-HIGHEST, HIGHEST])
def test_no_number_of_rows_ends_an_audit_or_makes_a_sample_wait_for_ever(log: Tampered, rows: int) -> None:
    columns = log.store.covered_columns()
    digests = log.store.window_digests([of_events()], columns=columns)
    assert len(digests) == 2
    proofs.amend(digests, kind="accepted", columns=columns, reason="")
    seal()
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pipeline_proof SET rows = %s, month = '2020-03-01'", [rows])
        cursor.execute("DELETE FROM pipeline_mark WHERE name = 'sampled'")

    assert audited()["is_complete"]
    assert check_sample_if_due(log.store, should_stop=lambda: False) >= 0
    assert '"would_drop": ' in here("eventlog", "retain", "--months", "24", "--json", "--dry-run").stdout


@pytest.mark.parametrize("value", [-HIGHEST - 1, HIGHEST])
@pytest.mark.usefixtures("log")
def test_no_mark_ends_an_audit_or_a_purge(value: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pipeline_mark SET value = %s WHERE name IN ('purged', 'gone')", [value])

    assert audited()["is_complete"]
    assert pack() == 0


HIDDEN = {
    "where no seal is": {"first_position": "packed.first_position + 1000000"},
    "below the first position": {"first_position": "-5000"},
    "in a place that is too high": {"first_position": "packed.first_position + 3", "places": "ARRAY[990]"},
    "in a place below the first": {"first_position": "packed.first_position + 3", "places": "ARRAY[-1]"},
    "beside the others": {"first_position": "packed.first_position + 3"},
    "in a month of its own": {"first_position": "packed.first_position + 3", "month": "'2019-01-01'"},
}


@pytest.mark.parametrize("place", HIDDEN.values(), ids=HIDDEN)
def test_a_stray_with_a_forged_packed_proof_is_named(log: Tampered, place: dict[str, str]) -> None:
    window = uuid4()
    copy_of(log, march(log)[0], window_id=f"'{window}'")
    digests = log.store.window_digests([window], columns=log.store.covered_columns())
    lists = {"windows": f"ARRAY['{window}'::uuid]", "digests": f"'\\x{digests[0].digest}'::bytea"}
    numbers = dict.fromkeys(("outbox_numbers", "rows", "digest_sums", "id_sums"), "ARRAY[1]")
    forge_packed(
        **{
            "places": "ARRAY[0]",
            **lists,
            **numbers,
            **dict.fromkeys(("first_window", "last_window"), f"'{window}'::uuid"),
            **place,
        }
    )

    found = audited()

    assert (found["exit"], found["is_complete"]) == (1, True)
    assert found["broken_seals"] or str(window) in {one["window"] for one in found["differences"]}


@pytest.mark.parametrize("month", [MARCH, "2019-01"])
def test_a_packed_proof_that_somebody_forges_before_the_next_seal_is_not_sealed(log: Tampered, month: str) -> None:
    # Given a row that is added to a window of long ago, and a packed proof between those that wait for a seal
    window = of_events()
    columns = log.store.covered_columns()
    copy_of(log, march(log)[0], window_id=f"'{window}'", outbox="'outbox_other'")
    (digest,) = [
        one.digest for one in log.store.window_digests([window], columns=columns) if one.outbox == "outbox_other"
    ]
    write_events(["{}"], at="2020-03-15 00:00:00+00")
    deliver_and_verify(log)
    forge_packed(
        first_position=str(proofs.last_position() + 1),
        month=f"'{month}-01'::date",
        outboxes="ARRAY['outbox_other']",
        digests=f"'\\x{digest}'::bytea",
        **dict.fromkeys(("first_window", "last_window"), f"'{window}'::uuid"),
        windows=f"ARRAY['{window}'::uuid]",
        places="ARRAY[0]",
        **dict.fromkeys(("outbox_numbers", "rows", "digest_sums", "id_sums"), "ARRAY[1]"),
    )
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval(pg_get_serial_sequence('pipeline_proof', 'position'))")
    write_events(["{}"], at="2020-03-15 00:00:00+00")
    deliver_and_verify(log)

    seal()

    found = audited()
    assert [(one["number"], one["kind"]) for one in found["broken_seals"]] == [(2, "proofs")]
    assert f"proofs of {month}" in found["broken_seals"][0]["detail"]


def test_a_proof_put_in_the_place_of_a_packed_one_is_named_and_never_packed(log: Tampered) -> None:
    log.update("environment = 'x'", where=f"outbox = 'outbox_event' AND outbox_id = {march(log)[0]}")
    columns = log.store.covered_columns()
    digests = log.store.window_digests([of_events()], columns=columns)
    proofs.amend(digests, kind="verified", columns=columns, reason="")
    seal()

    for _ in range(2):
        found = audited()
        assert (str(of_events()), "an extra proof was added") in {
            (one["window"], one["detail"]) for one in found["differences"]
        }
        assert pack() == 0


def test_a_lost_window_is_named_even_if_no_look_for_it_would_find_its_packed_proof(log: Tampered) -> None:
    window = of_events()
    log.delete(where=f"window_id = '{window}'")
    rewrite_packed("first_window = 'ffffffff-ffff-ffff-ffff-ffffffffffff'", where="month < '2020-06-01'")

    assert {one["kind"] for one in audited()["broken_seals"]} == {"proofs"}


# --- What our own commands change ------------------------------------------------------------------------------------


def test_a_window_is_accepted_and_its_amendment_stays_as_it_is(log: Tampered) -> None:
    log.update("environment = 'x'", where=f"outbox = 'outbox_event' AND outbox_id = {march(log)[1]}")

    assert audited("--accept", str(of_events()), "--reason", "restored")["exit"] == 0
    seal()

    assert pack() == 0
    found = audited()
    assert (found["exit"], {one["kind"] for one in found["amendments"]}) == (0, {"accepted"})
    log.update("environment = 'y'", where=f"outbox = 'outbox_event' AND outbox_id = {march(log)[1]}")
    assert differences(audited()) == [("edited", MARCH, [march(log)[1]])]


def test_a_person_is_erased_from_windows_whose_proofs_are_packed(log: Tampered) -> None:
    write_as(JANE, [f'{{"email": "{MAIL}"}}'])
    write_as(JOHN, ["{}"])
    deliver_and_verify(log)
    seal()
    assert pack() == 1

    assert erase("--actor", JANE)["exit"] == 0
    seal()

    assert pack() == 0
    found = audited()
    assert (found["exit"], [one["kind"] for one in found["amendments"]]) == (0, ["erased"])


@pytest.mark.usefixtures("log")
def test_they_go_with_their_month() -> None:
    done = here("eventlog", "retain", "--months", "24", "--json", "--yes")

    assert '"proofs_deleted": 2' in done.stdout, done.stderr
    assert packed_count() == 2
    seal()
    assert (audited()["exit"], pack()) == (0, 0)


def test_they_go_with_their_month_whatever_position_somebody_has_put_a_proof_at(log: Tampered) -> None:
    columns = log.store.covered_columns()
    window = PackedProofs.objects.latest("first_position").windows[0]
    proofs.amend(log.store.window_digests([window], columns=columns), kind="accepted", columns=columns, reason="")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pipeline_proof SET position = %s", [HIGHEST])

    done = here("eventlog", "retain", "--months", "24", "--json", "--yes")

    assert '"proofs_deleted": 2' in done.stdout, done.stderr


def test_what_was_proven_before_a_month_was_dropped_goes_and_what_came_later_is_packed(log: Tampered) -> None:
    # Given proofs of a month from before it was dropped, and later ones, all still as rows
    write_events(["{}"], at="2020-05-01 00:00:00+00")
    deliver_and_verify(log)
    seal()
    assert here("eventlog", "retain", "--months", "24", "--json", "--yes").returncode == 0
    seal()
    if "postgresql" in log.url:
        log.execute("CREATE TABLE later PARTITION OF event_log FOR VALUES FROM ('2020-05-01+00') TO ('2020-06-01+00')")
    write_events(["{}", "{}"], at="2020-05-01 00:00:00+00")
    deliver_and_verify(log)
    seal()

    # When they are packed together, and the month's proofs are purged
    assert pack() == 1
    assert Proof.objects.filter(kind="verified").count() == 1
    done = here("eventlog", "retain", "--months", "2400", "--json", "--yes")
    assert '"proofs_deleted": 1' in done.stdout, done.stderr

    found = audited()
    assert (found["exit"], found["rows"]) == (0, 8)
    if "postgresql" in log.url:
        log.execute("DROP TABLE later")


def test_a_window_of_two_months_of_which_one_is_packed_with_an_earlier_seal_is_not_accused(log: Tampered) -> None:
    # Given two seals of the same day, and a month of the second one that stays as it is
    write_events(["{}"], at="2020-03-15 00:00:00+00")
    deliver_and_verify(log)
    seal()
    write_events(["{}"], at="2020-03-16 00:00:00+00")
    write_events(["{}"], at="2020-04-16 00:00:00+00")
    deliver_and_verify(log)
    write_events(["{}"], at="2020-04-17 00:00:00+00")
    deliver_and_verify(log)
    seal()
    late = Window.objects.filter(id=Proof.objects.latest("position").window_id)
    late.update(verified_at=None)
    assert (pack(), Proof.objects.count()) == (2, 2)
    late.update(verified_at=datetime.now(UTC))

    assert pack() == 0
    assert audited()["exit"] == 0


# --- What is packed, and what is not ---------------------------------------------------------------------------------


def proven(store: Store, *, users: int) -> UUID:
    window = delivered(store, users=users)
    assert verified(store) == 0
    return window.id


def test_nothing_is_packed_before_its_time(store: Store) -> None:
    proven(store, users=1)
    seal()

    assert pack_proofs(receipt_days=-1) == 0
    # Nor while its receipt is there: then it stays as it is, because a purge would have come first
    assert pack_proofs(receipt_days=-2) == 0
    assert pack() == 0
    assert (packed_count(), audited()["exit"]) == (0, 0)


def test_each_tick_packs_what_is_old_enough(store: Store) -> None:
    for days in (40.0, 30.5):
        proven(store, users=1)
        then = datetime.now(UTC) - timedelta(days=days)
        Window.objects.filter(dispatched_from__gt=then).update(dispatched_from=then, acked_at=then)
        # The receipt is another now, but it is purged before anybody compares it
        Proof.objects.filter(dispatched_at__gt=then).update(dispatched_at=then)
        (made,) = sealing.seal_all(key="")
        OutboxEvent.objects.all().delete()
        earlier = Seal.objects.exclude(number=made.number).first()
        statement = replace(
            parse(made.statement), since=then, until=then, previous=earlier.digest if earlier else NO_DIGEST
        ).text()
        Seal.objects.filter(number=made.number).update(sealed_at=then, statement=statement, digest=digest_of(statement))

    Process(config(), enqueue=lambda _: None).verify()

    # A day after its receipts were to go, and with the seals of a day together
    assert (packed_count(), Proof.objects.count()) == (1, 1)
    assert audited()["exit"] == 0


def test_a_receipt_that_cannot_be_read_keeps_no_proof_unsealed(store: Store) -> None:
    proven(store, users=1)
    Proof.objects.update(proven_at=datetime.now(UTC) - timedelta(hours=2))
    create_users(1, prefix="b")
    assert deliver(sealed(), store) is Delivery.ACKED
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pipeline_window SET delivered = '[]' WHERE verified_at IS NULL")

    Process(config(), enqueue=lambda _: None).verify()

    assert Seal.objects.count() == 1


def test_a_receipt_of_no_time_is_purged(store: Store) -> None:
    proven(store, users=1)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pipeline_window SET dispatched_from = '-infinity', acked_at = '-infinity'")

    assert purge_receipts(receipt_days=30, should_stop=lambda: False) == 1


def test_the_seals_of_a_day_fill_rows_of_the_table_together(store: Store) -> None:
    for users in range(1, 6):
        proven(store, users=users)
        seal()

    assert pack() == 5

    (row,) = PackedProofs.objects.all()
    assert row.rows == [1, 2, 3, 4, 5]
    assert audited()["exit"] == 0
    rewrite_packed("rows[2] = 7")
    assert {one["number"] for one in audited()["broken_seals"]} == {2}


def test_a_transaction_has_so_many_positions_and_the_next_look_continues(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for users in range(1, 6):
        proven(store, users=users)
        seal()
    monkeypatch.setattr(packing, "_MOST_POSITIONS", 2)

    # The first has as many as there were positions before
    found = [pack() for _ in range(5)]
    assert (sum(found), max(found), found[-1]) == (5, 2, 0)
    assert audited()["exit"] == 0


def test_what_does_not_match_its_seal_stays_as_it_is(store: Store) -> None:
    proven(store, users=1)
    seal()
    Proof.objects.update(digest=bytes(32))

    assert pack() == 0
    assert Proof.objects.count() == 1
    assert [one["kind"] for one in audited()["broken_seals"]] == ["proofs"]


def test_a_seal_whose_statement_cannot_be_read_does_not_keep_the_next_ones_waiting(store: Store) -> None:
    for users in (1, 2):
        proven(store, users=users)
        seal()
    Seal.objects.filter(number=1).update(statement="x")

    assert pack() == 1
    assert {one["number"] for one in audited()["broken_seals"]} == {1, 2}


def test_seals_from_before_there_were_packed_proofs_hold_and_stay_unpacked(store: Store) -> None:
    proven(store, users=1)
    (made,) = sealing.seal_all(key="")
    statement = "\n".join(line.partition(" lasting ")[0] for line in made.statement.split("\n"))
    Seal.objects.update(statement=statement, digest=digest_of(statement))
    proven(store, users=2)
    seal()

    assert audited()["exit"] == 0
    # The second one is over its own window's two outboxes: the first seal is an event
    assert (pack(), Proof.objects.count(), audited()["exit"]) == (2, 1, 0)


def test_a_row_that_somebody_has_put_where_proofs_are_to_be_packed_keeps_no_others_waiting(log: Tampered) -> None:
    create_users(2)
    deliver_and_verify(log)
    forge_packed(first_position=str(Proof.objects.latest("position").position), places="'{}'")
    seal()
    create_users(3, prefix="c")
    deliver_and_verify(log)
    seal()

    assert (pack(), Proof.objects.get().rows) == (1, 2)
    assert audited()["exit"] == 0


def test_a_window_without_a_row_keeps_the_proof_of_its_receipt(store: Store) -> None:
    create_users(1)
    write_events(["{}"])
    window = sealed()
    OutboxEvent.objects.all().delete()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM outbox_user")
    assert deliver(window, store) is Delivery.ACKED
    verified(store)
    seal()

    assert pack() == 0
    assert Proof.objects.get().month is None


def test_a_fault_leaves_every_proof(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    proven(store, users=1)
    seal()

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("the power failed")

    with monkeypatch.context() as patched:
        patched.setattr(seals, "note_packed", fail)
        with pytest.raises(ConnectionError):
            pack()
    assert (packed_count(), Proof.objects.count()) == (0, 1)

    assert pack() == 1
    assert audited()["exit"] == 0


def test_what_would_not_match_the_seal_is_not_committed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    proven(store, users=1)
    seal()
    really_pack = packed.pack

    def pack_wrong(months: list[packed.PackableMonth]) -> int:
        done = really_pack(months)
        rewrite_packed("rows[1] = 7")
        return done

    with monkeypatch.context() as patched:
        patched.setattr(packed, "pack", pack_wrong)
        with pytest.raises(RuntimeError, match="would not match their seals"):
            pack()
    assert (packed_count(), Proof.objects.count()) == (0, 1)


# --- Many of them ----------------------------------------------------------------------------------------------------

SPREAD = 3
PROOFS = 4000


def prove_many(count: int = PROOFS, *, step: float = 1.5, outboxes: int = SPREAD, months: int = 2) -> None:
    """Proofs as of windows of a thousand rows, of some outboxes and months in turn, with gaps between positions."""
    ids = sorted(new_window_id() for _ in range(count))
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO pipeline_proof (position, kind, window_id, outbox, month, rows, digest, digest_sum, id_sum,
                                        coverage_id, receipt, dispatched_at, proven_at)
            OVERRIDING SYSTEM VALUE
            SELECT 10000 + floor(n * %(step)s) + n / 3000 * 5000, 'verified', (%(ids)s::uuid[])[n],
                   'outbox_' || n %% %(outboxes)s, date '2020-03-01' + 31 * (n %% %(months)s),
                   1000, sha256(n::text::bytea), n * 7919, n * 10472, newest.coverage_id, sha256('receipt'),
                   '2020-03-31', '2020-04-01'
            FROM generate_series(1, %(count)s) AS n, (SELECT coverage_id FROM pipeline_proof LIMIT 1) AS newest
            """,
            {"ids": ids, "outboxes": outboxes, "months": months, "count": count, "step": step},
        )
        cursor.execute("DELETE FROM pipeline_proof WHERE dispatched_at > '2021-01-01'")


def pages(limit: int) -> list[proofs.Proof]:
    found: list[proofs.Proof] = []
    while page := proofs.read_page(after=found[-1].position if found else 0, limit=limit):
        assert len(page) <= limit
        found += page
    return found


def lasting(found: list[proofs.Proof]) -> list[proofs.Proof]:
    """Without what is lost when they are packed."""
    return [replace(one, dispatched_from=LONG_AGO, dispatched_to=LONG_AGO, proven_at=None) for one in found]


def test_packed_they_are_read_as_before(store: Store) -> None:
    proven(store, users=1)
    prove_many()
    seal()
    before = lasting(pages(300))
    windows = [one.window_id for one in before]
    assert len(before) == PROOFS

    assert pack() == PROOFS

    assert not Proof.objects.exists()
    assert all(len(one.windows) <= POSITIONS_PER_ROW for one in PackedProofs.objects.all())
    for limit in (7, 300, 5000):
        assert lasting(pages(limit)) == before
    assert lasting(proofs.of_windows(windows)) == before
    assert proofs.of_windows([]) == []
    assert lasting(proofs.of_windows([windows[17], uuid4(), windows[2999]])) == [before[17], before[2999]]
    assert proofs.known_of([*windows, uuid4()]).proven == set(windows)
    assert proofs.count_rows() == PROOFS * 1000
    assert proofs.last_position() == before[-1].position
    assert len(set(sampling.choose_windows(500))) > 200


def test_a_packed_proof_takes_about_60_bytes(store: Store) -> None:
    proven(store, users=1)
    prove_many(50_000, step=1, months=1, outboxes=1)
    seal()

    assert pack() == 50_000

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_total_relation_size('pipeline_packedproofs')")
        (size,) = cursor.fetchone()
    assert size / 50_000 <= 66, size / 50_000


# --- An upgrade ------------------------------------------------------------------------------------------------------


def test_an_upgrade_keeps_what_a_check_has_found(store: Store) -> None:
    window = proven(store, users=1)
    assert here("migrate", "towpath", "0001").returncode == 0
    try:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE pipeline_proof SET contradiction = 'edited'")
    finally:
        assert here("migrate", "towpath").returncode == 0

    assert status()["contradicted_proofs"] == 1
    assert ContradictedWindow.objects.get().window_id == window
