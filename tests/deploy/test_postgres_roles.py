"""The whole path under the roles of deploy/postgres, and what each of them may not do."""

from __future__ import annotations

import contextlib
import json
import uuid
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import psycopg2
import psycopg2.errors
import pytest

from tests.deploy.conftest import stored_emails
from tests.deploy.management import QUEUES, ask, consumed_queues, policy
from tests.waiting import eventually
from towpath.conf.names import QueueNames

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

    from tests.deploy.deployment import Deployment

_WAIT_SECONDS = 90
_COLUMNS = "event_type, event_date_time, event_context, metadata_version"
_VALUES = "'tested', now(), '{}', 1"
#: Seals are numbered from 1 on, so the number is free whatever the tests before have sealed.
_INSERT_SEAL = (
    "INSERT INTO pipeline_seal (number, last_position, sealed_at, statement, digest) VALUES (0, 0, now(), '', '')"
)
_TAKEN_SHIFTS = "pipeline_shift WHERE taken_at > clock_timestamp() - interval '5 min'"
_INSERT_EVENT = f"INSERT INTO outbox_event ({_COLUMNS}) VALUES ('tested', now(), %s, 1) RETURNING id, xid"


def test_the_processes_of_the_compose_file_carry_events_with_the_rights_they_have(
    deployment: Deployment, clickhouse: Client
) -> None:
    """Every role of the image, started by its own command, with the environment of its container: each is another role
    of PostgreSQL's and another user of RabbitMQ's. On quorum queues, as on a cluster."""
    # Given the deployment, running; the scheduler, which may not declare the queue, after the dispatcher
    deployment.vhost = f"roles-{uuid.uuid4().hex}"
    deployment.changes["RABBITMQ_QUEUE_TYPE"] = "quorum"
    deployment.changes["CANARY_SECONDS"] = "5"
    deployment.set_up_rabbitmq()
    processes = [deployment.start(role) for role in ("web", "dispatcher", "aggregator")]
    eventually(
        lambda: consumed_queues(deployment) >= set(QueueNames.of("")), seconds=_WAIT_SECONDS, what="all are consumed"
    )
    with closing(deployment.connect_as_superuser()) as connection, connection, connection.cursor() as cursor:
        cursor.execute("UPDATE pipeline_shift SET taken_at = clock_timestamp() - interval '1 hour'")
    processes.append(deployment.start("scheduler"))
    eventually(lambda: _is_healthy(deployment), seconds=_WAIT_SECONDS, what="the web is healthy")

    # When somebody signs up, and the web publishes an event of its own
    by_web, by_sql = (f"{uuid.uuid4().hex}@example.com" for _ in range(2))
    assert deployment.sign_up(by_web) == 201
    with closing(deployment.connect("web")) as connection, connection, connection.cursor() as cursor:
        cursor.execute(_INSERT_EVENT, [json.dumps({"email": by_sql})])

    # Then both events arrive, each once, the scheduler's ticks as well, and nobody was refused anything on the way
    eventually(
        lambda: {by_web, by_sql} <= set(stored_emails(clickhouse)), seconds=_WAIT_SECONDS, what="both are stored"
    )
    with closing(deployment.connect_as_superuser()) as connection, connection.cursor() as cursor:
        eventually(lambda: _count(cursor, "outbox_event") + _count(cursor, "outbox_user") == 0, seconds=_WAIT_SECONDS)
        eventually(lambda: _count(cursor, _TAKEN_SHIFTS) == 2, seconds=_WAIT_SECONDS, what="the ticks arrive")
    assert [stored_emails(clickhouse).count(email) for email in (by_web, by_sql)] == [1, 1]
    assert deployment.refusals() == []
    assert all(process.is_running for process in processes)
    assert "metrics_not_served" not in (deployment.log_folder / "scheduler.log").read_text()

    # And the queues are of the type that the virtual host was made with, and capped
    queues = {queue["name"]: queue["type"] for queue in ask(deployment, f"queues/{deployment.vhost}")}
    assert queues == dict.fromkeys(QUEUES, "quorum")
    for queue in ("towpath.aggregate", "towpath.aggregate_backlog"):
        cap = eventually(partial(policy, deployment, queue), seconds=_WAIT_SECONDS, what="the policy is shown")
        assert cap["overflow"] == "reject-publish"
        assert cap["max-length"] > 0
    assert not policy(deployment, "towpath.dispatch")

    # And what is stored is verified and sealed with the pipeline's rights
    deployment.manage("dispatcher", "pipeline", "verify")
    deployment.manage("dispatcher", "pipeline", "seals", "make")
    assert json.loads(deployment.manage("dispatcher", "pipeline", "seals", "list", "--json"))

    # And the pipeline has sent canaries, found them in the event store, and recorded a recovery, with its own rights
    recovered = json.loads(deployment.manage("dispatcher", "pipeline", "recover", "--json"))
    assert recovered["windows"] == 0
    eventually(
        lambda: json.loads(deployment.manage("web", "pipeline", "status", "--json"))["canary"]["seconds"] is not None,
        seconds=_WAIT_SECONDS,
        what="a canary is measured",
    )

    # And the status, asked with the pipeline's rights and with the web's, is the same and well
    assert json.loads(deployment.manage("dispatcher", "pipeline", "status", "--json"))["dead_letters"] == 0
    assert json.loads(deployment.manage("web", "pipeline", "status", "--json"))["dead_letters"] == 0
    ask(deployment, f"vhosts/{deployment.vhost}", method="DELETE")


