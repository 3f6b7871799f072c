"""What of the server, the database and the role would hide or stop events is refused, or named by doctor and status."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import dramatiq
import psycopg2
import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connection, connections, transaction
from django.db.backends.signals import connection_created
from django.test import override_settings
from dramatiq.brokers.stub import StubBroker
from pytest_django import Settings

from backend.users.events import UserUpdated
from backend.users.models import OutboxUserChange
from tests.administering import administer
from tests.integration.rows import create_users, execute
from tests.services import Services
from towpath import Event, publish, publish_many
from towpath.checks import check_database
from towpath.conf.current import config
from towpath.ledger.session import lengthen_limits
from towpath.outbox.errors import EventNotStorable
from towpath.outbox.models import OutboxEvent
from towpath.watch.database import problems_of_database
from towpath.watch.doctor import examine
from towpath.watch.status import read_status


class Paid(Event):
    amount: int


@contextmanager
def another_database(options: str) -> Iterator[None]:
    """The alias `other` is an empty database, made with these options."""
    execute(f"CREATE DATABASE other TEMPLATE template0 LOCALE_PROVIDER libc LC_COLLATE 'C' LC_CTYPE 'C' {options}")
    connections.databases["other"] = {**connections.databases["default"], "NAME": "other"}
    try:
        yield
    finally:
        connections["other"].close()
        del connections["other"]
        del connections.databases["other"]
        execute("DROP DATABASE other WITH (FORCE)")


@pytest.fixture
def as_somebody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Connections are a role's that may do what the pipeline does and is not a superuser."""
    execute(
        "CREATE ROLE somebody",
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO somebody",
        "GRANT EXECUTE ON FUNCTION pg_control_system() TO somebody",
    )
    with monkeypatch.context() as patch:
        patch.setitem(connection.settings_dict["OPTIONS"], "assume_role", "somebody")
        connection.close()
        yield
    connection.close()
    for table in ("outbox_event", "pipeline_batch", "users"):
        execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY", f"DROP POLICY IF EXISTS policy ON {table}")
        execute(f"DROP POLICY IF EXISTS narrow ON {table}")
    execute("DROP OWNED BY somebody", "DROP ROLE somebody")


def as_owner(*statements: str) -> None:
    execute("RESET ROLE", *statements, "SET ROLE somebody")


def role_findings() -> str:
    (finding,) = [one for one in examine(config()) if one.check == "PostgreSQL role"]
    assert finding.is_ok == (finding.detail == "sees every event, and has time to read it")
    return "" if finding.is_ok else finding.detail


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII", "WIN1252"])
def test_a_database_of_another_encoding_is_refused_before_anything_is_made_in_it(encoding: str) -> None:
    with another_database(f"ENCODING '{encoding}'"):
        (problem,) = problems_of_database(connections["other"])

    assert encoding in problem[0]
    assert "ENCODING 'UTF8'" in problem[1]


def test_a_database_that_cannot_be_written_is_refused() -> None:
    with another_database("ENCODING 'UTF8'"):
        assert list(problems_of_database(connections["other"])) == []
        execute("ALTER DATABASE other SET default_transaction_read_only = on")
        connections["other"].close()
        (problem,) = problems_of_database(connections["other"])

    assert "'other' is read only" in problem[0]


def test_migrate_asks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_checks(tags=["database"], databases=["default"]) == check_database(databases=["default"]) == []
    monkeypatch.setattr(
        "towpath.watch.database.problems_of_database", lambda _connection: [("It is frozen.", "Thaw it.")]
    )

    with pytest.raises(SystemCheckError, match=r"pipeline\.E009.*It is frozen"):
        call_command("migrate", skip_checks=False, stdout=io.StringIO(), stderr=io.StringIO())
    assert check_database(databases=["replica"]) == []


