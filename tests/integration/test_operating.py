"""What people do with commands is an event, done or not, as it is on the console's page."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from django.conf import settings
from django.db import DatabaseError, connection, transaction
from dramatiq.errors import ConnectionClosed

from tests.integration.dispatching import EVENT
from tests.integration.manage import here
from tests.integration.rows import write_events
from tests.integration.windows import expire_leases, sealed
from towpath.conf.current import config
from towpath.errors import NotDone
from towpath.events import DeadLetterDropped, DeadLettersReplayed, PipelineActionFailed, RecoveryRun
from towpath.flow import operating
from towpath.flow.operating import carry_out
from towpath.ledger.models import Batch, DeadLetter
from towpath.outbox.models import OutboxEvent
from towpath.testing.published import Published

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.integration.event_log import EventLog

#: The account that runs the tests.
ME = pwd.getpwuid(os.getuid()).pw_name


@pytest.fixture
def published() -> Published:
    """Outside of a transaction of the test's, which a dispatcher does not look into."""
    return Published()


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """PostgreSQL takes no event but that of a failure, as from a role that may publish no other."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            CREATE FUNCTION refuse_for_test() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE insufficient_privilege USING MESSAGE = 'may not'; END $$;
            CREATE TRIGGER refuse_for_test AFTER INSERT ON outbox_event FOR EACH ROW
            WHEN (NEW.event_type <> 'pipeline_action_failed') EXECUTE FUNCTION refuse_for_test()
            """
        )
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DROP TRIGGER refuse_for_test ON outbox_event; DROP FUNCTION refuse_for_test()")


def test_recover_is_an_event_of_who_ran_it(event_log: EventLog, published: Published) -> None:
    write_events(["{}"] * 5)
    sealed()
    expire_leases()

    done = here("pipeline", "recover", "--json")

    assert (done.returncode, json.loads(done.stdout), event_log.count()) == (0, {"windows": 1}, 5)
    assert len(published.find(RecoveryRun, windows=1, stranded_rows=0, run_by=ME)) == 1


def test_a_recovery_that_delivers_nothing_says_so_and_why(
    event_log: EventLog, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_events(["{}"] * 5)
    sealed()
    expire_leases()
    away = replace(config(), event_store_url="clickhouse://127.0.0.1:9/default")
    monkeypatch.setattr(settings, "TOWPATH", away)

    done = here("pipeline", "recover", "--json")

    assert (done.returncode, json.loads(done.stdout)) == (1, {"windows": 0, "undelivered": 1})
    assert done.stderr.startswith("1 window(s) could not be delivered: ")
    assert (event_log.count(), len(published.find(RecoveryRun, windows=0))) == (0, 1)


def test_replay_is_an_event_of_who_ran_it(letters: list[int], published: Published) -> None:
    assert here("pipeline", "deadletters", "replay", str(letters[0])).returncode == 0

    assert list(DeadLetter.objects.values_list("id", flat=True)) == letters[1:]
    assert len(published.find(DeadLettersReplayed, numbers=letters[:1], replayed_by=ME)) == 1


def test_replayed_ones_are_in_the_ledger_while_rabbitmq_is_away(
    letters: list[int], published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(letters) == 3

    def away(_batches: Sequence[object]) -> None:
        raise ConnectionClosed("nobody listens")  # type: ignore[no-untyped-call]

    monkeypatch.setattr("towpath.management.commands.pipeline.enqueue_batches", away)

    assert here("pipeline", "deadletters", "replay", "--all").returncode == 0

    assert sum(Batch.objects.values_list("rows", flat=True)) == 3
    assert len(published.find(DeadLettersReplayed)) == 1
    assert published.find(PipelineActionFailed) == []


@pytest.mark.parametrize("action", ["replay", "drop"])
def test_what_a_role_may_not_do_is_not_done_and_is_an_event(
    letters: list[int], published: Published, action: str
) -> None:
    with refusing():
        done = here("pipeline", "deadletters", action, *map(str, letters), *(["--yes"] if action == "drop" else []))

    assert done.returncode == 1
    assert "may not do this" in done.stderr
    assert list(DeadLetter.objects.order_by("id").values_list("id", flat=True)) == letters
    assert published.find(DeadLettersReplayed) == published.find(DeadLetterDropped) == []
    target = " ".join(map(str, letters))
    assert len(published.find(PipelineActionFailed, action=action, target=target, tried_by=ME)) == 1


def test_a_recovery_that_fails_is_an_event(monkeypatch: pytest.MonkeyPatch, published: Published) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT 1 / 0")

    monkeypatch.setattr(operating, "recover", fail)

    done = here("pipeline", "recover")

    assert (done.returncode, done.stdout) == (1, "")
    assert "division by zero" in done.stderr
    assert len(published.find(PipelineActionFailed, action="recover", tried_by=ME)) == 1
    assert published.find(RecoveryRun) == []


def test_an_attempt_that_cannot_be_recorded_is_said() -> None:
    def fail() -> None:
        connection.close()
        connection.settings_dict["PORT"], before = "1", connection.settings_dict["PORT"]
        ports.append(before)
        raise DatabaseError("the server is away")

    ports: list[str] = []
    try:
        with pytest.raises(NotDone, match=r"the server is away\. The attempt could not be recorded either"):
            carry_out(fail, action="recover", target="", by=ME)
    finally:
        connection.settings_dict["PORT"] = ports[0]
    assert not OutboxEvent.objects.exists()


def test_the_commands_and_the_page_name_the_same_target(published: Published) -> None:
    assert here("pipeline", "resume", "outbox_none").returncode == 1
    assert here("pipeline", "pause", EVENT, "--reason", "x" * 301).returncode == 1

    assert len(published.find(PipelineActionFailed, action="resume", target="outbox_none", tried_by=ME)) == 1
    assert len(published.find(PipelineActionFailed, action="pause", target=EVENT, tried_by=ME)) == 1
