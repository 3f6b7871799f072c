"""Clocks that are wrong, and a PostgreSQL that is set back while the event store is kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import pytest
from django.db import connection

from deploy.local.postgres import HERE, binaries, own_folder, programs
from deploy.local.process import setpriv
from tests.administering import let_role_administer, on_database
from tests.faults.conftest import Run
from tests.faults.stages import (
    committed_keys,
    freeze_between_transactions,
    highest_ids,
    ids_above,
    publish_both,
    publish_in_each_stage,
    thaw_all,
)
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.local.process import Process
    from tests.knobs import Knobs

_DRAIN_SECONDS = 60
_HOUR = 3600
#: So long that a busy machine does not let one run out, while an owner that lives holds it.
_LEASE_SECONDS = 5.0
_HOLD_SECONDS = 2.5

#: Imported by Python before anything else that is imported by name.
_SITECUSTOMIZE = """
import datetime, os, time

_SECONDS = int(os.environ["CLOCK_AHEAD_SECONDS"])
_time, _time_ns, _datetime = time.time, time.time_ns, datetime.datetime

class _Meta(type):
    def __instancecheck__(cls, instance):
        return isinstance(instance, _datetime)

    def __subclasscheck__(cls, subclass):
        return issubclass(subclass, _datetime)

class datetime_(_datetime, metaclass=_Meta):
    @classmethod
    def now(cls, tz=None):
        return _datetime.now(tz) + datetime.timedelta(seconds=_SECONDS)

    @classmethod
    def utcnow(cls):
        return _datetime.now(datetime.timezone.utc).replace(tzinfo=None) + datetime.timedelta(seconds=_SECONDS)

