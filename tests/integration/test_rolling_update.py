"""A rolling update that brings a new outbox: programs of before it leave alone what they do not know."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.integration.event_log import EventLog
from tests.integration.rows import undelivered, write_events
from tests.integration.test_new_outbox import _FROZEN, _LEAN, Shop, ask, migrations, publish, shop
from tests.integration.workers import QUICK, Workers
from tests.waiting import eventually
from towpath.ledger.models import Batch

if TYPE_CHECKING:
    from tests.services import Services

__all__ = ["migrations", "shop"]

_WAIT_SECONDS = 90


@pytest.mark.timeout(300)
def test_an_old_aggregator_leaves_a_new_outbox_to_the_new_dispatcher(
    shop: Shop, workers: Workers, event_log: EventLog, services: Services, request: pytest.FixtureRequest
) -> None:
    # Given a dispatcher that knows the new outboxes, and an aggregator that does not
    workers.dispatcher(**QUICK, **shop.environment)
    workers.aggregator(**QUICK)

    # When events of both are published
    publish(shop)
    write_events(["{}"] * 20)

    # Then each is stored once, and the old aggregator says one line about it, without a traceback
    eventually(lambda: event_log.count() == 25, seconds=_WAIT_SECONDS)
    eventually(lambda: undelivered() == {}, seconds=_WAIT_SECONDS)
    eventually(lambda: ask(f"SELECT count(*) FROM {_LEAN}, {_FROZEN}") == [(0,)], seconds=_WAIT_SECONDS)
    (log,) = (services.folder / "log" / request.node.name[:80]).glob("*aggregator*")
    lines = log.read_text()
    assert lines.count("unknown_outbox_left") == 1
    assert "Traceback" not in lines
    assert "KeyError" not in lines


@pytest.mark.timeout(300)
def test_an_old_dispatcher_leaves_the_batches_of_a_new_outbox_alone(
    shop: Shop, workers: Workers, event_log: EventLog
) -> None:
    # Given batches of a new outbox in the ledger, and workers of before it
    publish(shop)
    shop.must("shell", "--no-imports", "--command", _DISPATCH)
    assert Batch.objects.count() == 2
    workers.dispatcher(**QUICK)
    workers.aggregator(**QUICK)
    write_events(["{}"] * 3)

    # Then others' events are delivered, the new ones wait, and status of the old program names them
    eventually(lambda: event_log.count() == 3, seconds=_WAIT_SECONDS)
    old = json.loads(shop.manage("pipeline", "status", "--json", **_OLD).stdout)
    named = [problem for problem in old["problems"] if _LEAN in problem or _FROZEN in problem]
    assert len(named) == 2
    assert all("During a rolling update" in problem for problem in named)
    assert Batch.objects.filter(window=None).count() == 2

    # And the new one delivers them
    shop.must("pipeline", "recover")
    eventually(lambda: Batch.objects.count() == 0, seconds=_WAIT_SECONDS)
    found = Counter(event.event_type for event in event_log.events())
    del found["recovery_run"]
    assert found.total() == 8


_OLD = {"DJANGO_SETTINGS_MODULE": "backend.config.settings"}
_DISPATCH = """
import django; django.setup()
from towpath.outbox.models import all_outboxes
from towpath.flow.dispatch import Dispatcher, DispatchLimits
limits = DispatchLimits(batch_ids=100, batch_bytes=10**6, in_flight_rows=1000)
dispatcher = Dispatcher(all_outboxes(), limits=limits, enqueue=lambda batches: None)
dispatcher.create_cursors()
dispatcher.look()
from django.db import connection
connection.cursor().execute("UPDATE pipeline_batch SET dispatched_at = dispatched_at - interval '1 hour'")
"""
