"""`manage.py pipeline` and `manage.py eventlog`, as an operator runs them."""

from __future__ import annotations

import contextlib
import io
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import dramatiq
import pika
import psycopg2
import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction

from backend.users.models import OutboxUser, User
from deploy.local import postgres
from tests.administering import administer
from tests.faults.proxy import Fault, Kind, Proxy, with_port
from tests.integration.event_log import EventLog
from tests.integration.manage import here, manage
from tests.integration.queues import declared_otherwise
from tests.integration.rows import create_users, undelivered, write_events
from tests.integration.windows import dispatched, expire_leases, sealed
from tests.ports import any_free_port
from tests.services import Services
from towpath.conf.current import config
from towpath.conf.names import AGGREGATE
from towpath.ledger.ack import ack
from towpath.ledger.models import Window
from towpath.ledger.windows import postpone
from towpath.rabbitmq.broker import Broker
from towpath.watch.doctor import examine

#: Nobody listens on port 1.
RABBITMQ_DOWN = {"RABBITMQ_URL": "amqp://127.0.0.1:1"}
CLICKHOUSE_DOWN = {"EVENT_STORE_URL": "clickhouse://127.0.0.1:1/default"}
POSTGRES_DOWN = {"DATABASE_URL": "postgresql://towpath@127.0.0.1:1/towpath"}

#: The settings of PostgreSQL that must be on.
DURABLE = ("fsync", "full_page_writes", "synchronous_commit")


def status() -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(here("pipeline", "status", "--json").stdout)
    return answer


def doctor(**environment: str) -> tuple[int, dict[str, dict[str, Any]]]:
    arguments = ("pipeline", "doctor", "--json")
    done = manage(*arguments, **environment) if environment else here(*arguments)
    return done.returncode, {finding["check"]: finding for finding in json.loads(done.stdout)}


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

    assert json.loads(done.stdout)["outboxes"]["outbox_user"]["pending"] == 3


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

    problems = status()["problems"]

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
    assert [problem for problem in answer["problems"] if "2 row(s) of 1 window(s) were deleted" in problem]
    assert "TowpathRowsVanished" in here("pipeline", "status").stdout


def test_a_database_that_is_down_is_said_in_one_line() -> None:
    done = manage("pipeline", "status", **POSTGRES_DOWN)

    assert done.returncode == 1
    assert "PostgreSQL does not answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_doctor_names_every_service_that_is_down() -> None:
    code, findings = doctor(**RABBITMQ_DOWN, **CLICKHOUSE_DOWN)

    assert code == 1
    assert findings["PostgreSQL"]["is_ok"]
    assert findings["migrations"]["is_ok"]
    assert not findings["RabbitMQ"]["is_ok"]
    assert "RABBITMQ_URL" in findings["RabbitMQ"]["detail"]
    assert not findings["event store"]["is_ok"]
    assert "EVENT_STORE_URL" in findings["event store"]["detail"]


def test_the_doctor_looks_at_the_other_services_when_postgresql_is_down() -> None:
    code, findings = doctor(**POSTGRES_DOWN)

    assert code == 1
    assert not findings["PostgreSQL"]["is_ok"]
    assert "DATABASE_URL" in findings["PostgreSQL"]["detail"]
    assert findings["RabbitMQ"]["is_ok"]
    assert findings["event store"]["is_ok"]


def test_the_doctor_finds_dangerous_settings() -> None:
    code, findings = doctor(RABBITMQ_URL="amqp://127.0.0.1:1?heartbeat=0", BATCH_IDS="2000")

    assert code == 1
    assert not findings["RabbitMQ settings"]["is_ok"]
    assert not findings["BATCH_IDS"]["is_ok"]


def test_the_doctor_is_content_with_a_postgresql_that_keeps_what_it_commits() -> None:
    findings = doctor()[1]

    assert {name: findings[name]["detail"] for name in DURABLE} == dict.fromkeys(DURABLE, "on")


@pytest.mark.own_services
def test_the_doctor_finds_a_postgresql_that_loses_what_it_has_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for setting in DURABLE:
        monkeypatch.setitem(postgres._SETTINGS, setting, "off")
    server = postgres.Postgres(tmp_path / "careless", any_free_port(), tmp_path / "postgres.log")
    server.start()
    try:
        server.wait_until_ready()
        code, findings = doctor(DATABASE_URL=server.url)
    finally:
        server.stop()

    assert code == 1
    assert [name for name in DURABLE if findings[name]["is_ok"]] == []
    assert "ALTER SYSTEM SET fsync = on" in findings["fsync"]["detail"]
    assert "ALTER SYSTEM SET full_page_writes = on" in findings["full_page_writes"]["detail"]


def test_the_doctor_finds_a_role_whose_commits_do_not_wait_for_the_disk() -> None:
    code, findings = doctor(PGOPTIONS="-c synchronous_commit=off")

    assert code == 1
    assert not findings["synchronous_commit"]["is_ok"]
    assert "set it to on" in findings["synchronous_commit"]["detail"]


def test_the_doctor_finds_a_table_without_its_promises(event_log: EventLog) -> None:
    event_log.alter("MODIFY SETTING fsync_after_insert = 0")
    try:
        code, findings = doctor()
    finally:
        event_log.alter("MODIFY SETTING fsync_after_insert = 1")

    assert code == 1
    assert "fsync_after_insert" in findings["event store table"]["detail"]
    assert doctor()[1]["event store table"]["is_ok"]


