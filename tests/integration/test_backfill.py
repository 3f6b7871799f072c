"""`eventlog backfill`: the rows that a model had before its lean outbox, each published once, whatever happens."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest
from django.conf import settings
from django.db import connection, models
from django.utils import timezone

from backend.users.models import User
from backend.users.use_cases import CreateUser, CreateUserRequest
from deploy.local.process import PROJECT
from tests.integration.manage import here
from tests.integration.threads import all_at_once
from tests.integration.windows import deliver, sealed
from tests.unit.outboxes import lean, user_key
from tests.waiting import eventually
from towpath.errors import NotBackfillable
from towpath.eventlog.errors import StoreUnavailable
from towpath.flow import backfill
from towpath.flow.backfill import source_of
from towpath.flow.delivery import Delivery
from towpath.ledger import backfills

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.integration.event_log import EventLog
    from tests.knobs import Knobs
    from towpath.eventlog.store import Store

_SEED = 20_261_126


def old_users(count: int, *, prefix: str = "old") -> None:
    """Users that were there before anybody published."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO users (password, is_superuser, email, first_name, last_name, created_at, updated_at, is_active,
                               is_staff)
            SELECT '!', false, %s || n || '@example.com', 'First ' || n, 'Last',
                   timestamptz '2024-01-01 00:00:00.123456+00' + n * interval '1 second', now(), true, false
            FROM generate_series(1, %s) AS n
            """,
            [prefix, count],
        )


def new_user(name: str) -> User:
    user = CreateUser().execute(CreateUserRequest(email=f"{name}@b.co", first_name="A", last_name="B")).result
    assert user is not None
    return user


def undelivered_users() -> Counter[str]:
    """How many events of each user are in the outbox, by email address."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT email FROM outbox_user JOIN users ON users.id = user_id")
        return Counter(email for (email,) in cursor.fetchall())


def run(*arguments: str) -> dict[str, Any]:
    done = here("eventlog", "backfill", "users.User", "--rows-per-second", "100000", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_old_rows_are_published_once_and_those_of_the_live_application_are_not(
    store: Store, event_log: EventLog
) -> None:
    # Given old users, one whose event is delivered, and one whose event is still in the outbox
    old_users(1203)
    new_user("delivered")
    assert deliver(sealed(), store) is Delivery.ACKED
    new_user("pending")

    first, second = run(), run()

    assert (first["looked_at"], first["published"], first["already_published"]) == (1205, 1203, 2)
    assert first["is_finished"]
    assert (second["looked_at"], second["published"], second["published_by_all_runs"]) == (0, 0, 1203)
    assert set(undelivered_users().values()) == {1}

    # Then all is delivered, at the times of the rows, and not even a run that looks at every row finds one to publish
    assert run("--again")["already_published"] == 1205
    while undelivered_users():
        assert deliver(sealed(batch_ids=5000), store) is Delivery.ACKED
    again = run("--again")
    assert (again["published"], again["already_published"]) == (0, 1205)
    assert event_log.count() == event_log.distinct() == 1205
    assert {event.event_date_time.year for event in event_log.events()} == {
        2024,
        User.objects.latest("id").created_at.year,
    }


def test_rows_that_were_missed_are_found_by_a_run_that_looks_again(store: Store) -> None:
    """Of a process with the old code, which works while the first run does."""
    old_users(3)
    assert run()["published"] == 3
    assert deliver(sealed(), store) is Delivery.ACKED
    old_users(2, prefix="late")

    assert run()["published"] == 0
    assert run("--again")["published"] == 2


@pytest.mark.slow
@pytest.mark.timing
def test_a_run_that_is_killed_again_and_again_publishes_each_row_once() -> None:
    old_users(2400)
    choose = random.Random(_SEED)
    kills = 0
    while not (progress := backfills.begin("outbox_user", again=False)).finished_at:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "eventlog", "backfill", "users.User", "--rows-per-second", "1000"],
            cwd=PROJECT,
            env=os.environ,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        done = progress.published
        eventually(
            lambda: process.poll() is not None or backfills.read("outbox_user").published > done,
            seconds=60,
            what="it publishes",
        )
        try:
            process.wait(timeout=choose.uniform(0, 0.8))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1

    assert kills >= 2
    assert sum(undelivered_users().values()) == len(undelivered_users()) == 2400


def test_several_runs_at_once_publish_each_row_once() -> None:
    old_users(1500)

    answers = all_at_once([run] * 3)

    assert sum(answer["published"] for answer in answers) == 1500
    assert sum(undelivered_users().values()) == len(undelivered_users()) == 1500


