"""`pipeline leave` while there is something left: it delivers what can be delivered, and says what holds the rest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.integration.manage import here, manage
from tests.integration.rows import create_users, undelivered, write_events
from tests.integration.windows import sealed
from towpath.ledger.ack import ack
from towpath.ledger.models import DeadLetter
from towpath.ledger.windows import RefusedRow

if TYPE_CHECKING:
    from subprocess import CompletedProcess

    from tests.integration.event_log import EventLog

#: No service listens there; and who waits for less gives up soon.
NOWHERE = {"EVENT_STORE_URL": "clickhouse://127.0.0.1:9/default", "LEASE_SECONDS": "0.5"}


def answer(done: CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_what_is_there_is_delivered_in_this_process(event_log: EventLog) -> None:
    create_users(3)
    write_events(['{"n":1}'])

    done = here("pipeline", "leave", "--json", "--yes")

    assert (done.returncode, answer(done)["is_drained"]) == (0, True), done.stderr
    assert len(event_log.events()) == 4
    assert undelivered() == {}
    # The sample's classes are still there, so no table goes.
    assert answer(done)["removed"] == []
    assert "delete users.OutboxUser" in answer(done)["next"]


def test_a_dead_letter_is_somebody_s_to_decide(event_log: EventLog) -> None:
    (refused,) = write_events(['{"n":1}'])
    ack(sealed(), delivered={}, refused=[RefusedRow("outbox_event", refused, "does not fit its column")])
    write_events(['{"n":2}'])

    done = here("pipeline", "leave", "--json", "--yes")

    assert (done.returncode, answer(done)["is_drained"]) == (1, False)
    assert answer(done)["left"]["dead_letters"] == 1
    assert "pipeline deadletters list" in answer(done)["next"]
    assert [event.event_context for event in event_log.events()] == [b'{"n":2}']
    assert DeadLetter.objects.get().row_id == refused


def test_a_store_that_takes_nothing_is_named_and_nothing_is_lost() -> None:
    write_events(['{"n":1}'])

    done = manage("pipeline", "leave", "--json", "--yes", **NOWHERE)

    assert done.returncode == 1
    found = answer(done)
    assert found["left"]["rows"]["outbox_event"] == 1
    assert "pipeline doctor" in found["next"]
    assert any("Connection refused" in error or "127.0.0.1" in error for error in found["errors"]), found["errors"]
    assert undelivered()["outbox_event"] == 1
