"""What holds back vacuum in the benchmarks does hold it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.db import connection

from tests.benchmarks import holders
from tests.benchmarks.traffic import publish_events
from tests.waiting import eventually

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from tests.services import Services

pytestmark = pytest.mark.own_services


def _rows_left_by_vacuum() -> int:
    """Of ten dead ones."""
    publish_events(10)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM outbox_event")
        cursor.execute("VACUUM outbox_event")
        cursor.execute("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'outbox_event'")
        return int(cursor.fetchone()[0])


@pytest.mark.parametrize("kind", ["session", "prepared transaction", "replication slot"])
def test_no_row_that_dies_meanwhile_is_removed(services: Services, kind: str) -> None:
    holder: AbstractContextManager[None] = {
        "session": lambda: holders.session(services.postgres.url),
        "prepared transaction": lambda: holders.prepared_transaction(services.postgres.url),
        "replication slot": lambda: holders.replication_slot(services.postgres.superuser_url),
    }[kind]()

    with holder:
        assert _rows_left_by_vacuum() == 10
    # An ANALYZE of the server's own may have a snapshot at the moment.
    eventually(lambda: _rows_left_by_vacuum() == 0, seconds=30)
