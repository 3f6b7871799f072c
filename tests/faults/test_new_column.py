"""A column is added to the OBT while everything runs, by code that the running workers do not know."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
from django.core.management import CommandError, call_command

from deploy.local.process import PROJECT
from tests.faults.conftest import Run
from tests.integration.manage import manage
from tests.waiting import eventually
from towpath.eventlog.columns import FIRST_OWN_COLUMN_NUMBER
from towpath.outbox.context import bind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DRAIN_SECONDS = 60
#: So long that on a busy machine nobody takes a window from an owner that lives.
_PATIENT = {"LEASE_SECONDS": "30", "UNSEALED_SECONDS": "60", "STORE_TIMEOUT_SECONDS": "30"}

#: The settings of the application as it will be in its next release.
_SETTINGS = """
from dataclasses import replace

from backend.config.settings import *
from towpath.eventlog.columns import {kind}, Column, FromContext

TOWPATH = replace(TOWPATH, columns=(Column("region", {kind}, FromContext("region")),))
"""


@pytest.fixture
def new_code(run: Run, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a process that has the new column. Afterwards the store is as it was."""
    yield _release(tmp_path / "new", kind="TEXT")
    run.stop_writers()
    run.fleet.kill_all()
    run.store.ask("ALTER TABLE event_log DROP COLUMN region")
    run.store.ask(f"DELETE FROM event_log_migration WHERE number = {FIRST_OWN_COLUMN_NUMBER}")


def test_a_column_added_in_the_middle_of_traffic_loses_and_refuses_nothing(run: Run, new_code: dict[str, str]) -> None:
    """Old and new aggregators work beside each other: what the old ones write has the column's default."""
    run.fleet.kill_all()
    run.fleet.ready(run.fleet.dispatcher(**_PATIENT), run.fleet.aggregator(**_PATIENT))
    run.writer(transactions_per_second=30)
    _publish_from(run, "south")
    eventually(lambda: run.oracle.stored(run.name) >= 50, seconds=_DRAIN_SECONDS, what="there is traffic")

    migrated = manage("eventlog", "migrate", **new_code)
    assert migrated.returncode == 0, migrated.stderr
    run.fleet.ready(run.fleet.aggregator(**_PATIENT, **new_code))

    def both_have_written() -> bool:
        _publish_from(run, "north")
        return {"north", ""} <= set(_regions(run, "north"))

    eventually(both_have_written, seconds=_DRAIN_SECONDS, what="the old and the new one have written from the north")
    run.stop_writers()
    verdict = run.judge_when_drained(seconds=_DRAIN_SECONDS)
    assert verdict.dead == 0
    assert _regions(run, "south") == [""]
    # Each window was taken at the first attempt: none was refused, and none had to wait.
    assert run.oracle.ask_postgres("SELECT count(*) FROM pipeline_window WHERE attempts <> 1") == [(0,)]


def test_a_new_column_is_shown_applied_once_and_not_taken_back(new_code: dict[str, str], tmp_path: Path) -> None:
    planned = manage("eventlog", "migrate", "--plan", **new_code)
    checked = manage("eventlog", "migrate", "--check", "--json", **new_code)
    assert (planned.returncode, checked.returncode) == (0, 1)
    assert "column region" in planned.stdout
    assert json.loads(checked.stdout) == {"pending": ["column region"]}

    first, second = (manage("eventlog", "migrate", "--json", **new_code) for _ in range(2))
    assert [json.loads(done.stdout) for done in (first, second)] == [{"done": ["column region"]}, {"done": []}]
    assert "applied   column region" in manage("eventlog", "status", **new_code).stdout

    # The column's declaration gone, or of another kind: not what additions can lead to.
    with pytest.raises(CommandError, match="columns are never dropped"):
        call_command("eventlog", "migrate")
    changed = manage("eventlog", "migrate", **_release(tmp_path / "changed", kind="WHOLE_NUMBER"))
    assert changed.returncode == 1
    assert "append a new column" in changed.stderr
    assert "Traceback" not in changed.stderr


def _release(folder: Path, *, kind: str) -> dict[str, str]:
    folder.mkdir()
    (folder / "next_release.py").write_text(_SETTINGS.format(kind=kind))
    path = os.pathsep.join([str(folder), str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, "DJANGO_SETTINGS_MODULE": "next_release"}


def _publish_from(run: Run, region: str) -> None:
    with bind(region=region):
        run.publish(20, text=f"from the {region}")


def _regions(run: Run, region: str) -> list[str]:
    """What the column holds for the events from a region."""
    found = run.store.ask(f"SELECT DISTINCT region FROM event_log WHERE event_context LIKE '%from the {region}%'")
    return [row[0] for row in found]
