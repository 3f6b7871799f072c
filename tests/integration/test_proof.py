"""Proof: what somebody changes in the event store or in the ledger afterwards is named, on both stores."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from django.db import connection
from pytest_django import Settings
from structlog.testing import capture_logs

from tests.integration.manage import here, status
from tests.integration.proving import EACH_STORE, STORES, Tampered, audited, copy_of, kinds
from tests.integration.rows import create_users, write_events
from tests.integration.windows import deliver, expire_leases, recover, sealed, taken_over
from tests.knobs import Knobs
from tests.services import Services
from tests.unit.test_columns import TENANT
from towpath.conf.current import config
from towpath.eventlog.connect import connect
from towpath.eventlog.store import Store
from towpath.flow.delivery import Delivery
from towpath.flow.load import load
from towpath.flow.verify import verify_receipts
from towpath.ledger import proofs
from towpath.ledger.models import DeadLetter, Proof, Seal, Window
from towpath.management.operator import operator
from towpath.outbox.models import OutboxEvent
from towpath.proof import deep, sealing
from towpath.proof.sample import check_sample_if_due


@pytest.fixture(params=EACH_STORE)
def tampered(request: pytest.FixtureRequest, services: Services, settings: Settings) -> Iterator[Tampered]:
    """Three windows, delivered, verified and sealed, of two outboxes and of two months."""
    store: Tampered = STORES[request.param](services)
    settings.TOWPATH = replace(config(), event_store_url=store.url)
    write_events(['{"n": 1}', '{"n": 2}', '{"n": 3}'], at="2026-03-31 23:59:59.999999+00")
    write_events(['{"n": 4}', '{"n": 5}'], at="2026-04-01 00:00:00+00")
    assert deliver(sealed(), store.store) is Delivery.ACKED
    for prefix in ("a", "b"):
        create_users(3, prefix=prefix)
        assert deliver(sealed(), store.store) is Delivery.ACKED
    assert verify_receipts(store.store, should_stop=lambda: False) == 0
    assert [seal.number for seal in sealing.seal_all(key="")] == [1]
    OutboxEvent.objects.all().delete()  # the event about the seal
    yield store
    store.close()


@pytest.mark.usefixtures("tampered")
def test_nothing_is_reported_when_nothing_was_changed() -> None:
    found = audited()

    assert found["exit"] == 0
    assert found["is_ok"] is True
    assert (found["windows"], found["rows"], found["seals"], found["unsealed"]) == (3, 11, 1, 0)
    assert Proof.objects.count() == 4  # one window has rows of two months


def test_one_byte_of_one_context_is_named_with_its_row(tampered: Tampered) -> None:
    row_id = stored_ids(tampered)[1]
    tampered.update("event_context = '{\"n\": 9}'", where=f"outbox = 'outbox_event' AND outbox_id = {row_id}")

    found = audited()

    assert found["exit"] == 1
    (difference,) = found["differences"]
    assert (difference["kind"], difference["outbox"], difference["row_ids"]) == ("edited", "outbox_event", [row_id])
    assert difference["month"] == "2026-03"
    assert any("changed in the event store after they were proven" in problem for problem in status()["problems"])


@pytest.mark.parametrize(
    "assignment",
    ["actor = 'user:1'", "environment = 'x'", "metadata_version = 2", "outcome = 'denied'", "ip = '10.0.0.1'"],
)
def test_a_change_of_any_column_is_named(tampered: Tampered, assignment: str) -> None:
    row_id = stored_ids(tampered)[0]
    tampered.update(assignment, where=f"outbox = 'outbox_event' AND outbox_id = {row_id}")

    assert [(one["kind"], one["row_ids"]) for one in audited()["differences"]] == [("edited", [row_id])]


@pytest.mark.parametrize("changed", [{"event_type": "'other'"}, {"event_date_time": "'2026-03-31 23:59:59.999998'"}])
def test_a_row_put_in_the_place_of_another_is_named(tampered: Tampered, changed: dict[str, str]) -> None:
    row_id = stored_ids(tampered)[1]
    copy_of(tampered, row_id, **changed)
    (name,) = changed
    tampered.delete(where=f"outbox = 'outbox_event' AND outbox_id = {row_id} AND {name} <> {changed[name]}")

    assert [(one["kind"], one["row_ids"]) for one in audited()["differences"]] == [("edited", [row_id])]


@pytest.mark.parametrize("is_compared", [True, False])
def test_what_is_stored_is_compared_with_what_was_loaded(
    tampered: Tampered, settings: Settings, *, is_compared: bool
) -> None:
    # Given a window of which one byte is changed before its receipt is verified
    settings.TOWPATH = replace(config(), compare_loaded=is_compared)
    create_users(2, prefix="seam")
    window = sealed()
    assert deliver(window, tampered.store) is Delivery.ACKED
    tampered.update("environment = 'locaL'", where=f"window_id = '{window.id}'")

    assert verify_receipts(tampered.store, should_stop=lambda: False) == int(is_compared)

    contradiction = Window.objects.get(id=window.id).contradiction
    assert contradiction == ("the stored bytes differ from the loaded ones" if is_compared else None)
    # And the command that the runbook and `status` name shows the window, though as many rows are stored as should be
    shown = json.loads(here("pipeline", "verify", "--since", "2020-01-01", "--json").stdout)["mismatches"]
    assert [one["difference"] for one in shown] == ["the stored bytes differ from the loaded ones"] * is_compared
    tampered.update(f"environment = '{config().environment}'", where=f"window_id = '{window.id}'")
    assert verify_receipts(tampered.store, should_stop=lambda: False) == 0


@pytest.fixture
def wider(tampered: Tampered) -> Iterator[Store]:
    """The same event store, as a worker sees it that knows one column more."""
    tampered.execute("ALTER TABLE event_log ADD COLUMN tenant text DEFAULT ''")
    with closing(connect(tampered.url, timeout_seconds=30, own_columns=(TENANT,))) as store:
        yield store
    tampered.execute("ALTER TABLE event_log DROP COLUMN tenant")


def test_a_window_is_verified_and_proven_while_a_column_is_being_added(
    tampered: Tampered, wider: Store, knobs: Knobs
) -> None:
    for own, loads, verifies in (((), tampered.store, wider), ((TENANT,), wider, tampered.store)):
        knobs(columns=own)
        create_users(2, prefix=f"with {len(own)} ")
        window = sealed()
        assert deliver(window, loads) is Delivery.ACKED

        assert verify_receipts(verifies, should_stop=lambda: False) == 0

        receipt = Window.objects.get(id=window.id)
        assert receipt.loaded
        assert receipt.verified_at is not None
        assert Proof.objects.filter(window_id=window.id, rows=2).count() == 1


def test_the_bytes_are_compared_where_the_verifier_has_the_same_columns(
    tampered: Tampered, wider: Store, knobs: Knobs
) -> None:
    knobs(columns=(TENANT,))
    create_users(2, prefix="wider")
    window = sealed()
    assert deliver(window, wider) is Delivery.ACKED
    tampered.update("tenant = 'x'", where=f"window_id = '{window.id}'")

    assert verify_receipts(wider, should_stop=lambda: False) == 1

    # No verifier with other columns ends the alarm, though it cannot compare the bytes
    assert verify_receipts(tampered.store, should_stop=lambda: False) == 1
    assert "cannot be compared any more" in (Window.objects.get(id=window.id).contradiction or "")
    tampered.update("tenant = ''", where=f"window_id = '{window.id}'")
    assert verify_receipts(wider, should_stop=lambda: False) == 0


def test_a_lost_row_is_named(tampered: Tampered) -> None:
    row_id = stored_ids(tampered)[2]
    tampered.delete(where=f"outbox = 'outbox_event' AND outbox_id = {row_id}")

    (difference,) = audited()["differences"]

    assert (difference["kind"], difference["rows"], difference["row_ids"]) == ("lost", 1, [row_id])


def test_a_row_added_to_an_old_window_is_named(tampered: Tampered) -> None:
    row_id = stored_ids(tampered)[0]
    copy_of(tampered, row_id, outbox_id="900001")

    (difference,) = audited()["differences"]

    assert (difference["kind"], difference["rows"], difference["row_ids"]) == ("added", 1, [900001])


def test_a_row_added_under_an_outbox_that_the_window_has_not_is_named(tampered: Tampered) -> None:
    row_id = stored_ids(tampered)[0]
    copy_of(tampered, row_id, outbox="'outbox_user'")

    (difference,) = audited()["differences"]

    assert (difference["kind"], difference["outbox"], difference["row_ids"]) == ("added", "outbox_user", [row_id])


def test_a_doubled_row_is_named(tampered: Tampered) -> None:
    row_id = stored_ids(tampered)[0]
    copy_of(tampered, row_id)

    (difference,) = audited()["differences"]

    assert (difference["kind"], difference["rows"], difference["row_ids"]) == ("doubled", 1, [row_id])


def test_a_row_in_a_window_of_its_own_is_a_stray(tampered: Tampered) -> None:
    window = uuid4()
    copy_of(tampered, stored_ids(tampered)[0], window_id=f"'{window}'", outbox_id="77")

    (difference,) = audited()["differences"]

    assert (difference["kind"], difference["window"], difference["row_ids"]) == ("stray", str(window), [77])


@pytest.mark.parametrize("tampered", ["postgresql"], indirect=True)
def test_a_row_without_a_window_is_a_stray(tampered: Tampered) -> None:
    nobody = str(UUID(int=0))
    tampered.execute("ALTER TABLE event_log ALTER window_id DROP NOT NULL")
    try:
        copy_of(tampered, stored_ids(tampered)[0], window_id="NULL", outbox_id="77")
        found = audited()
        # If a person lets it stand, that does not license what comes later
        accepted = audited("--accept", nobody, "--reason", "x")
        copy_of(tampered, stored_ids(tampered)[0], window_id="NULL", outbox_id="78")
        later = audited()
    finally:
        tampered.delete(where="window_id IS NULL")
        tampered.execute("ALTER TABLE event_log ALTER window_id SET NOT NULL")

    assert [(one["kind"], one["window"], one["row_ids"]) for one in found["differences"]] == [("stray", nobody, [77])]
    assert (accepted["exit"], accepted["accepted"]) == (0, 1)
    assert [(one["kind"], one["window"], one["row_ids"]) for one in later["differences"]] == [("added", nobody, [78])]


def test_a_stray_is_named_with_the_rows_of_its_outbox_and_month(tampered: Tampered) -> None:
    march, window = stored_ids(tampered)[0], uuid4()
    for row_id in range(101, 126):
        copy_of(tampered, march, window_id=f"'{window}'", outbox_id=f"{row_id}")
    copy_of(tampered, march, window_id=f"'{window}'", outbox_id="7", outbox="'outbox_user'")
    april = "'2026-04-01 00:00:00'"
    copy_of(tampered, march, window_id=f"'{window}'", outbox_id="201", event_date_time=april)

    strays = {(one["outbox"], one["month"]): (one["rows"], one["row_ids"]) for one in audited()["differences"]}

    assert strays == {
        ("outbox_event", "2026-03"): (25, [*range(101, 121)]),
        ("outbox_event", "2026-04"): (1, [201]),
        ("outbox_user", "2026-03"): (1, [7]),
    }


def test_the_search_for_strays_keeps_the_pace_and_tells_how_far_it_is(
    tampered: Tampered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deep, "_WINDOWS_PER_LOOK", 1)
    copy_of(tampered, stored_ids(tampered)[0], window_id=f"'{uuid4()}'")
    told: list[int] = []
    progress, began = deep.Progress(position=7), time.monotonic()

    strays = deep.find_strays(
        tampered.store,
        progress=progress,
        pace=deep.Pace(22),
        on_page=lambda progress: told.append(progress.searched),
    )

    # One window has rows of two months; 11 rows are proven
    assert [stray.kind for stray in strays] == ["stray"]
    assert told == [1, 2, 3, 4, 5]
    assert progress.position == 7
    assert time.monotonic() - began >= 0.5


def test_a_window_that_is_still_open_or_not_verified_is_no_stray(tampered: Tampered) -> None:
    create_users(2, prefix="later")
    assert deliver(sealed(), tampered.store) is Delivery.ACKED

    assert audited()["is_ok"] is True


def test_a_month_dropped_by_hand_is_named(tampered: Tampered) -> None:
    tampered.drop_month("2026_03")

    found = audited()

    assert found["exit"] == 1
    assert [(one["kind"], one["month"], one["rows"]) for one in found["differences"]] == [("lost", "2026-03", 3)]


@pytest.mark.usefixtures("tampered")
def test_a_rewritten_receipt_is_named() -> None:
    window = Window.objects.filter(rows__has_key="outbox_user").latest("number")
    Window.objects.filter(id=window.id).update(rows={"outbox_user": 2}, delivered={"outbox_user": 2})

    (difference,) = audited()["differences"]

    assert (difference["kind"], difference["window"]) == ("receipt", str(window.id))


@pytest.mark.usefixtures("tampered")
def test_a_rewritten_proof_is_told_from_an_edited_row() -> None:
    proof = Proof.objects.latest("position")
    Proof.objects.filter(position=proof.position).update(digest=bytes(32))

    found = audited()

    assert [one["kind"] for one in found["broken_seals"]] == ["proofs"]
    (difference,) = found["differences"]
    assert (difference["kind"], difference["window"]) == ("receipt", str(proof.window_id))


def test_a_second_proof_in_the_place_of_the_first_is_named(tampered: Tampered) -> None:
    row_id = stored_ids(tampered)[1]
    tampered.update("environment = 'x'", where=f"outbox = 'outbox_event' AND outbox_id = {row_id}")
    first = Proof.objects.filter(outbox="outbox_event").earliest("position")
    digests = tampered.store.window_digests([first.window_id], columns=tampered.store.covered_columns())
    proofs.amend(digests, kind="verified", columns=tampered.store.covered_columns(), reason="")

    (difference,) = audited()["differences"]

    assert (difference["kind"], difference["window"]) == ("receipt", str(first.window_id))


def test_a_row_edited_together_with_its_proof_is_named_by_the_seal(tampered: Tampered) -> None:
    row_id = stored_ids(tampered)[1]
    tampered.update("environment = 'x'", where=f"outbox = 'outbox_event' AND outbox_id = {row_id}")
    rewrite_proofs(tampered)

    found = audited()

    assert found["exit"] == 1
    assert [(one["number"], one["kind"]) for one in found["broken_seals"]] == [(1, "proofs")]


def test_a_proof_that_is_removed_with_its_window_is_named_by_the_seal(tampered: Tampered) -> None:
    proof = Proof.objects.latest("position")
    tampered.delete(where=f"window_id = '{proof.window_id}'")
    Proof.objects.filter(position=proof.position).delete()
    Window.objects.filter(id=proof.window_id).delete()

    found = audited()

    assert [(one["number"], one["kind"]) for one in found["broken_seals"]] == [(1, "proofs")]


def test_a_rewritten_seal_is_named_and_a_rewritten_chain_by_the_anchors(tampered: Tampered, tmp_path: Path) -> None:
    # Given two seals, both kept elsewhere, and somebody who changes a row and makes proofs and seals anew
    create_users(2, prefix="later")
    assert deliver(sealed(), tampered.store) is Delivery.ACKED
    verify_receipts(tampered.store, should_stop=lambda: False)
    assert [seal.number for seal in sealing.seal_all(key="")] == [2]
    anchors = tmp_path / "anchors.jsonl"
    anchors.write_text(here("pipeline", "seals", "export").stdout)
    assert audited("--anchors", str(anchors))["exit"] == 0
    first = Seal.objects.get(number=1)

    # When only the first is changed
    Seal.objects.filter(number=1).update(statement=first.statement.replace("windows 3", "windows 2"))
    kinds_of_seals = {(one["number"], one["kind"]) for one in audited()["broken_seals"]}
    assert kinds_of_seals == {(1, "rewritten"), (2, "unchained")}

    # When all are made anew
    row_id = stored_ids(tampered)[1]
    tampered.update("environment = 'x'", where=f"outbox = 'outbox_event' AND outbox_id = {row_id}")
    rewrite_proofs(tampered)
    Seal.objects.all().delete()
    assert [seal.number for seal in sealing.seal_all(key="")] == [1]
    OutboxEvent.objects.all().delete()

    # Then the chain holds by itself, and not beside the anchors
    assert audited()["exit"] == 0
    found = audited("--anchors", str(anchors))
    assert found["exit"] == 1
    assert [(one["number"], one["kind"]) for one in found["broken_seals"]] == [(1, "anchor"), (2, "anchor")]


def test_nothing_is_reported_after_a_replay_of_a_lean_window_whose_rows_have_changed(tampered: Tampered) -> None:
    # Given a lean window that was written, and not acked, while its users change
    create_users(3, prefix="replayed")
    window = sealed()
    loaded = load(window, environment=config().environment, max_bytes=config().window_bytes)
    tampered.store.write(loaded.rows, row_count=3, token=str(window.id))
    with connection.cursor() as cursor:
        cursor.execute("UPDATE users SET first_name = 'Changed' WHERE email LIKE 'replayed%%'")

    # When it is replayed
    assert deliver(taken_over(window), tampered.store) is Delivery.ACKED
    assert verify_receipts(tampered.store, should_stop=lambda: False) == 0

    assert audited()["exit"] == 0


def test_nothing_is_reported_after_a_window_was_halved(tampered: Tampered, knobs: Knobs) -> None:
    # Given a window that is too large, and has rows that the store refuses
    knobs(window_bytes=1024)
    before = Window.objects.count()
    write_events(['{"n": "7"}', '{"n": "seven"}', '{"n": "7"}'] * 20)
    tampered.execute("ALTER TABLE event_log ADD CONSTRAINT only_numbers CHECK (event_context NOT LIKE '%seven%')")
    try:
        assert deliver(sealed(), tampered.store) is Delivery.SPLIT
        for _ in range(15):
            expire_leases()
            recover(tampered.store, should_stop=lambda: False)
    finally:
        tampered.execute("ALTER TABLE event_log DROP CONSTRAINT only_numbers")
    assert DeadLetter.objects.count() == 20
    assert Window.objects.filter(acked_at__isnull=False).count() > before + 1

    assert verify_receipts(tampered.store, should_stop=lambda: False) == 0
    assert list(sealing.seal_all(key=""))

    found = audited()
    assert (found["exit"], found["rows"], found["unproven_windows"]) == (0, 11 + 40, 0)


def test_a_sample_of_old_windows_is_checked_every_night(tampered: Tampered) -> None:
    assert check_sample_if_due(tampered.store, should_stop=lambda: False) == 0
    tampered.update("environment = 'x'", where="outbox = 'outbox_event'")

    # Not twice in a night
    assert check_sample_if_due(tampered.store, should_stop=lambda: False) == 0
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pipeline_mark SET value = value - 1 WHERE name = 'sampled'")
    with capture_logs() as logs:
        assert check_sample_if_due(tampered.store, should_stop=lambda: False) == 1

    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["proof_contradicted"]
    assert status()["contradicted_proofs"] == 1


def test_an_audit_forgets_what_it_no_longer_finds(tampered: Tampered) -> None:
    tampered.update("environment = 'x'", where="outbox = 'outbox_event'")
    assert audited()["exit"] == 1
    assert status()["contradicted_proofs"] == 1

    tampered.update(f"environment = '{config().environment}'", where="outbox = 'outbox_event'")

    assert audited()["exit"] == 0
    assert status()["contradicted_proofs"] == 0


def test_a_window_that_stays_unsealed_is_named_and_a_younger_one_is_counted(tampered: Tampered) -> None:
    for prefix in ("c", "d"):
        create_users(1, prefix=prefix)
        assert deliver(sealed(), tampered.store) is Delivery.ACKED
    assert verify_receipts(tampered.store, should_stop=lambda: False) == 0
    found = audited()
    assert (found["exit"], found["unsealed"]) == (0, 2)

    # When one of them has waited for longer than the seals take
    old = Proof.objects.order_by("position")[4]
    Proof.objects.filter(position=old.position).update(proven_at=old.proven_at - timedelta(hours=3))

    found = audited()
    assert (found["exit"], found["unsealed"]) == (1, 2)
    assert [(one["kind"], one["window"]) for one in found["differences"]] == [("unsealed", str(old.window_id))]
    assert f"! unsealed: window {old.window_id}: it was proven 3 h ago" in here("pipeline", "verify", "--deep").stdout

    # Then a seal ends it
    assert list(sealing.seal_all(key=""))
    assert audited()["exit"] == 0


def test_a_person_accepts_a_window_as_it_is_and_every_audit_shows_it(tampered: Tampered) -> None:
    # Given a row that is edited, a month that is gone, and a stray
    row_id = stored_ids(tampered)[1]
    window = Proof.objects.filter(outbox="outbox_event").earliest("position").window_id
    tampered.drop_month("2026_04")
    tampered.update("environment = 'x'", where=f"outbox = 'outbox_event' AND outbox_id = {row_id}")
    stray = uuid4()
    copy_of(tampered, row_id, window_id=f"'{stray}'")
    assert kinds(audited()) == ["edited", "lost", "stray"]

    # When somebody accepts them
    done = here("pipeline", "verify", "--deep", "--json", "--accept", str(window), str(stray), "--reason", "restored")

    # Then audits end well, and show it; the decision is an event; and it does not license what comes later
    assert done.returncode == 0, done.stdout + done.stderr
    assert OutboxEvent.objects.filter(event_type="window_accepted").count() == 2
    amendments = audited()["amendments"]
    assert {(one["kind"], one["window"]) for one in amendments} == {("accepted", str(window)), ("accepted", str(stray))}
    assert all(one["reason"].startswith("restored (accepted by ") for one in amendments)
    tampered.update("environment = 'y'", where=f"window_id = '{stray}'")
    assert kinds(audited()) == ["edited"]


@pytest.mark.usefixtures("tampered")
def test_that_somebody_has_audited_the_log_is_an_event() -> None:
    audited()

    event = OutboxEvent.objects.get(event_type="log_audited")
    assert json.loads(event.event_context) == {
        "windows": 3,
        "rows": 11,
        "seals": 1,
        "findings": 0,
        "is_complete": True,
        "after": 0,
        "position": Proof.objects.latest("position").position,
        "since": "",
        "until": "",
        "audited_by": operator(),
    }


def test_what_is_as_it_was_proven_is_not_accepted_and_nothing_beside_it(tampered: Tampered) -> None:
    tampered.update("environment = 'x'", where="outbox = 'outbox_event'")
    edited = Proof.objects.filter(outbox="outbox_event").earliest("position").window_id
    whole = Proof.objects.latest("position").window_id

    done = here("pipeline", "verify", "--deep", "--accept", str(edited), str(whole), "--reason", "why not")

    assert done.returncode == 1
    assert f"{whole} has not changed since it was proven" in done.stderr
    assert Proof.objects.exclude(kind="verified").count() == 0
    assert here("pipeline", "verify", "--deep", "--accept", str(edited)).returncode == 2  # no reason


def stored_ids(tampered: Tampered) -> list[int]:
    """The rows of March, in their order."""
    window = Proof.objects.filter(outbox="outbox_event").earliest("position").window_id
    rows = tampered.store.row_digests(window, columns=tampered.store.covered_columns())
    return [row.outbox_id for row in rows if f"{row.month:%Y-%m}" == "2026-03"]


def rewrite_proofs(tampered: Tampered) -> None:
    """Make each proof say what the store holds, as somebody does who knows how."""
    for proof in Proof.objects.exclude(month=None):
        for one in tampered.store.window_digests([proof.window_id], columns=tampered.store.covered_columns()):
            if (one.outbox, one.month) == (proof.outbox, proof.month):
                Proof.objects.filter(position=proof.position).update(digest=bytes.fromhex(one.digest), rows=one.rows)
