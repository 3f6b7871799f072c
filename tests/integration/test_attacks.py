"""Attacks: somebody who knows how proofs work, and can write to the event store and to the ledger, is named all the
same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import connection
from pytest_django import Settings

from tests.integration.manage import here
from tests.integration.proving import EACH_STORE, STORES, OnPostgreSQL, Tampered, audited, columns
from tests.integration.rows import write_events
from tests.integration.windows import deliver, sealed
from tests.services import Services
from towpath.conf.current import config
from towpath.eventlog.values import NO_WINDOW
from towpath.flow.delivery import Delivery
from towpath.flow.verify import verify_receipts
from towpath.ledger import proofs
from towpath.ledger.models import Proof, Window
from towpath.outbox.models import OutboxEvent
from towpath.proof import sealing


@pytest.fixture(params=EACH_STORE)
def attacked(request: pytest.FixtureRequest, services: Services, settings: Settings) -> Iterator[Tampered]:
    """Two windows of long ago, the first with rows of two months; verified and sealed."""
    store: Tampered = STORES[request.param](services)
    settings.TOWPATH = replace(config(), event_store_url=store.url)
    write_events(['{"n": 1}', '{"n": 2}'], at="2020-03-31 23:59:59.999999+00")
    write_events(['{"n": 3}'], at="2020-04-01 00:00:00+00")
    assert deliver(sealed(), store.store) is Delivery.ACKED
    write_events(['{"n": 4}'], at="2020-04-01 00:00:00+00")
    assert deliver(sealed(), store.store) is Delivery.ACKED
    assert verify_receipts(store.store, should_stop=lambda: False) == 0
    seal()
    assert audited()["exit"] == 0
    OutboxEvent.objects.all().delete()  # the events about the seal and the audit
    yield store
    store.close()


def seal() -> None:
    assert list(sealing.seal_all(key=""))


def first() -> Proof:
    return Proof.objects.earliest("position")


def forge(proof: Proof, **changed: Any) -> None:
    """A proof that nobody has made, like this one, at the next position unless it says another."""
    values = {
        one.attname: getattr(proof, one.attname) for one in Proof._meta.concrete_fields if one.attname != "position"
    }
    names = ", ".join(values | changed)
    places = ", ".join(["%s"] * len(values | changed))
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO pipeline_proof ({names}) OVERRIDING SYSTEM VALUE VALUES ({places})",
            list((values | changed).values()),
        )


def copy(attacked: Tampered, context: str, **changed: str) -> None:
    """A copy of a row, with other values: SQL."""
    values = ", ".join(changed.get(name, name) for name in columns().split(", "))
    attacked.execute(
        f"INSERT INTO event_log ({columns()}) SELECT {values} FROM event_log WHERE event_context = '{context}'"
    )


def let_an_hour_pass() -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pipeline_window SET acked_at = acked_at - interval '1 hour' WHERE verified_at IS NULL")


def put_into_the_ledger(window: UUID, **times: str) -> None:
    """A window that nobody has sealed, where no recovery and no verification looks. Times are SQL, or such as 2020."""
    values = {"id": str(window), "lease_token": str(uuid4()), "rows": "{}", "dispatched_from": "2020-01-01"} | times
    values["dispatched_to"] = values["dispatched_from"]
    texts = {name: value if value.startswith("now()") else f"'{value}'" for name, value in values.items()}
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO pipeline_window (number, attempts, bytes, {', '.join(texts)})"
            f" VALUES (-1, 1, 0, {', '.join(texts.values())})"
        )


def prove_as_it_is(attacked: Tampered, window: UUID, month: str, **changed: Any) -> None:
    """Somebody has computed what the store's digests are, and put them into a proof of their own."""
    store = attacked.store
    (found,) = [
        one for one in store.window_digests([window], columns=store.covered_columns()) if f"{one.month:%Y-%m}" == month
    ]
    digest = {"window_id": window, "month": found.month, "rows": found.rows, "digest": bytes.fromhex(found.digest)}
    forge(first(), **{**digest, "digest_sum": found.digest_sum, "id_sum": found.id_sum, **changed})


def named(audit: dict[str, Any]) -> set[tuple[str, str]]:
    assert audit["exit"] == 1
    return {(one["kind"], one["window"]) for one in audit["differences"]}


