"""A session that holds back vacuum is named by `status`, `doctor` and a gauge, with what ends it."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

import psycopg2
import psycopg2.extras
import pytest
from django.db import connection

from tests.administering import administer, on_database
from tests.benchmarks import holders
from tests.integration.manage import doctor, here, status
from tests.integration.rows import create_users, execute
from tests.integration.windows import sealed
from tests.waiting import eventually
from towpath.ledger.ack import ack
from towpath.ledger.transaction_ages import Age
from towpath.telemetry.metrics import vacuum_held_seconds
from towpath.watch import vacuum
from towpath.watch.gauges import read_gauges
from towpath.watch.vacuum import Holder, find_holders

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.services import Services


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holders are named immediately."""
    monkeypatch.setattr(vacuum, "LATE_SECONDS", 0.0)


@contextlib.contextmanager
def session(services: Services, *statements: str, database: str = "towpath") -> Iterator[int]:
    """A session of an administrator's that has run these, and waits; its process."""
    url = on_database(services.postgres.superuser_url, database)
    with contextlib.closing(psycopg2.connect(url, application_name="forgotten")) as other, other.cursor() as cursor:
        other.autocommit = True
        for statement in statements:
            cursor.execute(statement)
        yield other.info.backend_pid
        # The server notices a closed connection some time later.
        cursor.execute("ROLLBACK")


def named() -> list[str]:
    return [problem for problem in status()["problems"] if "held back vacuum" in problem]


def held() -> dict[str, float]:
    return dict(read_gauges()[vacuum_held_seconds])


def verified(*, minutes_ago: int) -> None:
    """A receipt that says that a transaction which begins now ended so long ago."""
    create_users(1, prefix=f"verified{minutes_ago}")
    window = sealed()
    ack(window, delivered=window.rows)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE pipeline_window SET sealed_at = t, dispatched_from = t, dispatched_to = t, acked_at = t,"
            " verified_at = t FROM (SELECT now() - make_interval(mins => %s) AS t) AS long_ago WHERE id = %s",
            [minutes_ago, window.id],
        )


def ours(found: list[Holder]) -> list[Holder]:
    """Without what the server does by itself."""
    return [holder for holder in found if holder.owner or holder.kind != "session"]


# --- Sessions ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
def test_a_forgotten_session_is_named_with_the_command_that_ends_it(services: Services) -> None:
    with session(services, "BEGIN", "SELECT pg_current_xact_id()") as pid:
        (problem,) = named()
        assert problem.startswith(
            f"the session {pid} (application 'forgotten', user postgres, idle in transaction) has held back vacuum for"
        )
        assert f"end it with `SELECT pg_terminate_backend({pid})`" in problem
        assert "docs/runbook.md, TowpathVacuumHeldBack" in problem
        assert here("pipeline", "status").returncode == 1

        code, findings = doctor()
        assert code == 1
        assert f"the session {pid} " in findings["vacuum"]["detail"]
        assert held()["session"] > 0

    assert named() == []
    assert held() == {"session": 0, "standby": 0, "slot": 0, "prepared": 0}


def test_a_session_is_named_after_ten_minutes_only(services: Services) -> None:
    with session(services, "BEGIN", "SELECT pg_current_xact_id()"):
        assert len(ours(find_holders())) == 1
        assert named() == []


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "statements",
    [
        # A transaction of READ COMMITTED that has written nothing has no snapshot between its statements.
        ("BEGIN", "SELECT"),
        ("SELECT",),
    ],
)
def test_a_session_without_a_snapshot_holds_back_nothing(services: Services, statements: tuple[str, ...]) -> None:
    with session(services, *statements):
        assert named() == []


@pytest.mark.usefixtures("impatient")
def test_a_session_of_another_database_holds_back_nothing_here(services: Services) -> None:
    with session(services, "BEGIN", "SELECT pg_current_xact_id()", database="postgres"):
        assert named() == []


@pytest.mark.usefixtures("impatient")
def test_a_query_that_takes_long_is_named_while_it_runs(services: Services) -> None:
    with contextlib.closing(psycopg2.connect(services.postgres.superuser_url, async_=1)) as asking:
        psycopg2.extras.wait_select(asking)
        process = asking.info.backend_pid
        asking.cursor().execute("SELECT pg_sleep(60)")
        eventually(lambda: process in {int(holder.name) for holder in find_holders()}, seconds=10)
        (problem,) = named()
        administer(services.postgres.superuser_url, f"SELECT pg_terminate_backend({process})")

    assert f"the session {process} (application '', user postgres, active)" in problem
    assert "or wait for its query to finish" in problem


