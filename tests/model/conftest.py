"""The model runs on the real PostgreSQL of the test run; RabbitMQ and the store are the model's own."""

from __future__ import annotations

import contextlib
import logging
import types
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from django.core.management import call_command
from django.db import connection
from django.db.backends.signals import connection_created

from tests.model.ledger import Ledger
from tests.model.puppets import Puppet, stand_still

if TYPE_CHECKING:
    from collections.abc import Iterator

    from django.db.backends.base.base import BaseDatabaseWrapper
    from pytest_django.plugin import DjangoDbBlocker

    from tests.knobs import Knobs
    from tests.services import Services

#: Longer than any test: whatever ends in the model ends because a rule says so.
_FOREVER_SECONDS = 1_000_000.0

_PUPPETS = 6


@pytest.fixture(scope="session")
def django_db_setup(services: Services, django_db_blocker: DjangoDbBlocker) -> None:
    """The real database, migrated."""
    assert services.postgres.is_running
    with django_db_blocker.unblock():
        call_command("migrate", verbosity=0)


def _quick(connection: BaseDatabaseWrapper, **_: object) -> None:
    """Nobody pulls the plug here: commits need not wait for the disk. And who waits for a lock waits forever."""
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = off; SET lock_timeout = '10s'")


@pytest.fixture
def ledger(
    django_db_setup: None,  # noqa: ARG001 - runs first
    django_db_blocker: DjangoDbBlocker,
    monkeypatch: pytest.MonkeyPatch,
    knobs: Knobs,
) -> Iterator[Ledger]:
    """The ledger, empty, read past the product's own code; and nothing that depends on the time of day."""
    knobs(
        lease_seconds=_FOREVER_SECONDS,
        unsealed_seconds=_FOREVER_SECONDS,
        window_rows=8,
        window_bytes=1600,
        batch_ids=2,
    )
    monkeypatch.setattr("towpath.flow.dispatch._PAGE_ROWS", 3)
    monkeypatch.setattr("towpath.ledger.marks.PASSED", 1)
    # Two rows of an outbox are new: three are too many, and with four there is a run.
    monkeypatch.setattr("towpath.flow.dispatch._KEPT_FOR_NEW", 250)
    monkeypatch.setattr("towpath.telemetry.failpoints.reach", stand_still)
    # A pause before the next try that outlasts the test, and no thread that renews leases meanwhile.
    monkeypatch.setattr("towpath.flow.pause.random", types.SimpleNamespace(uniform=lambda *_: _FOREVER_SECONDS))
    # The length of a row in text, and with it where a window is split, would change with the time.
    monkeypatch.setattr("django.utils.timezone.now", lambda: datetime(2024, 1, 1, tzinfo=UTC))
    monkeypatch.setattr("towpath.flow.lease.held", contextlib.nullcontext)
    logging.disable(logging.CRITICAL)
    connection_created.connect(_quick)
    with django_db_blocker.unblock():
        connection.close()
        ledger = Ledger()
        ledger.clear()
        monkeypatch.setattr("towpath.ledger.windows.uuid", ledger.uuids)
        for module in ("windows", "ack"):
            monkeypatch.setattr(f"towpath.ledger.{module}.new_window_id", ledger.uuids.uuid4)
        yield ledger
        ledger.clear()
        ledger.close()
        connection.close()
    connection_created.disconnect(_quick)
    logging.disable(logging.NOTSET)


@pytest.fixture
def puppets(ledger: Ledger) -> Iterator[list[Puppet]]:  # noqa: ARG001 - their connections are set up by it
    puppets = [Puppet(f"puppet {number}") for number in range(_PUPPETS)]
    yield puppets
    for puppet in puppets:
        puppet.leave()