def test_a_user_whose_event_is_undelivered_cannot_be_deleted_by_the_web(deployment: Deployment) -> None:
    """Django looks for events that point to the user, with the web's rights, and finds one."""
    email = f"{uuid.uuid4().hex}@example.com"
    script = f"""
import django; django.setup()
from django.db.models import ProtectedError
from backend.users.use_cases import CreateUser, CreateUserRequest
user = CreateUser().execute(CreateUserRequest(email="{email}", first_name="A", last_name="B")).result
try:
    user.delete()
except ProtectedError:
    print("protected")
"""
    assert deployment.manage("web", "shell", "--no-imports", "--command", script).strip() == "protected"
    with closing(deployment.connect_as_superuser()) as connection, connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM outbox_user")


def test_every_way_to_publish_works_with_the_rights_of_the_web(migrated: Deployment) -> None:
    """Each names the columns that it fills, and neither id nor xid is among them."""
    script = """
import django; django.setup()
from django.db import transaction
from django.utils import timezone
from towpath import Event, publish, publish_many
from towpath.outbox.models import OutboxEvent
from backend.users.models import OutboxUser, User
class Tried(Event):
    n: int
user = User.objects.create(email="ways@example.com")
row = dict(event_type="tried", event_date_time=timezone.now(), event_context="{}")
with transaction.atomic():
    publish(Tried(n=1))
    publish_many(Tried(n=n) for n in range(3))
    OutboxUser.objects.create(user=user)
    OutboxUser.objects.bulk_create([OutboxUser(user=user)])
    OutboxUser.objects.bulk_create([OutboxUser(user=user)], batch_size=1)
    OutboxUser(user=user).save()
    OutboxEvent.objects.create(**row)
    OutboxEvent.objects.bulk_create([OutboxEvent(**row)] )
    saved = OutboxEvent(**row)
    saved.save()
    print(saved.pk > 0, OutboxEvent.objects.filter(pk=saved.pk).values_list("xid").get() > (0,))
    transaction.set_rollback(True)
"""
    assert migrated.manage("web", "shell", "--no-imports", "--command", script).strip() == "True True"
    with closing(migrated.connect_as_superuser()) as connection, connection, connection.cursor() as cursor:
        cursor.execute("DELETE FROM users WHERE email = 'ways@example.com'")