def test_an_error_of_the_event_store_that_names_a_shift_is_not_taken_for_one() -> None:
    """As that of a table with a column `shift_id`, or of ClickHouse's function bitShiftLeft."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO pipeline_shift (name, token, taken_at, alive_at)"
            " SELECT name, gen_random_uuid(), now(), now() FROM unnest(ARRAY['dispatch', 'recover']) AS name"
        )
    create_users(1)
    error = "no column shift_id: its row is never dispatched, could not be read, and no outbox class has it"
    postpone(sealed(), error=error, pause_seconds=60)

    findings = doctor()[1]

    assert any(error in problem for problem in status()["problems"])
    assert findings["shifts"] == {
        "check": "shifts",
        "is_ok": True,
        "detail": "dispatch and recover shifts are alive",
    }
    assert findings["outboxes"]["is_ok"]
    assert "ledger" not in findings


def test_the_doctor_finds_a_missing_table(event_log: EventLog) -> None:
    event_log.rename_table("event_log", "event_log_away")
    try:
        _, findings = doctor()
    finally:
        event_log.rename_table("event_log_away", "event_log")

    assert "eventlog migrate" in findings["event store table"]["detail"]


def test_recover_delivers_what_is_stuck(event_log: EventLog) -> None:
    create_users(5)
    sealed()
    expire_leases()

    done = here("pipeline", "recover", "--json")

    assert (done.returncode, json.loads(done.stdout)) == (0, {"windows": 1})
    assert undelivered() == {}
    assert event_log.count() == 5
    assert not OutboxUser.objects.exists()


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


def test_a_check_that_raises_is_a_finding_and_the_others_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise TypeError("create_client() got multiple values for keyword argument 'connect_timeout'")

    monkeypatch.setattr("towpath.watch.doctor.connect", fail)
    monkeypatch.setattr("towpath.rabbitmq.queues.queue_states", fail)

    findings = {finding.check: finding for finding in examine(config())}

    for check in ("event store", "RabbitMQ"):
        assert not findings[check].is_ok
        assert "TypeError" in findings[check].detail
    assert findings["PostgreSQL"].is_ok
    assert findings["migrations"].is_ok
    assert findings["BATCH_IDS"].is_ok


@pytest.mark.timing
def test_a_check_that_hangs_is_a_finding_and_the_others_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    is_over = threading.Event()
    monkeypatch.setattr("towpath.watch.doctor.CHECK_SECONDS", 1.0)
    monkeypatch.setattr("towpath.watch.doctor.read_status", is_over.wait)
    began = time.monotonic()
    try:
        findings = {finding.check: finding for finding in examine(config())}
    finally:
        is_over.set()

    assert time.monotonic() - began < 10
    assert not findings["ledger"].is_ok
    assert "no answer within 1 s" in findings["ledger"].detail
    assert findings["PostgreSQL"].is_ok


def test_the_doctor_finds_queues_that_nobody_consumes() -> None:
    findings = doctor()[1]

    for queue, role in (("towpath.dispatch", "dispatcher"), ("towpath.aggregate", "aggregator")):
        assert not findings[f"queue {queue}"]["is_ok"]
        assert role in findings[f"queue {queue}"]["detail"]


def test_a_queue_that_somebody_has_for_themselves_is_not_called_an_outage() -> None:
    broker = dramatiq.get_broker()
    assert isinstance(broker, Broker)
    with contextlib.closing(pika.BlockingConnection(broker.parameters)) as somebody:
        channel = somebody.channel()
        channel.queue_delete("towpath.aggregate")
        channel.queue_declare("towpath.aggregate", exclusive=True)

        code, findings = doctor()

    assert code == 1
    assert findings["RabbitMQ"]["detail"].startswith(
        "RabbitMQ refuses the queue towpath.aggregate (ChannelClosedByBroker (405"
    )


def test_a_queue_that_is_refused_to_workers_is_a_finding_with_rabbitmq_s_reason() -> None:
    with declared_otherwise(AGGREGATE):
        code, findings = doctor()

    assert code == 1
    assert findings["RabbitMQ"]["is_ok"]
    assert not findings["queues"]["is_ok"]
    assert f"refuses the queue {AGGREGATE} to workers" in findings["queues"]["detail"]
    assert "406" in findings["queues"]["detail"]


def test_messages_that_failed_are_a_finding() -> None:
    failed = f"{AGGREGATE}.XQ"
    broker = dramatiq.get_broker()
    assert isinstance(broker, Broker)
    broker.declare_queue(AGGREGATE, ensure=True)
    with contextlib.closing(pika.BlockingConnection(broker.parameters)) as somebody:
        channel = somebody.channel()
        channel.confirm_delivery()
        channel.basic_publish("", failed, b"{}", mandatory=True)

    findings = doctor()[1]

    assert findings["queues"]["is_ok"]
    assert not findings[f"queue {failed}"]["is_ok"]
    assert findings[f"queue {failed}"]["detail"].startswith("1 message(s)")


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


def test_the_doctor_finds_a_role_that_is_running_out_of_connections(services: Services) -> None:
    detail = doctor()[1]["connections"]["detail"]
    assert re.fullmatch(r"\d+ of 197 in use \(max_connections\)", detail)
    administer(services.postgres.superuser_url, "ALTER ROLE towpath CONNECTION LIMIT 21")
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(15):
                stack.enter_context(contextlib.closing(psycopg2.connect(services.postgres.url)))
            code, findings = doctor()
    finally:
        administer(services.postgres.superuser_url, "ALTER ROLE towpath CONNECTION LIMIT -1")

    assert code == 1
    assert not findings["connections"]["is_ok"]
    assert (
        "of 21 connections are in use (the connection limit of the role towpath)" in findings["connections"]["detail"]
    )
