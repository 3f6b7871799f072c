"""Erasure: fields of one person's events are masked in the event store, on both stores, and nothing else changes.
Proofs are amended, so that audits end well; what somebody else has changed is never covered up."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from django.db import connection
from pytest_django import Settings
from structlog.testing import capture_logs

from tests.integration.erasing import (
    JANE,
    JOHN,
    MAIL,
    ODD,
    contexts,
    deliver_and_verify,
    erase,
    refusal,
    run,
    stored,
    write_as,
)
from tests.integration.manage import here, status
from tests.integration.proving import Tampered, audited, copy_of
from tests.integration.windows import deliver, sealed
from towpath.conf.current import config
from towpath.eventlog.errors import StoreUnavailable
from towpath.eventlog.query import parse
from towpath.flow.delivery import Delivery
from towpath.flow.verify import verify_receipts
from towpath.ledger import sampling, seals
from towpath.ledger.models import ContradictedWindow, Proof
from towpath.management.operator import operator
from towpath.outbox.event import hashed
from towpath.outbox.models import OutboxEvent
from towpath.proof.sample import check_sample_if_due


def test_a_field_of_one_persons_events_is_masked_and_every_other_byte_stays(erased: Tampered) -> None:
    before = stored(erased)

    answer = erase("--actor", JANE)

    assert answer == {
        "is_dry_run": False,
        "rows": 3,
        "windows": 2,
        "undelivered": 0,
        "on_their_way": 0,
        "context_fields": ["email", "n"],
        "exit": 0,
    }
    assert contexts(erased, JANE) == [
        '{"email": "***", "n": 1}',
        ODD.replace('"j\\u0061ne.doe@example.com"', '"***"'),
        '{"n": 2}',
        '{"email": "***", "n": 3}',
    ]
    after = stored(erased)
    assert {row for row in before if after[row] != before[row]} == {
        row for row, text in before.items() if JANE in text and "email" in text
    }


def test_an_audit_ends_well_and_shows_the_amendments(erased: Tampered) -> None:
    erase("--actor", JANE)

    found = audited()

    assert found["exit"] == 0, found
    assert sorted((one["kind"], one["month"], one["rows"]) for one in found["amendments"]) == [
        ("erased", "2026-03", 3),
        ("erased", "2026-04", 2),
    ]
    reason = f"context.email of actor:{hashed(JANE)}: asked (erased by "
    assert all(one["reason"].startswith(reason) for one in found["amendments"])
    assert here("pipeline", "verify").returncode == 0
    # The proofs before stay, and so do the seals over them
    assert Proof.objects.filter(kind="verified").count() == 3
    erased.update("environment = 'x'", where=f"actor = '{JANE}'")
    assert {one["kind"] for one in audited()["differences"]} == {"edited"}


@pytest.mark.usefixtures("erased")
def test_who_and_why_is_an_event_that_does_not_say_whose() -> None:
    erase("--where", f"context.email:{MAIL}")

    event = OutboxEvent.objects.get(event_type="events_erased")

    context = json.loads(event.event_context)
    assert context["query"] == f"context.email:{hashed(MAIL)}"
    assert (context["rows"], context["windows"], context["undelivered"]) == (4, 2, 0)
    assert (context["fields"], context["reason"]) == (["context.email"], "asked")
    assert context["erased_by"]


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        (("--target", JOHN), 2),
        (("--where", f'request_id:"request of {JANE}"'), 3),
        (("--where", f"context.email:{MAIL}"), 4),  # also written with escapes
        (("--actor", JOHN, "--where", f"context.email:{MAIL}"), 1),
        (("--actor", JANE, "--where", "context.n:9007199254740993"), 1),
        (("--where", "context.deep.to:é"), 1),
        (("--where", "context.email:nobody"), 0),
        (("--where", "context.email.x:1"), 0),
        (("--where", "context.n>2 OR context.email:john@*"), 4),
        (("--where", f"has:context.email -actor:{JANE}"), 2),
        (("--where", "time:2026-03 (EXAMPLE -John OR outcome:denied)"), 2),
        (("--where", f"actor:{JANE}", "--where", "-(context.n:1,3 OR time<2026-01)"), 1),
        (("--actor", JANE, "--target", JOHN), 0),
    ],
)
def test_events_are_found_by_what_all_conditions_say(erased: Tampered, condition: tuple[str, ...], rows: int) -> None:
    assert erase(*condition)["rows"] == rows
    assert "".join(contexts(erased, JANE) + contexts(erased, JOHN)).count('"***"') == rows
    assert audited()["exit"] == 0


def test_a_whole_context_and_columns_are_masked(erased: Tampered) -> None:
    others = {row: text for row, text in stored(erased).items() if JANE not in text}

    answer = erase("--actor", JANE, fields=("context", "actor", "target", "ip", "request_id"))

    assert answer["rows"] == 4
    after = stored(erased)
    assert {row: after[row] for row in others} == others
    assert contexts(erased, "***") == ['{"erased":true}'] * 4
    for text in (JANE, MAIL, "request of user:jane", "9007199254740993"):
        assert not [row for row in after.values() if text in row and row not in others.values()]
    assert audited()["exit"] == 0
    assert erase("--actor", JANE, fields=("context",))["rows"] == 0


def test_nothing_of_an_erased_value_is_said_anywhere(erased: Tampered) -> None:
    erase("--actor", JOHN)  # who has the same address
    with capture_logs() as logs:
        done = here(
            "eventlog",
            "erase",
            "--actor",
            JANE,
            "--where",
            f"context.email:{MAIL}",
            "--fields",
            "context.email",
            "actor",
            "target",
            "request_id",
            "--reason",
            "asked",
            "--yes",
        )
    assert done.returncode == 0
    write_as(JOHN, ["{}"])
    deliver_and_verify(erased)

    everything = [
        done.stdout,
        done.stderr,
        json.dumps(logs, default=str),
        json.dumps(list(OutboxEvent.objects.values()), default=str),
        json.dumps([*Proof.objects.values("reason"), *ContradictedWindow.objects.values("contradiction")]),
        *(text for text in stored(erased).values() if "'n\": 2" not in text and 'n": 2' not in text),
    ]
    for text in everything:
        assert MAIL not in text
        assert JANE not in text


def readings() -> list[dict[str, Any]]:
    events = OutboxEvent.objects.filter(event_type="log_read").order_by("id")
    return [json.loads(event.event_context) for event in events]


@pytest.mark.usefixtures("erased")
def test_a_look_at_a_persons_events_is_recorded_even_if_nothing_is_erased(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look = ("eventlog", "erase", "--fields", "ip", "--actor")
    here(*look, JANE, "--reason", "ticket 1", "--dry-run")
    monkeypatch.setattr("builtins.input", lambda _question: "no")
    declined = here(*look, JANE, "--reason", "ticket 2")
    nobody = here(*look, "nobody", "--reason", "ticket 3")

    assert (declined.returncode, nobody.stdout) == (1, "nothing to erase\n")
    found = readings()
    assert [(one["tool"], one["rows"] > 0, one["read_by"]) for one in found] == [
        ("eventlog erase", True, operator()),
        ("eventlog erase", True, operator()),
        ("eventlog erase", False, operator()),
    ]
    # It says what was asked and why, and not who it was about
    hashed_query = f"actor:{hashed(JANE)}"
    assert found[0]["detail"] == f"dry run, ip of {hashed_query}: ticket 1"
    assert found[1]["detail"] == f"ip of {hashed_query}: ticket 2"
    assert JANE not in json.dumps(found)


def test_a_dry_run_says_how_much_it_is_and_changes_nothing(erased: Tampered) -> None:
    write_as(JANE, [json.dumps({"email": MAIL})])
    before = stored(erased)

    answer = erase("--actor", JANE, "--dry-run")
    done = here("eventlog", "erase", "--actor", JANE, "--fields", "context.email", "--reason", "x", "--dry-run")

    assert (answer["rows"], answer["windows"], answer["undelivered"]) == (3, 2, 1)
    assert "3 stored event(s) of 2 window(s) and 1 undelivered event(s) would be masked" in done.stdout
    assert "fields of the first context: email, n" in done.stdout
    assert MAIL not in done.stdout
    assert stored(erased) == before
    assert not Proof.objects.filter(kind="erased").exists()
    assert OutboxEvent.objects.exclude(event_type="log_read").count() == 1


def test_a_run_that_ends_before_the_store_is_rewritten_is_completed_without_a_second_amendment(
    erased: Tampered, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a run that is interrupted after its commit
    def dies(*_: object, **__: object) -> None:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(type(erased.store), "rewrite", dies)
        done = run("--actor", JANE)
    assert done.returncode == 1
    assert contexts(erased, JANE)[0] == json.dumps({"email": MAIL, "n": 1})
    assert audited()["exit"] == 1

    # When another comes first, it is refused; when the same runs again, it is completed
    assert "run that one again first" in refusal("--actor", JANE, "--where", "context.n:1")
    answer = erase("--actor", JANE)

    # Then it is as if nothing had happened
    assert (answer["rows"], answer["exit"]) == (3, 0)
    assert Proof.objects.filter(kind="erased").count() == 2
    assert OutboxEvent.objects.filter(event_type="events_erased").count() == 1
    assert contexts(erased, JANE)[0] == '{"email": "***", "n": 1}'
    assert audited()["exit"] == 0


def test_what_a_check_finds_of_an_interrupted_run_is_forgotten_with_its_completion(
    erased: Tampered, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a run that is interrupted after its commit, and the check of the night after that
    def dies(*_: object, **__: object) -> None:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(type(erased.store), "rewrite", dies)
        assert run("--actor", JANE).returncode == 1
    assert check_sample_if_due(erased.store, should_stop=lambda: False) == 2
    assert status()["contradicted_proofs"] == 2

    # When the run is completed
    assert erase("--actor", JANE)["exit"] == 0

    # Then it is an alarm no longer
    assert status()["contradicted_proofs"] == 0


def test_a_window_that_is_as_it_was_proven_again_is_no_alarm_after_the_next_night(
    erased: Tampered, monkeypatch: pytest.MonkeyPatch
) -> None:
    erased.update("environment = 'x'", where=f"actor = '{JOHN}'")
    assert check_sample_if_due(erased.store, should_stop=lambda: False) == 2
    of_march = f"actor = '{JOHN}' AND event_date_time < '2026-04-01'"
    erased.update(f"environment = '{config().environment}'", where=of_march)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pipeline_mark SET value = value - 1 WHERE name = 'sampled'")
    # None of them is chosen by chance
    monkeypatch.setattr(sampling, "choose_windows", lambda _count: [])

    with capture_logs() as logs:
        assert check_sample_if_due(erased.store, should_stop=lambda: False) == 1

    assert [line["event"] for line in logs] == ["proof_holds_again", "sample_checked"]
    assert status()["contradicted_proofs"] == 1


def test_a_run_that_ends_in_the_middle_of_the_rewriting_is_completed(
    erased: Tampered, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a run that has rewritten one of two rows of a window, and died
    rewrite = type(erased.store).rewrite

    def dies(store: Any, rows: Any, **mask: str) -> None:
        rewrite(store, rows[:1], **mask)
        raise StoreUnavailable("gone")

    with monkeypatch.context() as patched:
        patched.setattr(type(erased.store), "rewrite", dies)
        assert run("--actor", JANE, fields=("context.email", "actor")).returncode == 1

    answer = erase("--actor", JANE, fields=("context.email", "actor"))

    assert (answer["rows"], answer["exit"]) == (3, 0)
    assert contexts(erased, JANE) == []
    assert Proof.objects.filter(kind="erased").count() == 3
    assert audited()["exit"] == 0


def test_a_run_that_ends_before_its_commit_has_changed_nothing(
    erased: Tampered, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = write_as(JANE, [json.dumps({"email": MAIL})])
    before = stored(erased)

    def dies(*_: object, **__: object) -> None:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as patched:
        patched.setattr("towpath.proof.erasure.publish", dies)
        assert run("--actor", JANE).returncode == 1

    assert stored(erased) == before
    assert MAIL in OutboxEvent.objects.get(id=row[0]).event_context
    assert not Proof.objects.filter(kind="erased").exists()
    assert audited()["exit"] == 0


def test_a_window_that_somebody_has_changed_is_refused_and_nothing_is_erased(erased: Tampered) -> None:
    # The row that is changed is another's, in the window of one of Jane's
    erased.update('event_context = \'{"email": "x"}\'', where=f"actor = '{JOHN}' AND event_date_time < '2026-04-01'")
    before = stored(erased)
    waiting = write_as(JANE, [json.dumps({"email": MAIL})])

    assert "has changed since it was proven: see `pipeline verify --deep`" in refusal("--actor", JANE)

    assert stored(erased) == before
    assert MAIL in OutboxEvent.objects.get(id=waiting[0]).event_context
    assert not Proof.objects.filter(kind="erased").exists()


def test_a_row_that_was_put_into_a_proven_window_is_refused(erased: Tampered) -> None:
    erased.update(f"actor = '{JANE}'", where=f"actor = '{JOHN}'")

    assert "has changed since it was proven" in refusal("--actor", JANE)


@pytest.mark.parametrize("erased", ["postgresql"], indirect=True)
def test_rows_that_somebody_has_put_a_null_into_are_refused_with_the_next_step(erased: Tampered) -> None:
    windows = [window for month in erased.store.months() for window in erased.store.windows_of(month)]
    jane = next(row.outbox_id for row in erased.store.read_rows(windows, parse(f'actor:"{JANE}"')))
    for column, words in (("window_id", "has no receipt"), ("outbox_id", "has a NULL")):
        erased.execute(f"ALTER TABLE event_log ALTER {column} DROP NOT NULL")
        try:
            copy_of(erased, jane, **{column: "NULL"})
            assert words in (said := refusal("--actor", JANE))
            assert "`pipeline verify --deep`" in said
        finally:
            erased.delete(where=f"{column} IS NULL")
            erased.execute(f"ALTER TABLE event_log ALTER {column} SET NOT NULL")

    assert erase("--actor", JANE)["rows"] == 3


@pytest.mark.parametrize("erased", ["postgresql"], indirect=True)
def test_a_null_that_was_there_before_the_verification_is_refused_with_the_next_step(
    erased: Tampered, settings: Settings
) -> None:
    settings.TOWPATH = replace(config(), compare_loaded=False)
    erased.execute("ALTER TABLE event_log ALTER environment DROP NOT NULL")
    write_as(JANE, [json.dumps({"email": MAIL})], at="2026-04-03 00:00:00+00")
    assert deliver(sealed(), erased.store) is Delivery.ACKED
    erased.update("environment = NULL", where="event_date_time >= '2026-04-03'")
    assert verify_receipts(erased.store, should_stop=lambda: False) == 0
    try:
        said = refusal("--actor", JANE)
    finally:
        erased.delete(where="environment IS NULL")
        erased.execute("ALTER TABLE event_log ALTER environment SET NOT NULL")

    assert "a row of it has a NULL that somebody has put there: see `pipeline verify --deep`" in said


def test_a_window_that_is_not_verified_yet_is_refused(erased: Tampered) -> None:
    write_as(JANE, [json.dumps({"email": MAIL})])
    assert deliver(sealed(), erased.store) is Delivery.ACKED

    assert "is not verified yet: wait a minute" in refusal("--actor", JANE)

    assert verify_receipts(erased.store, should_stop=lambda: False) == 0
    assert erase("--actor", JANE)["rows"] == 4


def test_a_context_that_is_not_json_is_erased_as_a_whole_only(erased: Tampered) -> None:
    write_as(JANE, ["no JSON"])

    assert "the context is not JSON. Erase all of it (--fields context)" in refusal("--actor", JANE)

    deliver_and_verify(erased)
    assert "the context is not JSON. Erase all of it (--fields context)" in refusal("--actor", JANE)
    assert erase("--where", 'context.email:"no JSON"')["rows"] == 0
    assert erase("--actor", JANE, fields=("context",))["rows"] == 5


@pytest.mark.usefixtures("erased")
def test_a_proof_that_is_amended_meanwhile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = seals.lock

    def amended_meanwhile() -> None:
        lock()
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO pipeline_proof (kind, window_id, outbox, month, rows, digest, digest_sum, id_sum,"
                " coverage_id, receipt, dispatched_at, proven_at) SELECT 'accepted', window_id, outbox, month, rows,"
                " digest, digest_sum, id_sum, coverage_id, receipt, dispatched_at, proven_at FROM pipeline_proof"
            )

    monkeypatch.setattr(seals, "lock", amended_meanwhile)

    assert "a proof was amended in the meantime: run this again" in refusal("--actor", JANE)
    assert not Proof.objects.filter(kind="erased").exists()


def test_a_store_that_has_not_rewritten_the_rows_is_found_out(
    erased: Tampered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(erased.store), "rewrite", lambda *_args, **_mask: None)

    assert "does not hold the masked rows yet: run this again" in refusal("--actor", JANE)


def test_who_may_not_rewrite_rows_changes_nothing(erased: Tampered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(erased.store), "keeping_problems", lambda _store, change: [f"may not {change}"])
    before = stored(erased)

    assert refusal("--actor", JANE) == "Nothing was changed: may not rewrite.\n"

    assert stored(erased) == before
    assert not Proof.objects.filter(kind="erased").exists()
    assert erase("--actor", JANE, "--dry-run")["rows"] == 3


def test_nothing_is_erased_without_a_word_of_consent(erased: Tampered, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_question: str) -> str:
        raise EOFError

    before = stored(erased)
    arguments = ("eventlog", "erase", "--actor", JANE, "--fields", "context.email", "--reason", "asked")
    for answer in (nobody, lambda _question: "yes"):
        monkeypatch.setattr("builtins.input", answer)
        done = here(*arguments)
        assert done.returncode == 1
        assert "Nothing was changed" in done.stderr
    assert stored(erased) == before

    monkeypatch.setattr("builtins.input", lambda _question: "erase")
    assert "3 stored event(s) of 2 window(s) masked: context.email" in here(*arguments).stdout
    assert "nothing to erase" in here(*arguments).stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--fields", "context.email"), "say whose events"),
        (("--actor", "", "--fields", "context.email"), "an empty value"),
        (("--where", "", "--fields", "context.email"), "an empty query would find everyone's events"),
        (("--where", "ip:a actr:b", "--fields", "context.email"), "ip:a actr:b\n     ^ There is no column actr."),
        (("--where", "context.email=x", "--fields", "context.email"), "Write context.email:value"),
        (("--where", "written_at>2026-01", "--fields", "context.email"), "cannot select events to erase"),
        (("--actor", "a", "--fields", "outbox"), "not a field to erase"),
        (("--actor", "a", "--fields", "outcome"), "not a field to erase"),
        (("--actor", "a", "--fields", "context..email"), "not a field to erase"),
        (("--actor", "a", "--fields", "context.email", "--reason", " "), "Say why"),
    ],
)
def test_wrong_usage_says_what_to_write(arguments: tuple[str, ...], problem: str) -> None:
    done = here("eventlog", "erase", "--reason", "asked", *arguments, "--yes")

    assert done.returncode == 2
    assert problem in done.stderr
