"""A dispatcher works from its start, whether a scheduler ticks or not; `status` says that none does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.integration.manage import manage
from tests.integration.rows import execute, write_events
from tests.integration.workers import QUICK
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.integration.event_log import EventLog
    from tests.integration.workers import Workers

_WAIT_SECONDS = 30


def test_without_a_scheduler_events_are_delivered_and_status_misses_it(workers: Workers, event_log: EventLog) -> None:
    workers.idle_dispatcher(**QUICK)
    workers.aggregator(**QUICK)
    write_events(["{}"] * 3)
    eventually(lambda: len(event_log.events()) == 3, seconds=_WAIT_SECONDS, what="the events are stored without a tick")
    assert _problems() == []

    # As if that had been two minutes ago.
    execute("UPDATE pipeline_shift SET version = version + 1, taken_at = taken_at - interval '2 minutes'")
    write_events(["{}"] * 2)
    eventually(lambda: len(event_log.events()) == 5, seconds=_WAIT_SECONDS, what="dispatch continues")
    problems = _problems()

    assert len(problems) == 2
    for shift, problem in zip(("dispatch", "recover"), problems, strict=True):
        assert f"no tick for the {shift} shift has arrived" in problem
        assert "`manage.py pipeline run scheduler`" in problem
        assert problem.endswith("docs/runbook.md, TowpathSchedulerSilent")


def _problems() -> list[str]:
    answer = manage("pipeline", "status", "--json")
    problems: list[str] = json.loads(answer.stdout)["problems"]
    assert answer.returncode == bool(problems)
    return problems