def test_connections_of_the_web_leave_the_pipeline_its_own(migrated: Deployment) -> None:
    """As many as PostgreSQL lets the web have, of 186 that it asks for."""
    with contextlib.ExitStack() as opened:
        refused = []
        for _ in range(186):
            try:
                opened.enter_context(closing(migrated.connect("web")))
            except psycopg2.OperationalError as error:
                refused.append(str(error))
        assert 100 < len(refused) < 186
        assert all("too many connections for role" in error for error in refused)

        with closing(migrated.connect("dispatcher")) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pipeline_batch")
        migrated.manage("dispatcher", "pipeline", "outboxes", "list")


@pytest.mark.parametrize(
    ("service", "statement"),
    [
        ("web", "SELECT event_context FROM outbox_event"),
        ("web", "UPDATE outbox_event SET event_context = '{}'"),
        ("web", "UPDATE outbox_user SET user_id = 1"),
        ("web", "DELETE FROM outbox_event"),
        ("web", "DELETE FROM outbox_user"),
        ("web", "TRUNCATE outbox_event"),
        ("web", f"INSERT INTO outbox_event (xid, {_COLUMNS}) VALUES ('3', {_VALUES})"),
        ("web", f"INSERT INTO outbox_event (xid, {_COLUMNS}) VALUES (DEFAULT, {_VALUES})"),
        ("web", f"INSERT INTO outbox_event (id, {_COLUMNS}) VALUES (7, {_VALUES})"),
        ("web", f"INSERT INTO outbox_event (id, {_COLUMNS}) OVERRIDING SYSTEM VALUE VALUES (7, {_VALUES})"),
        ("web", "INSERT INTO outbox_user (id, xid, user_id) VALUES (7, '3', 1)"),
        ("web", "COPY outbox_event FROM STDIN"),
        ("web", "SET session_replication_role = replica"),
        ("web", "ALTER TABLE outbox_event DROP CONSTRAINT outbox_outboxevent_limits"),
        ("web", "ALTER ROLE towpath_web CONNECTION LIMIT 1000"),
        (
            "web",
            "INSERT INTO pipeline_batch (outbox, ids, rows, bytes, dispatched_at) VALUES ('a', '{1}', 1, 1, now())",
        ),
        ("web", "UPDATE pipeline_cursor SET is_rewound = true"),
        ("web", "DELETE FROM pipeline_window"),
        ("web", "DELETE FROM pipeline_deadletter"),
        ("web", "UPDATE pipeline_pause SET paused_by = 'somebody else'"),
        ("web", "DELETE FROM django_migrations"),
        ("web", "CREATE TABLE mine (x int)"),
        ("web", "ALTER TABLE users ADD COLUMN x int"),
        ("web", "DROP TABLE outbox_event"),
        ("web", "SET ROLE towpath_migrator"),
        ("dispatcher", "SELECT password FROM users"),
        ("dispatcher", "SELECT is_superuser FROM users"),
        ("dispatcher", "UPDATE users SET email = 'x'"),
        ("dispatcher", "DELETE FROM users"),
        ("dispatcher", "SELECT * FROM django_session"),
        ("dispatcher", "INSERT INTO outbox_user (user_id) VALUES (1)"),
        ("dispatcher", f"INSERT INTO outbox_event ({_COLUMNS}) VALUES ('forged', now(), '{{}}', 1)"),
        ("dispatcher", f"INSERT INTO outbox_event (xid, {_COLUMNS}) VALUES ('3', 'ledger_sealed', now(), '{{}}', 1)"),
        ("dispatcher", "UPDATE outbox_event SET event_context = '{}'"),
        ("dispatcher", "CREATE TABLE mine (x int)"),
        ("dispatcher", "TRUNCATE pipeline_batch"),
        ("dispatcher", "UPDATE pipeline_seal SET digest = ''"),
        ("dispatcher", "DELETE FROM pipeline_seal"),
        ("dispatcher", "UPDATE pipeline_coverage SET columns = ''"),
        ("dispatcher", "DELETE FROM pipeline_coverage"),
        ("dispatcher", "UPDATE pipeline_proof SET digest = ''"),
        ("dispatcher", "UPDATE pipeline_packedproofs SET digests = '{}'"),
        ("web", "DELETE FROM pipeline_proof"),
        ("web", "DELETE FROM pipeline_seal"),
    ],
)
def test_a_role_is_refused_what_it_does_not_need(migrated: Deployment, service: str, statement: str) -> None:
    with (
        closing(migrated.connect(service)) as connection,
        connection.cursor() as cursor,
        pytest.raises(psycopg2.errors.InsufficientPrivilege),
    ):
        cursor.execute(statement)


