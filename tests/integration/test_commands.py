"""`manage.py pipeline` and `manage.py eventlog`, as an operator runs them."""

from __future__ import annotations

import contextlib
import io
import json
import time
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction

from backend.users.models import User
from tests.faults.proxy import Fault, Kind, Proxy, with_port
from tests.integration.manage import CLICKHOUSE_DOWN, POSTGRES_DOWN, RABBITMQ_DOWN, here, manage, status
from tests.integration.rows import create_users, write_events
from tests.integration.windows import dispatched, expire_leases, sealed
from tests.services import Services
from towpath.ledger.ack import ack
from towpath.ledger.models import Window
from towpath.telemetry.metrics import vanished_windows
from towpath.watch.gauges import read_gauges


def test_the_status_counts_what_is_pending_in_flight_and_done() -> None:
    # Given delivered rows, a window whose lease has run out, unsealed batches, and rows nobody has dispatched
    create_users(2, prefix="delivered")
    done = sealed()
    ack(done, delivered=done.rows)
    create_users(3, prefix="sealed")
    sealed()
    expire_leases()
    create_users(4, prefix="dispatched")
    write_events(["{}"] * 5)
    dispatched()
    User.objects.filter(email__startswith="sealed").update(created_at="2026-01-01T00:00:00Z")
    create_users(6, prefix="pending")

    answer = status()

    users, events = answer["outboxes"]["outbox_user"], answer["outboxes"]["outbox_event"]
    assert (users["pending"], users["in_flight"]) == (6, 7)
    assert (events["pending"], events["in_flight"]) == (0, 5)
    assert users["oldest_age_seconds"] > 24 * 3600
    assert {name: answer[name] for name in ("batches", "unsealed_batches", "open_windows", "expired_leases")} == {
        "batches": 3,
        "unsealed_batches": 2,
        "open_windows": 1,
        "expired_leases": 1,
    }
    assert (answer["receipts"], answer["dead_letters"]) == (1, 0)


def test_the_status_of_an_empty_pipeline_is_all_zero() -> None:
    found = status()["outboxes"]

    assert [outbox.pop("dead_rows") >= 0 for outbox in found.values()] == [True] * 3  # those of other tests, perhaps
    assert found == {
        name: {"pending": 0, "in_flight": 0, "dead_letters": 0, "oldest_age_seconds": None}
        for name in ("outbox_event", "outbox_user", "outbox_user_change")
    }


def test_the_status_answers_while_rabbitmq_and_clickhouse_are_down() -> None:
    create_users(3)

    done = manage("pipeline", "status", "--json", **RABBITMQ_DOWN, **CLICKHOUSE_DOWN)

    answer = json.loads(done.stdout)
    assert answer["outboxes"]["outbox_user"]["pending"] == 3
    assert answer["consumers"] == {}
    (problem,) = [problem for problem in answer["problems"] if "RabbitMQ is not reachable" in problem]
    assert problem.endswith("Meanwhile, events are delivered from the ledger, seconds later")


def test_the_status_says_who_is_missing_at_which_queue() -> None:
    missing = [problem for problem in status()["problems"] if "no worker consumes" in problem]

    assert missing == [
        "no worker consumes the queue towpath.dispatch. Start a dispatcher: `python manage.py pipeline run dispatcher`",
        (
            "no worker consumes the queues towpath.aggregate, towpath.aggregate_backlog: recovery delivers instead,"
            " after UNSEALED_SECONDS. Start an aggregator: `python manage.py pipeline run aggregator`"
        ),
    ]


def test_the_status_reports_that_no_shift_has_run() -> None:
    done = here("pipeline", "status")

    assert done.returncode == 1
    assert "no dispatch shift has ever run" in done.stdout


def test_the_status_reports_a_shift_that_has_gone_silent() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO pipeline_shift (name, token, taken_at, alive_at)"
            " SELECT name, gen_random_uuid(), now() - interval '1 hour', now() - age"
            " FROM (VALUES ('dispatch', interval '30 seconds'), ('recover', interval '1 second')) AS s (name, age)"
        )

    problems = [problem for problem in status()["problems"] if "shift" in problem]

    assert len(problems) == 2
    assert "the dispatch shift was last alive" in problems[0]
    assert "no tick for the recover shift" in problems[1]