datetime_.__name__ = datetime_.__qualname__ = "datetime"
time.time = lambda: _time() + _SECONDS
time.time_ns = lambda: _time_ns() + _SECONDS * 1_000_000_000
datetime.datetime = datetime_
"""

#: Slow also because one of the restores replaces the PostgreSQL cluster of the whole test run.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_connection_closed")]

_Way = Literal["dumped, into the same cluster", "dumped, into a new cluster", "data folder"]


@pytest.mark.parametrize("seconds", [_HOUR, -_HOUR])
def test_workers_whose_clocks_are_an_hour_off_deliver_everything_once(run: Run, tmp_path: Path, seconds: int) -> None:
    """T28: the dispatcher's clock is an hour ahead and the aggregators' an hour behind, and the other way round.

    One aggregator is killed with a window of its own, so that its lease must run out; another one lives and holds its
    window for half of its lease, so that a process with a wrong clock would take it over.

    Shifted in the worker processes: `time.time`, `time.time_ns`, `datetime.now`, `utcnow` and `today`, and so
    everything in Python that asks what time it is: log, message timestamps, dramatiq. Not shifted: the monotonic clock
    (a wrong clock does not change that either), `time.localtime()` and `clock_gettime()`, the C libraries (libpq,
    OpenSSL), and the services, the writers and the oracle.
    """
    (tmp_path / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    quick = {"LEASE_SECONDS": str(_LEASE_SECONDS), "UNSEALED_SECONDS": "30"}
    run.fleet.kill_all()
    ((began,),) = run.oracle.ask_postgres("SELECT clock_timestamp()")
    dispatcher = run.fleet.dispatcher(**quick, **_clock(tmp_path, seconds))
    logged_before = len(dispatcher.program.log.read_text())
    doomed = run.fleet.aggregator(FAILPOINTS="sealed=kill@1", **quick, **_clock(tmp_path, -seconds))
    run.fleet.ready(dispatcher, doomed)
    run.publish(50)
    run.fleet.wait_until_dead(doomed)

    survivor = run.fleet.aggregator(FAILPOINTS=f"loaded=sleep:{_HOLD_SECONDS}@1", **quick, **_clock(tmp_path, -seconds))
    run.fleet.ready(survivor)
    run.publish(50)
    run.create_users(50)

    assert run.judge_when_drained(seconds=_DRAIN_SECONDS).stored == 150
    assert abs(_seconds_ahead(dispatcher) - seconds) < 600
    assert abs(_seconds_ahead(survivor) + seconds) < 600
    # The killed one's window was taken over once, not before its time. Nobody took one from an owner that lived, nor
    # a batch that an aggregator was still to seal.
    (attempts, held_seconds), *others = run.oracle.ask_postgres(
        "SELECT attempts, extract(epoch FROM acked_at - sealed_at)::float FROM pipeline_window"
        " WHERE sealed_at > %s ORDER BY sealed_at",
        [began],
    )
    assert attempts == 2
    assert held_seconds >= _LEASE_SECONDS
    assert {attempts for attempts, _ in others} == {1}
    assert max(held_seconds for _, held_seconds in others) >= _HOLD_SECONDS
    assert "batches_recovered" not in dispatcher.program.log.read_text()[logged_before:]


@pytest.mark.parametrize("way", ["dumped, into the same cluster", "dumped, into a new cluster", "data folder"])
@pytest.mark.own_services
def test_after_a_restore_of_postgresql_only_what_it_holds_again_is_stored_again(
    run: Run, knobs: Knobs, tmp_path: Path, way: _Way
) -> None:
    """T34: what was committed after the backup is gone from PostgreSQL and stays in the store; its ids are used again.

    The backup holds delivered events, and undelivered ones in each state: sealed, in a batch, not yet seen. By
    pg_dump, sequences and cursor rewind, and transaction ids do not (the same cluster), or are others (a new one). By
    pg_basebackup, transaction ids rewind, too.

    The workers are frozen meanwhile and not replaced: they lose their sessions and remember what never happened.
    """
    knobs(lease_seconds=1)
    run.fleet.kill_all()
    workers = (run.fleet.dispatcher(), run.fleet.aggregator())
    run.fleet.ready(*workers)
    with_window, without = publish_in_each_stage(run, workers, drain_seconds=_DRAIN_SECONDS)
    backup = _Backup(run, tmp_path, way)
    highest = highest_ids(run)

    # Life continues, and is forgotten.
    forgotten = publish_both(run)
    given_then = ids_above(run, highest)
    thaw_all(workers)
    run.judge_when_drained(seconds=_DRAIN_SECONDS)
    freeze_between_transactions(run, workers)
    backup.restore()

    # The same ids come again, with other events.
    new = publish_both(run)
    assert ids_above(run, highest) == given_then
    thaw_all(workers)
    run.wait_until_drained(seconds=_DRAIN_SECONDS)

    committed = committed_keys(run)
    copies = run.oracle.copies_by_key(run.name)
    assert committed == with_window | without | new
    assert copies.keys() == committed | forgotten
    assert max(copies.values()) <= 2
    # What was sealed in the backup is replayed under its token, and found.
    assert {key for key, count in copies.items() if count > 1} <= without
    assert not run.oracle.ask_postgres("SELECT FROM pipeline_deadletter")
    assert not run.sampler.broken


class _Backup:
    """A backup of the running PostgreSQL, and its restore."""

    def __init__(self, run: Run, folder: Path, way: _Way) -> None:
        self._postgres = run.fleet.services.postgres
        self._data = run.fleet.services.folder / "postgres" / "data"
        self._copy = self._data.with_name("data.backup")
        self._dump = folder / "dump"
        self._way = way
        if way == "data folder":
            shutil.rmtree(self._copy, ignore_errors=True)
            # As the account of the server, which must own its data.
            own_folder(self._copy)
            backup = (f"{programs()}/pg_basebackup", "--checkpoint=fast", "--no-sync", f"--pgdata={HERE}")
            command = [*setpriv(self._postgres.program), *backup, f"--dbname={self._postgres.superuser_url}"]
            subprocess.run(command, cwd=self._copy, check=True, capture_output=True)
        else:
            self._call("pg_dump", "--format=custom", f"--file={self._dump}")

    def restore(self) -> None:
        connection.close()
        match self._way:
            case "data folder":
                self._replace_data(self._copy)
            case "dumped, into a new cluster":
                self._replace_data(None)
                self._call("pg_restore", "--exit-on-error", str(self._dump))
            case _:
                self._call("psql", "--command=DROP DATABASE towpath WITH (FORCE)", database="postgres")
                self._call("psql", "--command=CREATE DATABASE towpath OWNER towpath", database="postgres")
                self._call("pg_restore", "--exit-on-error", str(self._dump))

    def _replace_data(self, by: Path | None) -> None:
        self._postgres.stop()
        shutil.rmtree(self._data)
        if by is not None:
            by.rename(self._data)
        self._postgres.start()
        self._postgres.wait_until_ready()
        let_role_administer(self._postgres.superuser_url)

    def _call(self, program: str, *options: str, database: str = "towpath") -> None:
        # What was granted on functions of the server, only a superuser grants again.
        url = on_database(self._postgres.superuser_url, database)
        done = subprocess.run(
            [str(binaries() / program), f"--dbname={url}", *options],
            capture_output=True,
            text=True,
            cwd="/",
            check=False,
        )
        assert not done.returncode, done.stderr


def _clock(folder: Path, seconds: int) -> dict[str, str]:
    """The environment of a worker whose clock is so many seconds ahead."""
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths), "CLOCK_AHEAD_SECONDS": str(seconds)}


def _seconds_ahead(worker: Process) -> float:
    """By how much the clock of a worker is ahead, from the last line of its log."""

    def last_line() -> str:
        lines = [line for line in worker.program.log.read_text().splitlines() if line.startswith('{"')]
        return lines[-1] if lines else ""

    logged = datetime.fromisoformat(json.loads(eventually(last_line, seconds=10))["timestamp"])
    return logged.timestamp() - time.time()
