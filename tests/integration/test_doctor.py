"""`pipeline doctor`: what it finds, and that it looks at everything, whatever else fails."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from datetime import timedelta
from pathlib import Path

import dramatiq
import pika
import psycopg2
import pytest
from django.db import connection

from deploy.local import postgres
from tests.administering import administer
from tests.integration.event_log import EventLog
from tests.integration.manage import CLICKHOUSE_DOWN, POSTGRES_DOWN, RABBITMQ_DOWN, doctor, status
from tests.integration.queues import declared_otherwise
from tests.integration.rows import create_users
from tests.integration.windows import sealed
from tests.ports import any_free_port
from tests.services import Services
from towpath.conf.current import config
from towpath.conf.names import AGGREGATE
from towpath.ledger.windows import postpone
from towpath.rabbitmq.broker import Broker
from towpath.watch.doctor import examine

#: The settings of PostgreSQL that must be on.
DURABLE = ("fsync", "full_page_writes", "synchronous_commit")


def test_the_doctor_names_every_service_that_is_down() -> None:
    code, findings = doctor(**RABBITMQ_DOWN, **CLICKHOUSE_DOWN)

    assert code == 1
    assert findings["PostgreSQL"]["is_ok"]
    assert findings["migrations"]["is_ok"]
    assert not findings["RabbitMQ"]["is_ok"]
    assert "RABBITMQ_URL" in findings["RabbitMQ"]["detail"]
    assert not findings["event store"]["is_ok"]
    assert "EVENT_STORE_URL" in findings["event store"]["detail"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["verifier", "explorer"])
def test_the_doctor_looks_at_a_reader_that_has_a_user_of_its_own(name: str) -> None:
    check, variable = f"event store {name}", f"EVENT_STORE_{name.upper()}_URL"
    without = doctor()[1]
    same = doctor(**{variable: config().event_store_url})[1]
    down = doctor(**{variable: CLICKHOUSE_DOWN["EVENT_STORE_URL"]})[1]

    assert check not in without
    assert same[check]["detail"] == "reads every column of event_log"
    assert same[check]["is_ok"]
    assert down["event store"]["is_ok"]
    assert not down[check]["is_ok"]
    assert f"correct {variable}" in down[check]["detail"]


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


def test_a_slow_answer_is_not_called_a_wrong_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(_store: object) -> list[str]:
        threading.Event().wait(0.5)
        return []

    monkeypatch.setattr("towpath.eventlog.schema.conflicts", slowly)
    monkeypatch.setattr("towpath.watch.doctor._LARGEST_CLOCK_DIFFERENCE", timedelta(seconds=0.4))

    _, findings = doctor()

    assert (findings["event store clock"]["is_ok"], findings["PostgreSQL clock"]["is_ok"]) == (True, True)


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
    monkeypatch.setattr("towpath.watch.doctor.CHECK_SECONDS", 3.0)
    monkeypatch.setattr("towpath.watch.doctor.read_status", is_over.wait)
    began = time.monotonic()
    try:
        findings = {finding.check: finding for finding in examine(config())}
    finally:
        is_over.set()

    assert time.monotonic() - began < 10
    assert not findings["ledger"].is_ok
    assert "no answer within 3 s" in findings["ledger"].detail
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