def test_the_young_snapshot_of_an_old_transaction_is_judged_by_receipts() -> None:
    """A transaction without an id of its own, as that of a report, holds back what its last statement may look into."""
    candidate = vacuum._Candidate("session", "1", "report", "", "active", 7200.0, False, False, 1000)

    assert candidate.needs_ages
    assert candidate.judged_by([Age(620.0, 1500), Age(1230.0, 9000)]).seconds == 620
    assert candidate.judged_by([Age(620.0, 900), Age(1230.0, 950)]).seconds == 7200
    assert candidate.judged_by([]).seconds == 7200


# --- What outlives its session -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
def test_a_prepared_transaction_is_named_with_the_command_that_ends_it(services: Services) -> None:
    with holders.prepared_transaction(services.postgres.url):
        (problem,) = named()
        assert problem.startswith("the prepared transaction 'holds_back_vacuum' (user towpath) has held back vacuum")
        assert held()["prepared"] > 0
        (command,) = re.findall(r"`(ROLLBACK PREPARED [^`]+)`", problem)
        execute(command)
        assert named() == []
        execute("BEGIN", "SELECT pg_current_xact_id()", "PREPARE TRANSACTION 'holds_back_vacuum'")


def test_the_slot_of_a_standby_that_is_gone_is_named_by_receipts(services: Services) -> None:
    """No time is recorded of what a slot holds."""
    with holders.replication_slot(services.postgres.superuser_url):
        assert [holder.kind for holder in ours(find_holders())] == ["slot"]
        assert named() == []

        verified(minutes_ago=50)
        verified(minutes_ago=30)

        (problem,) = named()
        assert problem.startswith(
            "the replication slot 'holds_back_vacuum' (not in use) has held back vacuum for 50 min or more ("
        )
        assert "`SELECT pg_drop_replication_slot('holds_back_vacuum')`" in problem
        assert held()["slot"] == pytest.approx(3000, abs=60)


def test_a_slot_is_not_older_than_a_receipt_from_before_it(services: Services) -> None:
    verified(minutes_ago=50)
    with holders.replication_slot(services.postgres.superuser_url):
        assert named() == []


def test_a_slot_that_holds_no_rows_is_not_named(services: Services) -> None:
    """As that of a standby without hot_standby_feedback."""
    administer(services.postgres.superuser_url, "SELECT pg_create_physical_replication_slot('without_feedback', true)")
    try:
        verified(minutes_ago=50)
        assert named() == []
    finally:
        administer(services.postgres.superuser_url, "SELECT pg_drop_replication_slot('without_feedback')")


def test_a_standby_without_a_slot_is_named(services: Services) -> None:
    with holders.standby(services.postgres.superuser_url):
        verified(minutes_ago=30)

        (problem,) = named()
        assert problem.startswith("the standby 'holds_back_vacuum' (process ")
        assert "hot_standby_feedback" in problem
        assert held()["standby"] == pytest.approx(1800, abs=60)


# --- A role that may not see everything --------------------------------------------------------------------------


@pytest.fixture
def as_weak_role(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Connections are a role's that may do what the pipeline does and nothing else."""
    execute("CREATE ROLE weak", "GRANT ALL ON ALL TABLES IN SCHEMA public TO weak")
    with monkeypatch.context() as patch:
        patch.setitem(connection.settings_dict["OPTIONS"], "assume_role", "weak")
        connection.close()
        yield
    connection.close()
    execute("DROP OWNED BY weak", "DROP ROLE weak")


@pytest.mark.usefixtures("as_weak_role")
def test_a_role_that_may_not_see_times_judges_by_receipts_and_says_so(services: Services) -> None:
    with session(services, "BEGIN", "SELECT pg_current_xact_id()") as pid:
        assert named() == []
        execute("RESET ROLE")
        verified(minutes_ago=90)
        execute("SET ROLE weak")

        (problem,) = named()

    assert problem.startswith(f"the session {pid} (application 'forgotten', user postgres) has held back vacuum for")
    assert "90 min or more" in problem
    detail = doctor()[1]["vacuum"]["detail"]
    assert "the role weak cannot see" in detail
    assert "GRANT pg_read_all_stats TO weak" in detail


@pytest.mark.usefixtures("as_weak_role")
def test_who_has_a_snapshot_because_another_transaction_is_open_is_not_blamed_for_its_age(services: Services) -> None:
    with session(services, "BEGIN", "SELECT pg_current_xact_id()") as culprit:
        execute("RESET ROLE")
        verified(minutes_ago=90)
        execute("SET ROLE weak")
        with session(services, "BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1"):
            (problem,) = named()

    assert f"the session {culprit} " in problem