class _Asked:
    """The store, and what somebody does while it is asked."""

    def __init__(self, store: Store, do: Any) -> None:
        self._store, self._do = store, do

    def stored_targets(self, event_type: str, targets: Sequence[str], **period: Any) -> set[str]:
        self._do()
        return self._store.stored_targets(event_type, targets, **period)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_a_row_that_is_deleted_meanwhile_is_left_out(store: Store) -> None:
    old_users(3)

    def delete() -> None:
        User.objects.filter(email="old2@example.com").delete()

    report = backfill.backfill(source_of(User), _Asked(store, delete), rows_per_second=1e6)

    assert report.published == 2
    assert set(undelivered_users()) == {"old1@example.com", "old3@example.com"}


def test_while_the_store_is_asked_no_transaction_is_open(store: Store) -> None:
    old_users(1)
    seen: list[bool] = []
    backfill.backfill(
        source_of(User), _Asked(store, lambda: seen.append(connection.in_atomic_block)), rows_per_second=1
    )

    assert seen == [False]


def test_a_store_that_does_not_answer_stops_it_and_the_next_run_goes_on(knobs: Knobs) -> None:
    old_users(2)
    url = settings.TOWPATH.event_store_url
    knobs(event_store_url="clickhouse://127.0.0.1:1/default")
    failed = here("eventlog", "backfill", "users.User", "--json")

    assert failed.returncode == 1
    assert "does not say which rows it has" in failed.stderr
    assert undelivered_users() == {}
    knobs(event_store_url=url)
    assert run()["published"] == 2


def test_it_waits_while_the_pipeline_is_behind(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill, "_MOST_PENDING_ROWS", 3)
    monkeypatch.setattr(backfill, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(backfill, "_PAGE_ROWS", 2)
    old_users(6)
    waited: list[int] = []

    def look(report: backfill.Report) -> None:
        if report.is_waiting:
            waited.append(sum(undelivered_users().values()))
            assert deliver(sealed(), store) is Delivery.ACKED

    report = backfill.backfill(source_of(User), store, rows_per_second=1e6, on_page=look)

    assert report.published == 6
    assert waited == [4]


def test_it_keeps_to_its_pace(store: Store) -> None:
    old_users(3)
    began = monotonic()
    backfill.backfill(source_of(User), store, rows_per_second=10)

    assert monotonic() - began >= 0.3


# --- What cannot be backfilled -------------------------------------------------------------------------------------


def test_the_outbox_itself_can_be_named() -> None:
    assert here("eventlog", "backfill", "users.OutboxUser").stdout.startswith("0 row(s) of users.User checked")


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("auth.Group",), 1, "auth.Group has no lean outbox: write a LeanOutbox with a foreign key to it"),
        (("users.OutboxUserChange",), 1, "has no lean outbox"),
        (("users.Nobody",), 2, "'users.Nobody' is not a model: write APP.MODEL"),
        (("users",), 2, "'users' is not a model"),
    ],
)
def test_what_has_no_lean_outbox_is_refused_with_what_to_do(arguments: tuple[str, ...], code: int, why: str) -> None:
    done = here("eventlog", "backfill", *arguments)

    assert done.returncode == code
    assert why in done.stderr


@pytest.mark.parametrize(
    ("attributes", "why"),
    [
        ({}, 'no event_target that names the row.* write event_target = "user:{user_id}"'),
        ({"event_target": "user:{user__first_name}"}, "no event_target that names the row"),
        (
            {"event_target": "user:{user_id}", "plan": "text"},
            r"the values of its column\(s\) plan are unknown",
        ),
        ({"event_target": "user:{user_id}", "event_date_time": "at", "at": "time"}, "'at' from its own row"),
        ({"event_target": "user:{user_id}", "other": "key"}, "has 2 foreign keys"),
    ],
)
def test_an_outbox_whose_old_events_cannot_be_told_is_refused(attributes: dict[str, Any], why: str) -> None:
    fields = {
        "text": models.TextField(),
        "time": models.DateTimeField(default=timezone.now),
        "key": user_key(null=True),
    }
    outbox = lean(**{name: fields.get(value, value) for name, value in attributes.items()})

    with pytest.raises(NotBackfillable, match=why):
        source_of(outbox)


def test_a_column_that_may_be_empty_does_no_harm() -> None:
    outbox = lean(event_target="user:{user__pk}", note=models.TextField(null=True))

    assert source_of(outbox).key.name == "id"


def test_the_error_of_a_store_is_not_an_answer(store: Store) -> None:
    old_users(1)

    def fail() -> None:
        raise StoreUnavailable("away")

    with pytest.raises(StoreUnavailable):
        backfill.backfill(source_of(User), _Asked(store, fail), rows_per_second=1)

    assert undelivered_users() == {}