@pytest.mark.parametrize(
    ("service", "statement"),
    [
        ("web", "SELECT id, xid, bound, event_type FROM outbox_event"),
        ("web", "SELECT count(*) FROM pipeline_window"),
        ("web", "SELECT name FROM django_migrations"),
        ("dispatcher", "SELECT email, first_name, last_name, created_at FROM users"),
        ("dispatcher", "UPDATE outbox_event SET xid = xid"),
        ("dispatcher", "DELETE FROM outbox_user WHERE false"),
        ("dispatcher", "DELETE FROM pipeline_deadletter WHERE false"),
        ("dispatcher", "INSERT INTO pipeline_coverage (columns) VALUES ('1:outbox')"),
        ("dispatcher", _INSERT_SEAL),
        (
            "dispatcher",
            f"INSERT INTO outbox_event ({_COLUMNS}) VALUES ('ledger_sealed', now(), '{{}}', 1) RETURNING id",
        ),
        *(
            ("dispatcher", f"INSERT INTO outbox_event ({_COLUMNS}) VALUES ('{event}', now(), '{{}}', 1)")
            for event in ("canary_sent", "recovery_run", "dead_letters_replayed", "pipeline_action_failed")
        ),
        ("dispatcher", "UPDATE pipeline_contradictedwindow SET contradiction = ''"),
        ("dispatcher", "DELETE FROM pipeline_packedproofs WHERE false"),
        ("dispatcher", "DELETE FROM pipeline_proof WHERE false"),
        ("web", "SELECT count(*) FROM pipeline_seal"),
        ("web", "INSERT INTO pipeline_pause VALUES ('a', 'ada', 'repair', now()) ON CONFLICT DO NOTHING"),
        ("web", "DELETE FROM pipeline_pause WHERE outbox = 'a' RETURNING outbox"),
        ("migrate", "ALTER TABLE outbox_event ADD COLUMN added int"),
    ],
)
def test_a_role_may_do_what_it_needs(migrated: Deployment, service: str, statement: str) -> None:
    with closing(migrated.connect(service)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        connection.rollback()


def test_the_doctor_has_nothing_against_what_watches_over_the_events(migrated: Deployment) -> None:
    script = "from towpath.watch.database import meddling_problems; print(list(meddling_problems()))"

    assert migrated.manage("dispatcher", "shell", "--no-imports", "--command", script).strip() == "[]"


def test_roles_and_migrations_can_be_repeated(migrated: Deployment) -> None:
    migrated.apply_roles()

    assert "nothing to do" in migrated.run("migrate")
    # With the web's rights: what its pod waits for is there.
    migrated.run("wait", service="web")


def _is_healthy(deployment: Deployment) -> bool:
    try:
        deployment.run("web", "healthy")
    except AssertionError:
        return False
    return True


def _count(cursor: psycopg2.extensions.cursor, table: str) -> int:
    cursor.execute(f"SELECT count(*) FROM {table}")
    ((count,),) = cursor.fetchall()
    cursor.connection.rollback()
    return int(count)