def test_rows_under_the_id_that_dropped_months_have_are_stray(attacked: Tampered) -> None:
    assert here("eventlog", "retain", "--months", "24", "--yes").returncode == 0
    seal()
    write_events(["{}"])
    assert deliver(sealed(), attacked.store) is Delivery.ACKED
    assert verify_receipts(attacked.store, should_stop=lambda: False) == 0
    copy(attacked, "{}", window_id=f"'{NO_WINDOW}'")

    assert named(audited()) == {("stray", str(NO_WINDOW))}

    # And if a person lets them stand, that does not license what comes later
    accept = ("pipeline", "verify", "--deep", "--accept", str(NO_WINDOW), "--reason", "a test")
    assert here(*accept).returncode == 0
    copy(attacked, "{}", window_id=f"'{NO_WINDOW}'", outbox="'outbox_other'")
    assert named(audited()) == {("added", str(NO_WINDOW))}


def test_a_forged_dropping_of_a_window_hides_no_change_of_it(attacked: Tampered) -> None:
    attacked.update("environment = 'x'", where="event_context = '{\"n\": 1}'")
    forge(first(), kind="dropped")
    seal()

    found = audited()

    assert named(found) == {("edited", str(first().window_id))}
    assert [one["kind"] for one in found["amendments"]] == ["dropped"]


def test_a_proof_below_the_first_position_hides_no_stray(attacked: Tampered) -> None:
    window = uuid4()
    copy(attacked, '{"n": 4}', window_id=f"'{window}'")
    prove_as_it_is(attacked, window, "2020-04", position=-5)
    seal_nothing = list(sealing.seal_all(key=""))

    assert not seal_nothing
    assert ("receipt", str(window)) in named(audited())


@pytest.mark.parametrize("is_sealed", [True, False])
def test_a_forged_dropping_of_a_month_hides_nothing_that_is_still_there(attacked: Tampered, *, is_sealed: bool) -> None:
    attacked.update("environment = 'x'", where="event_context = '{\"n\": 1}'")
    window = first().window_id
    forge(first(), kind="dropped", window_id=NO_WINDOW, outbox="", rows=2, digest=b"", receipt=b"")
    prove = Proof.objects.filter(window_id=window, month="2020-03-01")
    prove.update(digest=b"rewritten")
    if is_sealed:
        seal()

    found = audited()

    assert named(found) == {("added", str(window))}
    assert "to a month that was dropped" in found["differences"][0]["detail"]


def test_a_row_that_is_added_to_a_window_of_a_dropped_month_is_named(attacked: Tampered) -> None:
    # Given a month that was dropped, whose receipts are still there
    window = first().window_id
    write_events(["{}"])
    assert deliver(sealed(), attacked.store) is Delivery.ACKED
    assert verify_receipts(attacked.store, should_stop=lambda: False) == 0
    seal()
    assert here("eventlog", "retain", "--months", "24", "--yes").returncode == 0
    seal()
    assert audited()["exit"] == 0

    # When a row of today is put into one of its windows
    copy(attacked, "{}", window_id=f"'{window}'", outbox_id="77")

    assert named(audited()) == {("added", str(window))}


@pytest.mark.parametrize("is_sealed", [True, False])
def test_a_row_that_is_added_to_a_sealed_window_with_a_proof_of_its_own_is_named(
    attacked: Tampered, *, is_sealed: bool
) -> None:
    window = Proof.objects.latest("position").window_id
    copy(attacked, '{"n": 1}', window_id=f"'{window}'", outbox_id="77")
    prove_as_it_is(attacked, window, "2020-03")
    if is_sealed:
        seal()

    found = audited()

    assert named(found) == {("receipt", str(window))}
    assert found["differences"][0]["detail"] == "an extra proof was added"


def test_a_window_with_a_forged_proof_and_without_a_receipt_is_named(attacked: Tampered) -> None:
    window = uuid4()
    copy(attacked, '{"n": 4}', window_id=f"'{window}'")
    prove_as_it_is(attacked, window, "2020-04", receipt=b"x" * 32)
    seal()

    assert named(audited()) == {("receipt", str(window))}


def test_a_receipt_that_is_removed_before_its_time_is_named(attacked: Tampered) -> None:
    window = first().window_id
    Window.objects.filter(id=window).delete()

    assert named(audited()) == {("receipt", str(window))}
    assert attacked.store.counts([window])


@pytest.mark.parametrize("change", [{"acked_at": None}, {"acked_at": None, "verified_at": None}, {"number": 10**6}])
@pytest.mark.usefixtures("attacked")
def test_a_receipt_that_is_made_an_open_window_again_is_named(change: dict[str, Any]) -> None:
    window = first().window_id
    Window.objects.filter(id=window).update(**change)

    assert named(audited()) == {("receipt", str(window))}


