"""Erasure: fields of one person's events are masked wherever they are, on both stores, and nothing else changes. Proofs
are amended, so that audits end well; what somebody else has changed is never covered up."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.db import connection, models, transaction
from django.test.utils import isolate_apps
from pytest_django import Settings
from structlog.testing import capture_logs

from tests.integration.manage import here, status
from tests.integration.proving import EACH_STORE, STORES, Tampered, audited
from tests.integration.rows import create_users
from tests.integration.windows import deliver, dispatched, seal, sealed, taken_over
from tests.services import Services
from towpath.conf.current import config
from towpath.eventlog.errors import StoreUnavailable
from towpath.eventlog.query import Query, parse
from towpath.flow.delivery import Delivery
from towpath.flow.verify import verify_receipts
from towpath.ledger import sampling, seals
from towpath.ledger.models import DeadLetter, Proof
from towpath.management.operator import operator
from towpath.outbox.event import hashed
from towpath.outbox.models import FrozenOutbox, OutboxEvent, all_outboxes
from towpath.proof import sealing, undelivered
from towpath.proof.sample import check_sample_if_due

JANE, JOHN = "user:jane-4711", "user:john-0815"
MAIL = "jane.doe@example.com"
#: Spaces, escapes and numbers as no program of ours would write them.
ODD = '{ "n": 9007199254740993,"email":"j\\u0061ne.doe@example.com",  "deep": {"to": ["\\u00e9", 1.10]}, "ü": "\\n" }'


with isolate_apps("backend.users"):

    class OutboxOwn(FrozenOutbox):
        email = models.TextField()
        note = models.TextField()

        class Meta(FrozenOutbox.Meta):
            app_label = "users"
            db_table = "outbox_own"


@pytest.fixture(params=EACH_STORE)
def erased(request: pytest.FixtureRequest, services: Services, settings: Settings) -> Iterator[Tampered]:
    """Two windows with events of Jane and of John, in two months; verified, and sealed."""
    store: Tampered = STORES[request.param](services)
    settings.TOWPATH = replace(config(), event_store_url=store.url)
    write_as(JANE, [json.dumps({"email": MAIL, "n": 1}), ODD], at="2026-03-31 23:59:59.999999+00")
    write_as(JOHN, ['{"email": "john@example.com"}'], at="2026-03-31 23:59:59.999999+00")
    write_as(JANE, ['{"n": 2}'], at="2026-04-01 00:00:00+00")
    deliver_and_verify(store)
    write_as(JANE, [json.dumps({"email": MAIL, "n": 3})], at="2026-04-02 00:00:00+00")
    write_as(JOHN, [json.dumps({"email": MAIL, "n": 4})], at="2026-04-02 00:00:00+00")
    deliver_and_verify(store)
    assert list(sealing.seal_all(key=""))
    OutboxEvent.objects.all().delete()  # the event about the seal
    yield store
    store.close()


@pytest.fixture
def own_outbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An outbox with columns of its own."""
    with connection.schema_editor() as editor:
        editor.create_model(OutboxOwn)
    monkeypatch.setattr(undelivered, "all_outboxes", lambda: {**all_outboxes(), "outbox_own": OutboxOwn})
    yield
    with connection.schema_editor() as editor:
        editor.delete_model(OutboxOwn)


