"""Plain SQL of another program publishes events: docs/publishing.md, "From another program"."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from django.db import connection

from backend.users.models import OutboxUser
from deploy.local.postgres import binaries
from tests.integration.event_log import EventLog
from tests.integration.windows import deliver, sealed
from tests.services import Services
from towpath.eventlog.store import EventStore
from towpath.flow.delivery import Delivery
from towpath.outbox.models import OutboxEvent

#: All that the other program may do: write what it reports and the events.
_GRANTS = """
GRANT INSERT, SELECT (id) ON users TO importer;
GRANT INSERT ON outbox_user, outbox_event TO importer;
"""

#: As it stands in docs/publishing.md, with another change around it.
_SCRIPT = """
BEGIN;
WITH new AS (
    INSERT INTO users
        (email, first_name, last_name, password, is_superuser, is_staff, is_active, created_at, updated_at)
    SELECT n || '@example.com', E'O\\'Neil\\t' || n, '\\"', '!', false, false, true, now(), now()
    FROM generate_series(1, 3) AS n
    RETURNING id
)
INSERT INTO outbox_user (user_id) SELECT id FROM new;
INSERT INTO outbox_event (event_type, event_date_time, event_context, metadata_version, bound)
VALUES ('import_finished', '2026-03-04 05:06:07.123456+00', '{"rows":3}', 2, '{"actor":"job:import"}');
COMMIT;

BEGIN;
INSERT INTO outbox_event (event_type, event_date_time, event_context, metadata_version)
VALUES ('never_happened', now(), '{}', 1);
ROLLBACK;

INSERT INTO outbox_event (event_type, event_date_time, event_context, metadata_version)
VALUES ('row_imported', now(), json_build_object('name', E'a\\tb')::text, 1);
"""


@pytest.fixture
def importer(services: Services) -> Iterator[str]:
    """The URL of a role that may insert, and nothing else."""
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE importer LOGIN PASSWORD 'only-for-tests'; {_GRANTS}")
    yield f"postgresql://importer:only-for-tests@127.0.0.1:{services.postgres.port}/towpath"
    with connection.cursor() as cursor:
        cursor.execute("DROP OWNED BY importer; DROP ROLE importer")


def psql(url: str, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [binaries() / "psql", url, "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"],
        input=script,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_psql_inserts_is_delivered_like_any_event(importer: str, store: EventStore, event_log: EventLog) -> None:
    done = psql(importer, _SCRIPT)
    assert (done.returncode, done.stderr) == (0, "")

    # Then each row has the transaction's id, as the dispatcher needs it
    users, events = OutboxUser.objects.order_by("id"), OutboxEvent.objects.order_by("id")
    assert len({row.xid for row in [*users, events[0]]}) == 1
    assert events[1].xid > events[0].xid

    # And the store has what was committed, bound context included
    assert deliver(sealed(), store) is Delivery.ACKED
    stored = [(event.event_type, event.metadata_version, event.event_context) for event in event_log.events()]
    assert stored == [
        ("import_finished", 2, b'{"rows":3}'),
        ("row_imported", 1, b'{"name" : "a\\tb"}'),
        *(
            (
                "user_created",
                1,
                f'{{"email":"{n}@example.com","first_name":"O\'Neil\\t{n}","last_name":"\\\\\\""}}'.encode(),
            )
            for n in (1, 2, 3)
        ),
    ]
    assert [who.actor for who in event_log.who()] == ["job:import", "", "", "", ""]


def test_the_role_needs_nothing_but_insert(importer: str) -> None:
    assert (
        psql(importer, "INSERT INTO outbox_event VALUES (DEFAULT, DEFAULT, NULL, 'x', now(), '{}', 1)").returncode == 0
    )

    for forbidden in ("SELECT * FROM outbox_event", "DELETE FROM outbox_event", "SELECT * FROM pipeline_cursor"):
        assert "permission denied" in psql(importer, forbidden).stderr