@pytest.mark.slow
@pytest.mark.usefixtures("as_somebody")
@pytest.mark.parametrize("table", ["outbox_event", "pipeline_batch"])
def test_policies_on_an_outbox_or_the_ledger_are_named_by_doctor_and_status(table: str, services: Services) -> None:
    assert role_findings() == ""

    as_owner(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")

    problem = f"row level security on {table} may hide rows from the role somebody"
    assert problem in role_findings()
    assert any(one.startswith(problem) for one in read_status().problems)

    # One that shows every row does no harm; one beside it that narrows it does
    as_owner(f"CREATE POLICY policy ON {table} TO somebody USING (true)")
    assert role_findings() == ""
    as_owner(f"CREATE POLICY narrow ON {table} AS RESTRICTIVE USING (id > 7)")
    assert problem in role_findings()
    administer(services.postgres.superuser_url, "ALTER ROLE somebody BYPASSRLS")
    assert role_findings() == ""


@pytest.mark.usefixtures("as_somebody")
def test_policies_on_a_table_that_a_lean_outbox_reads_are_named_by_doctor() -> None:
    as_owner("ALTER TABLE users ENABLE ROW LEVEL SECURITY", "CREATE POLICY policy ON users USING (id > 7)")

    assert "row level security on users" in role_findings()


@pytest.mark.usefixtures("as_somebody")
def test_a_right_that_is_missing_is_named_by_doctor() -> None:
    as_owner("REVOKE SELECT ON users FROM somebody", "GRANT SELECT (id, email) ON users TO somebody")

    assert "the events of outbox_user cannot be read: permission denied for table users" in role_findings()
    as_owner("GRANT SELECT ON users TO somebody", "REVOKE DELETE ON outbox_user FROM somebody")
    assert role_findings().endswith("GRANT DELETE ON outbox_user TO somebody")

    # A role that only publishes needs neither
    as_owner("REVOKE INSERT ON pipeline_window FROM somebody")
    assert role_findings() == ""


def test_an_outbox_in_a_second_schema_is_named_by_doctor_and_with_rows_by_status() -> None:
    try:
        execute("CREATE SCHEMA tenant", "CREATE TABLE tenant.outbox_event (LIKE outbox_event INCLUDING ALL)")
        assert "outbox_event exists in several schemas (public, tenant)" in role_findings()
        assert not any("several schemas" in one for one in read_status().problems)

        # When a tenant publishes, with the schema first in its search_path
        execute("SET search_path = tenant, public")
        with transaction.atomic():
            publish(Paid(amount=1))
        execute("RESET search_path", "ANALYZE tenant.outbox_event")

        assert any("several schemas (public, tenant)" in one for one in read_status().problems)
    finally:
        execute("RESET search_path", "DROP SCHEMA tenant CASCADE")


def test_a_temporary_table_that_takes_the_place_of_an_outbox_is_named_by_doctor() -> None:
    execute("CREATE TEMPORARY TABLE outbox_event (LIKE outbox_event INCLUDING ALL)")
    try:
        assert "outbox_event exists in several schemas (pg_temp_" in role_findings()
    finally:
        execute("DROP TABLE pg_temp.outbox_event")


def test_a_time_limit_that_is_too_short_is_named_and_does_not_hold_for_workers(services: Services) -> None:
    administer(
        services.postgres.superuser_url,
        "CREATE ROLE hasty LOGIN PASSWORD 'hasty' IN ROLE towpath",
        "ALTER ROLE hasty SET statement_timeout = 100",
        "ALTER ROLE hasty SET transaction_timeout = '20s'",
        "ALTER ROLE hasty SET synchronous_commit = off",
    )
    connection.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(connection.settings_dict, "USER", "hasty")
        patch.setitem(connection.settings_dict, "PASSWORD", "hasty")
        try:
            # Although a part of the look takes longer than that
            with closing(psycopg2.connect(services.postgres.superuser_url)) as somebody:
                somebody.cursor().execute("LOCK TABLE outbox_event IN ACCESS EXCLUSIVE MODE")
                threading.Timer(0.5, somebody.rollback).start()
                assert "statement_timeout is 100 ms" in role_findings()
            assert "ALTER ROLE hasty SET statement_timeout = '60s'" in role_findings()
            assert "transaction_timeout is 20000 ms" in role_findings()

            connection.close()
            connection_created.connect(lengthen_limits)
            with connection.cursor() as cursor:
                cursor.execute("SELECT current_setting('statement_timeout'), current_setting('transaction_timeout')")
                assert cursor.fetchone() == ("1min", "1min")
                # A setting for web requests as well: a power cut may undo their commits, but not the ledger's.
                cursor.execute("SHOW synchronous_commit")
                assert cursor.fetchone() == ("on",)
        finally:
            connection_created.disconnect(lengthen_limits)
            connection.close()
    administer(services.postgres.superuser_url, "DROP ROLE hasty")


def test_a_worker_lengthens_its_limits(settings: Settings) -> None:
    from towpath.lifecycle import PipelineLifecycle

    assert settings.DRAMATIQ_BROKER
    try:
        broker = StubBroker()
        PipelineLifecycle().before_worker_boot(broker, dramatiq.Worker(broker))
        connection.close()
        with override_settings(), connection.cursor() as cursor:
            cursor.execute("SHOW statement_timeout")
            assert cursor.fetchone() == ("0",)  # none, as before
        assert any(receiver[0][0] == id(lengthen_limits) for receiver in connection_created.receivers)
    finally:
        connection_created.disconnect(lengthen_limits)


SWALLOWS = """
CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN IF NEW.event_context LIKE '%3%' THEN RETURN NULL; END IF; RETURN NEW; END $$;
CREATE TRIGGER swallows BEFORE INSERT ON outbox_event FOR EACH ROW EXECUTE FUNCTION swallow();
"""


@pytest.mark.parametrize(
    ("make", "remove", "named"),
    [
        (SWALLOWS, "DROP FUNCTION swallow CASCADE", "the trigger swallows on outbox_event"),
        (
            "CREATE RULE nothing AS ON INSERT TO outbox_event DO INSTEAD NOTHING",
            "DROP RULE nothing ON outbox_event",
            "the rule nothing on outbox_event",
        ),
    ],
)
def test_what_takes_events_away_without_an_error_is_refused_and_named_by_doctor(
    make: str, remove: str, named: str
) -> None:
    execute(make)
    try:
        assert named in role_findings()
        with transaction.atomic():
            with pytest.raises(EventNotStorable, match="0 of 1 rows of outbox_event"):
                publish(Paid(amount=3))
            assert not OutboxEvent.objects.exists()
        with transaction.atomic(), pytest.raises(EventNotStorable, match="of 2 rows of outbox_event"):
            publish_many([Paid(amount=1), Paid(amount=3)])
        assert not OutboxEvent.objects.exists()
        with transaction.atomic(), pytest.raises(EventNotStorable, match="0 of 1 rows of outbox_event"):
            publish_many([UserUpdated(user_id=7, changes={}), Paid(amount=3)])
        assert not OutboxUserChange.objects.exists()
    finally:
        execute(remove)


def test_everything_is_well_here() -> None:
    create_users(3)

    assert role_findings() == ""