def write_as(actor: str, contexts: list[str], *, at: str = "2026-04-03 00:00:00+00") -> list[int]:
    """Events of a person, as text that nobody has formed anew; their ids."""
    bound = json.dumps({"actor": actor, "target": actor, "ip": "192.0.2.7", "request_id": f"request of {actor}"})
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO outbox_event (event_type, event_date_time, event_context, metadata_version, bound)
            SELECT 'tested', %s::timestamptz, context, 1, %s::jsonb
            FROM unnest(%s::text[]) WITH ORDINALITY AS t (context, n) ORDER BY n RETURNING id
            """,
            [at, bound, contexts],
        )
        return [row_id for (row_id,) in cursor.fetchall()]


def deliver_and_verify(store: Tampered) -> None:
    assert deliver(sealed(), store.store) is Delivery.ACKED
    assert verify_receipts(store.store, should_stop=lambda: False) == 0


def run(*arguments: str, fields: tuple[str, ...] = ("context.email",)) -> subprocess.CompletedProcess[str]:
    return here("eventlog", "erase", *arguments, "--fields", *fields, "--reason", "asked", "--yes")


def erase(*arguments: str, fields: tuple[str, ...] = ("context.email",)) -> dict[str, Any]:
    done = run(*arguments, "--json", fields=fields)
    assert done.stdout, done.stderr
    return {**json.loads(done.stdout), "exit": done.returncode}


def refusal(*arguments: str) -> str:
    done = run(*arguments)
    assert done.returncode == 1
    assert not done.stdout
    return done.stderr


def stored(store: Tampered) -> dict[str, str]:
    """Every column of every row as one text, by outbox and id."""
    windows = {window for month in store.store.months() for window in store.store.windows_of(month)}
    rows = store.store.read_rows(sorted(windows), Query())
    return {f"{row.outbox} {row.outbox_id}": repr(row) for row in rows}


def contexts(store: Tampered, actor: str) -> list[str]:
    windows = {window for month in store.store.months() for window in store.store.windows_of(month)}
    rows = store.store.read_rows(sorted(windows), parse(f'actor:"{actor}"'))
    return [row.event_context for row in sorted(rows, key=lambda row: row.outbox_id)]


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
        json.dumps(list(Proof.objects.values("reason", "contradiction"))),
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


def test_a_window_that_is_not_verified_yet_is_refused(erased: Tampered) -> None:
    write_as(JANE, [json.dumps({"email": MAIL})])
    assert deliver(sealed(), erased.store) is Delivery.ACKED

    assert "is not verified yet: wait a minute" in refusal("--actor", JANE)

    assert verify_receipts(erased.store, should_stop=lambda: False) == 0
    assert erase("--actor", JANE)["rows"] == 4


def test_what_is_not_delivered_yet_is_masked_in_its_outbox(erased: Tampered) -> None:
    mine, odd, others = write_as(JANE, [json.dumps({"email": MAIL}), ODD, '{"n": 5}'])
    (johns,) = write_as(JOHN, [json.dumps({"email": MAIL})])
    before = {row["id"]: row for row in OutboxEvent.objects.values()}

    answer = erase("--actor", JANE, fields=("context.email", "ip"))

    assert (answer["rows"], answer["undelivered"], answer["on_their_way"], answer["exit"]) == (4, 3, 0, 0)
    after = {row["id"]: row for row in OutboxEvent.objects.values()}
    assert after[johns] == before[johns]
    assert after[mine]["event_context"] == '{"email": "***"}'
    assert after[odd]["event_context"] == ODD.replace('"j\\u0061ne.doe@example.com"', '"***"')
    assert after[others]["bound"] == (before[others]["bound"] or {}) | {"ip": "***"}
    assert after[mine]["xid"] == before[mine]["xid"]

    # And it is delivered as that
    deliver_and_verify(erased)
    assert '{"email": "***"}' in contexts(erased, JANE)
    assert audited()["exit"] == 0
    assert erase("--actor", JANE, fields=("context.email", "ip"))["rows"] == 0


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("context.email:*@x.example OR context.n>=5", 2),
        (f"-context.n:5 actor:{JANE}", 2),
        ('"N\\": 5"', 1),
        (
            f"outbox:outbox_event environment:{config().environment} type:tested metadata_version:1 -has:context.email",
            2,
        ),
        ("time>=2026-04-03 time<2026-04-04 target:user:* has:ip -has:outcome", 3),
        (f"actor:{JOHN},{JANE} actor:{JANE},x request_id:*4711", 3),
        ("time<2026-04-03 OR outbox:outbox_user OR actor:user:* actor:x", 0),
    ],
)
def test_a_query_finds_the_same_events_before_and_after_they_are_stored(
    erased: Tampered, query: str, count: int
) -> None:
    first, *_ = write_as(JANE, ['{"email": "j\\u0061ne@x.example"}', '{"n": 5}', '{"n": [1, 4]}'])
    condition = ("--where", f"outbox_id>={first} ({query})", "--dry-run")

    before = erase(*condition, fields=("context",))
    deliver_and_verify(erased)
    after = erase(*condition, fields=("context",))

    assert (before["rows"], before["undelivered"]) == (0, count)
    assert (after["rows"], after["undelivered"]) == (count, 0)


@pytest.mark.usefixtures("erased")
def test_a_dead_letter_is_masked_where_it_waits() -> None:
    (row_id,) = write_as(JANE, [json.dumps({"email": MAIL})])
    batch = dispatched()
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM pipeline_batch WHERE id = ANY(%s)", [batch])
        cursor.execute(
            "INSERT INTO pipeline_deadletter (outbox, row_id, error, window_id, at)"
            " VALUES ('outbox_event', %s, 'refused', gen_random_uuid(), now())",
            [row_id],
        )

    answer = erase("--actor", JANE)

    assert (answer["undelivered"], answer["on_their_way"], answer["exit"]) == (1, 0, 0)
    assert OutboxEvent.objects.get(id=row_id).event_context == '{"email": "***"}'
    assert DeadLetter.objects.count() == 1


def test_an_event_that_a_worker_has_loaded_is_told_of_and_found_by_the_next_run(erased: Tampered) -> None:
    # Given a window that a worker has written as it was, and not acked
    write_as(JANE, [json.dumps({"email": MAIL, "n": 6})])
    window = seal(dispatched())
    assert window is not None

    # When its event is erased
    done = run("--actor", JANE)

    # Then that is said, and the same command is good for what is stored by then
    assert done.returncode == 1
    assert "1 of these events may be stored unmasked: run the same command again" in done.stdout
    assert deliver(taken_over(window), erased.store) is Delivery.ACKED
    assert verify_receipts(erased.store, should_stop=lambda: False) == 0
    assert erase("--actor", JANE)["exit"] == 0
    assert MAIL not in "".join(contexts(erased, JANE))


def test_an_event_of_a_lean_outbox_is_erased_once_it_is_stored(erased: Tampered) -> None:
    create_users(1, prefix="jane")
    with connection.cursor() as cursor:
        cursor.execute("UPDATE outbox_user SET bound = %s::jsonb", [json.dumps({"actor": JANE, "ip": "192.0.2.7"})])

    for query, count in (("context.email:jane1@*", 1), ("jane1 type:user_created", 1), ("context.email:x", 0)):
        assert erase("--where", query, "--dry-run", fields=("context.email", "ip"))["undelivered"] == count
    answer = erase("--actor", JANE, fields=("context.email", "ip"))

    assert (answer["undelivered"], answer["on_their_way"], answer["exit"]) == (1, 1, 1)
    with connection.cursor() as cursor:
        cursor.execute("SELECT bound FROM outbox_user")
        assert json.loads(cursor.fetchone()[0]) == {"actor": JANE, "ip": "***"}
    deliver_and_verify(erased)
    assert erase("--actor", JANE, fields=("context.email", "ip"))["exit"] == 0
    assert "jane1@example.com" not in "".join(contexts(erased, JANE))
    assert audited()["exit"] == 0


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


@pytest.mark.usefixtures("erased")
def test_a_row_that_was_delivered_while_the_outboxes_were_masked_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    (row_id,) = write_as(JANE, [json.dumps({"email": MAIL, "n": 7})])
    mask = undelivered.mask

    def delivered_meanwhile(*arguments: Any) -> Any:
        with transaction.atomic():
            OutboxEvent.objects.filter(id=row_id).delete()
        return mask(*arguments)

    monkeypatch.setattr(undelivered, "mask", delivered_meanwhile)

    answer = erase("--actor", JANE)

    assert (answer["on_their_way"], answer["exit"]) == (1, 1)


def test_who_may_not_rewrite_rows_changes_nothing(erased: Tampered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(erased.store), "keeping_problems", lambda _store, change: [f"may not {change}"])
    before = stored(erased)

    assert refusal("--actor", JANE) == "Nothing was changed: may not rewrite.\n"

    assert stored(erased) == before
    assert not Proof.objects.filter(kind="erased").exists()
    assert erase("--actor", JANE, "--dry-run")["rows"] == 3


@pytest.mark.usefixtures("erased", "own_outbox")
def test_own_columns_of_an_outbox_are_masked_with_the_context_that_they_come_from() -> None:
    columns = "event_type, event_date_time, event_context, metadata_version, bound, email, note"
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO outbox_own ({columns}) VALUES ('tested', now(), %s, 1, %s::jsonb, %s, 'n')",
            [json.dumps({"email": MAIL, "note": "n"}), json.dumps({"actor": JANE}), MAIL],
        )

    assert erase("--actor", JANE)["undelivered"] == 1

    with connection.cursor() as cursor:
        cursor.execute("SELECT event_context, email, note FROM outbox_own")
        assert cursor.fetchall() == [('{"email": "***", "note": "n"}', "***", "n")]


@pytest.mark.parametrize(
    ("index", "fields", "column"),
    [
        ("(email)", ("context.email",), "email"),
        ("(lower(email), event_type)", ("context",), "email"),
        ("(id) WHERE email <> ''", ("context.email",), "email"),
    ],
)
@pytest.mark.usefixtures("own_outbox")
def test_a_column_that_takes_each_value_once_is_named_before_anything_is_changed(
    erased: Tampered, index: str, fields: tuple[str, ...], column: str
) -> None:
    columns = "event_type, event_date_time, event_context, metadata_version, bound, email, note"
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE UNIQUE INDEX once ON outbox_own {index}")
        cursor.execute(
            f"INSERT INTO outbox_own ({columns}) VALUES ('tested', now(), %s, 1, %s::jsonb, %s, 'n')",
            [json.dumps({"email": MAIL, "note": "n"}), json.dumps({"actor": JANE}), MAIL],
        )
    before = stored(erased)

    done = run("--actor", JANE, fields=fields)

    assert done.returncode == 1
    assert f"the column {column} must be unique (index once)" in done.stderr
    assert MAIL not in done.stderr
    assert stored(erased) == before
    assert not Proof.objects.filter(kind="erased").exists()
    # What changes none of it can be erased
    assert erase("--actor", JANE, fields=("context.note",))["undelivered"] == 1


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