def test_the_status_reports_rows_that_somebody_has_deleted() -> None:
    create_users(3)
    done = sealed()
    ack(done, delivered={"outbox_user": 1})
    Window.objects.update(vanished={"outbox_user": 2})

    answer = status()

    assert answer["vanished_rows"] == 2
    # For the alert, whichever process loaded the window: the counter of one without METRICS_PORT is never scraped.
    assert read_gauges()[vanished_windows] == {"": 1}
    assert [problem for problem in answer["problems"] if "2 row(s) of 1 window(s) were deleted" in problem]
    assert "TowpathRowsVanished" in here("pipeline", "status").stdout


def test_a_database_that_is_down_is_said_in_one_line() -> None:
    done = manage("pipeline", "status", **POSTGRES_DOWN)

    assert done.returncode == 1
    assert "PostgreSQL does not answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_migrating_the_event_log_again_says_that_nothing_is_to_do() -> None:
    assert json.loads(here("eventlog", "migrate", "--json").stdout) == {"done": []}
    assert "up to date" in here("eventlog", "migrate").stdout


def test_no_migration_is_missing() -> None:
    assert here("makemigrations", "--check", "--dry-run").returncode == 0


def test_an_event_store_that_is_down_is_said_with_what_to_check() -> None:
    done = manage("eventlog", "migrate", **CLICKHOUSE_DOWN)

    assert done.returncode == 1
    assert "EVENT_STORE_URL" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_action_is_wrong_usage() -> None:
    assert manage("pipeline", "dance").returncode == 2


# --- Whatever a check meets, and wherever it is asked ------------------------------------------------------------


def _prefixed(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
    """What some middlewares do, to set a variable for each statement."""
    return execute(f"SELECT set_config('app.tenant', 'a', false); {sql}", params, many, context)


@pytest.mark.parametrize("action", [("status",), ("verify",), ("doctor",), ("recover",), ("deadletters", "list")])
@pytest.mark.parametrize("surroundings", ["fresh transaction", "used transaction", "savepoint", "wrapper"])
def test_every_command_answers_wherever_it_is_called_and_leaves_the_transaction_as_it_was(
    action: tuple[str, ...], surroundings: str
) -> None:
    printed = io.StringIO()

    def call() -> None:
        with contextlib.suppress(SystemExit):
            call_command("pipeline", *action, "--json", stdout=printed)

    if surroundings == "wrapper":
        with connection.execute_wrapper(_prefixed):
            call()
    else:
        with transaction.atomic(), connection.cursor() as cursor:
            if surroundings != "fresh transaction":
                create_users(1)
            with transaction.atomic() if surroundings == "savepoint" else contextlib.nullcontext():
                call()
            cursor.execute("SHOW enable_seqscan")
            assert cursor.fetchone() == ("on",)
            create_users(1, prefix="after")
        assert User.objects.filter(email__startswith="after").count() == 1

    json.loads(printed.getvalue())


def test_an_error_that_is_not_an_outage_is_not_called_one() -> None:
    with transaction.atomic():
        with contextlib.suppress(DatabaseError), connection.cursor() as cursor:
            cursor.execute("SELECT 1 / 0")
        with pytest.raises(CommandError) as refused:
            call_command("pipeline", "status")
        transaction.set_rollback(True)

    assert "does not answer" not in str(refused.value)
    assert "current transaction is aborted" in str(refused.value)


@pytest.mark.timing
def test_the_status_ends_in_time_while_postgresql_hangs(services: Services) -> None:
    """In a project whose connections have no time limit."""
    with contextlib.closing(Proxy(services.postgres.port)) as proxy:
        proxy.fail(Fault(kind=Kind.BLACK_HOLE))
        began = time.monotonic()

        done = manage(
            "pipeline", "status", DATABASE_URL=f"{with_port(services.postgres.url, proxy.port)}?connect_timeout=0"
        )

    assert done.returncode == 1
    assert "PostgreSQL does not answer" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - began < 40