def test_a_window_that_is_kept_from_verification_is_named(attacked: Tampered) -> None:
    # Given a mark above all windows, below which nobody looks for receipts
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO pipeline_mark (name, version, value) VALUES ('verified', 1 << 30, 1 << 30)")
    write_events(['{"n": 5}'], at="2020-04-01 00:00:00+00")
    window = sealed()
    assert deliver(window, attacked.store) is Delivery.ACKED
    assert verify_receipts(attacked.store, should_stop=lambda: False) == 0
    attacked.update("environment = 'x'", where="event_context = '{\"n\": 5}'")
    let_an_hour_pass()

    assert named(audited()) == {("unverified", str(window.id))}


def test_a_receipt_that_the_store_contradicts_is_named(attacked: Tampered) -> None:
    write_events(['{"n": 5}', '{"n": 6}'], at="2020-04-01 00:00:00+00")
    window = sealed()
    assert deliver(window, attacked.store) is Delivery.ACKED
    attacked.delete(where="event_context = '{\"n\": 5}'")
    assert verify_receipts(attacked.store, should_stop=lambda: False) == 1
    let_an_hour_pass()

    found = audited()

    assert named(found) == {("unverified", str(window.id))}
    assert (
        found["differences"][0]["detail"] == "outbox_event: 1 of 2 stored, the stored bytes differ from the loaded ones"
    )


@pytest.mark.parametrize(
    "times",
    [
        {"sealed_at": "2020-01-01", "lease_until": "2020-01-01"},
        {"sealed_at": "infinity", "lease_until": "infinity"},
        {"sealed_at": "2020-01-01", "lease_until": "2020-01-01", "acked_at": "infinity"},
    ],
)
def test_a_window_that_somebody_has_put_into_the_ledger_hides_no_stray(
    attacked: Tampered, times: dict[str, str]
) -> None:
    window = uuid4()
    copy(attacked, '{"n": 4}', window_id=f"'{window}'", outbox_id="77")
    put_into_the_ledger(window, **times)

    assert named(audited()) == {("unverified", str(window))}


@pytest.mark.parametrize(
    "times",
    [
        {"sealed_at": "2020-01-01", "lease_until": "now() + interval '10 seconds'"},
        {"sealed_at": "now() - interval '50 minutes'", "lease_until": "now() - interval '49 minutes'"},
    ],
)
def test_rows_of_a_window_that_is_on_its_way_are_not_named(attacked: Tampered, times: dict[str, str]) -> None:
    window = uuid4()
    copy(attacked, '{"n": 4}', window_id=f"'{window}'", outbox_id="77")
    put_into_the_ledger(window, **times)

    assert audited()["exit"] == 0


def test_a_changed_receipt_is_accepted_by_a_person_and_by_nothing_else(attacked: Tampered) -> None:
    # Given a receipt that is changed, and an amendment that is not about it
    window = first().window_id
    Window.objects.filter(id=window).update(bytes=7)
    stored = attacked.store.window_digests([window], columns=attacked.store.covered_columns())
    proofs.amend(stored, kind="erased", columns=attacked.store.covered_columns(), reason="")
    assert named(audited()) == {("receipt", str(window))}

    # When a person accepts it
    done = here("pipeline", "verify", "--deep", "--accept", str(window), "--reason", "repaired by hand")

    # Then audits end well until it is changed again
    assert done.returncode == 0, done.stdout + done.stderr
    assert audited()["exit"] == 0
    Window.objects.filter(id=window).update(bytes=8)
    assert named(audited()) == {("receipt", str(window))}


def test_a_changed_receipt_of_a_window_without_rows_is_accepted(attacked: Tampered) -> None:
    write_events(["{}"])
    window = sealed()
    OutboxEvent.objects.all().delete()
    assert deliver(window, attacked.store) is Delivery.ACKED
    assert verify_receipts(attacked.store, should_stop=lambda: False) == 0
    Window.objects.filter(id=window.id).update(bytes=7)
    assert named(audited()) == {("receipt", str(window.id))}

    done = here("pipeline", "verify", "--deep", "--accept", str(window.id), "--reason", "repaired by hand")

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("attacked")
def test_a_forged_amendment_of_no_month_is_shown() -> None:
    forge(first(), kind="accepted", window_id=NO_WINDOW, month=None, reason="nobody's")

    done = here("pipeline", "verify", "--deep")

    assert done.returncode == 1
    assert "amended: accepted 2 row(s) of no month: nobody's" in done.stdout


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ("pipeline_proof SET proven_at = '20000-01-01 00:00:00+00'", "proofs"),
        ("pipeline_proof SET dispatched_at = '0044-03-15 00:00:00+00 BC'", "proofs"),
        ("pipeline_proof SET month = '20000-01-01'", "proofs"),
        ("pipeline_seal SET sealed_at = '20000-01-01 00:00:00+00'", "rewritten"),
    ],
)
@pytest.mark.usefixtures("attacked")
def test_a_value_that_python_cannot_hold_does_not_end_an_audit(change: str, kind: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {change}")

    found = audited()

    assert (found["exit"], found["is_complete"]) == (1, True)
    assert {one["kind"] for one in found["broken_seals"]} == {kind}


def test_a_changed_row_is_named_without_the_sums_that_would_say_which(attacked: Tampered) -> None:
    attacked.update("environment = 'x'", where="event_context = '{\"n\": 1}'")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pipeline_proof SET digest_sum = 'NaN', id_sum = 'NaN'")

    assert named(audited()) == {("edited", str(first().window_id))}


def test_no_name_and_no_reason_can_hide_a_line_of_an_audit(attacked: Tampered) -> None:
    hide = "\x1b[2K\x1b[1A\nnothing contradicts the ledger\u202e"
    forge(first(), kind="accepted", reason=hide)
    copy(
        attacked,
        '{"n": 4}',
        window_id=f"'{uuid4()}'",
        outbox="concat('a', char(27), '[2K')" if "clickhouse" in attacked.url else "'a' || chr(27) || '[2K'",
    )

    printed = here("pipeline", "verify", "--deep").stdout

    assert "\x1b" not in printed
    assert ": \\x1b[2K\\x1b[1A\\nnothing contradicts the ledger\\u202e\n" in printed
    assert "! stray: 1 row(s) of a\\x1b[2K (" in printed


@pytest.mark.usefixtures("attacked")
def test_a_forged_amendment_is_shown_behind_many_others() -> None:
    for number in range(22):
        forge(Proof.objects.latest("position"), kind="accepted", reason=f"reason {number}.")

    printed = here("pipeline", "verify", "--deep").stdout

    assert "amended: 2 earlier, see --json" in printed
    assert "reason 21." in printed
    assert "reason 1." not in printed


def test_coverage_that_is_rewritten_or_removed_breaks_the_seal(attacked: Tampered) -> None:
    attacked.update("environment = 'x'", where="event_context = '{\"n\": 1}'")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pipeline_coverage SET columns = replace(columns, 'environment,', '')")
    assert {one["kind"] for one in audited()["broken_seals"]} == {"proofs"}

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT conname FROM pg_constraint WHERE contype = 'f' AND conrelid = 'pipeline_proof'::regclass"
        )
        ((constraint,),) = cursor.fetchall()
        cursor.execute(f"ALTER TABLE pipeline_proof DROP CONSTRAINT {constraint}")
        cursor.execute("UPDATE pipeline_coverage SET id = id + 1000")
    try:
        assert {one["kind"] for one in audited()["broken_seals"]} == {"proofs"}
    finally:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE pipeline_coverage SET id = id - 1000")
            cursor.execute(
                f"ALTER TABLE pipeline_proof ADD CONSTRAINT {constraint} FOREIGN KEY (coverage_id)"
                " REFERENCES pipeline_coverage (id) DEFERRABLE INITIALLY DEFERRED"
            )


@pytest.mark.parametrize("time", ["infinity", "-infinity", "0044-03-15 00:00:00+00 BC", "20000-01-01 00:00:00+00"])
def test_a_row_of_a_time_that_no_event_has_is_named(services: Services, settings: Settings, time: str) -> None:
    store = OnPostgreSQL(services)
    settings.TOWPATH = replace(config(), event_store_url=store.url)
    store.execute("CREATE TABLE event_log_rest PARTITION OF event_log DEFAULT")
    try:
        window = uuid4()
        store.execute(
            "INSERT INTO event_log (event_type, event_date_time, environment, event_context, metadata_version, outbox,"
            f" outbox_id, window_id) VALUES ('x', '{time}', 'x', '{{}}', 1, 'outbox_event', 1, '{window}')"
        )

        assert named(audited()) == {("stray", str(window))}
    finally:
        store.execute("DROP TABLE event_log_rest")
        store.close()
