"""Disks that are really full and a folder that is really read-only (T31): small file systems, mounted for the test."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psycopg2
import pytest
from django.db import DatabaseError, InterfaceError, connection

from deploy.local.errors import StartError
from tests.faults.conftest import Run
from tests.faults.reported import problems
from tests.faults.small_disk import CannotMountError, SmallDisk
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deploy.local.process import Process

#: Slow also because services of the whole test run are set back to what they were before the test.
pytestmark = [pytest.mark.slow, pytest.mark.own_services, pytest.mark.timeout(300)]

_DRAIN_SECONDS = 90
#: More than the two files of 16 MiB that PostgreSQL may take for its WAL before the disk is filled: it needs another
#: one to get up again, when what the test has filled is given back.
_FREE_MEBIBYTES = 64
_MEBIBYTE = 1024 * 1024


@pytest.fixture
def store_disk(run: Run, tmp_path: Path) -> Iterator[SmallDisk]:
    """The event store on a small disk."""
    services = run.fleet.services
    with _on_small_disk(services.clickhouse, services.folder / "clickhouse", tmp_path) as disk:
        run.fleet.steady()
        yield disk
        run.fleet.kill_all()


@pytest.fixture
def postgres_disk(run: Run, tmp_path: Path) -> Iterator[SmallDisk]:
    """PostgreSQL's data folder, WAL included, on a small disk."""
    services = run.fleet.services
    connection.close()
    with _on_small_disk(services.postgres, services.folder / "postgres" / "data", tmp_path) as disk:
        run.fleet.steady()
        yield disk
        run.fleet.kill_all()
        connection.close()


def test_a_store_whose_disk_is_full_keeps_everything_waiting_and_goes_on_when_there_is_space(
    run: Run, store_disk: SmallDisk
) -> None:
    """T31: not a byte is free under the event store's folder; then it is given back."""
    run.publish(100)
    run.judge_when_drained(seconds=_DRAIN_SECONDS)
    store_disk.fill()
    run.publish(100, text="x" * 1000)
    run.create_users(10)

    error = eventually(lambda: problems("open window"), seconds=60, what="status says so")
    assert run.oracle.ask_postgres("SELECT count(*) FROM outbox_event") == [(100,)]
    assert run.oracle.ask_postgres("SELECT count(*) FROM outbox_user") == [(10,)]
    assert not run.oracle.ask_postgres("SELECT FROM pipeline_deadletter")
    assert "space" in str(error)
    eventually(lambda: _most_attempts(run) >= 3, seconds=60, what="it is tried again")

    store_disk.give_back()

    assert run.judge_when_drained(seconds=_DRAIN_SECONDS).stored == 210


def test_a_store_whose_folder_is_read_only_keeps_everything_waiting_and_goes_on_when_it_is_writable(
    run: Run, store_disk: SmallDisk
) -> None:
    """T31: the tables' folder is mounted read-only, as a kernel does after an error of the disk."""
    store_disk.make_read_only("store")
    run.publish(100)
    run.create_users(10)

    error = eventually(lambda: problems("open window"), seconds=60, what="status says so")
    assert run.oracle.ask_postgres("SELECT count(*) FROM outbox_event") == [(100,)]
    assert not run.oracle.ask_postgres("SELECT FROM pipeline_deadletter")
    assert "ead-only" in str(error)

    store_disk.make_writable("store")

    assert run.judge_when_drained(seconds=_DRAIN_SECONDS).stored == 110


@pytest.mark.parametrize("what", ["tables", "WAL"])
def test_a_postgresql_whose_disk_is_full_refuses_changes_with_their_events_and_goes_on_when_there_is_space(
    run: Run, postgres_disk: SmallDisk, what: str
) -> None:
    """T31: it refuses what does not fit into its tables; when its WAL does not fit, it ends.

    Its supervisor starts it again and again meanwhile (here the test does).
    """
    postgres = run.fleet.services.postgres
    run.publish(1000)
    postgres_disk.fill()

    if what == "tables":
        with pytest.raises((DatabaseError, InterfaceError)):
            _publish_until_refused(run)
    else:
        with pytest.raises(psycopg2.Error):
            _write_wal_until_refused(run)
        assert "PANIC" in postgres.program.log.read_text()
    stored = run.oracle.stored(run.name)
    connection.close()

    postgres_disk.give_back()
    eventually(lambda: _is_up(postgres), seconds=60, what="PostgreSQL is back")
    run.publish(10)

    assert run.judge_when_drained(seconds=_DRAIN_SECONDS).stored >= stored


def _publish_until_refused(run: Run) -> None:
    for _ in range(200):
        run.publish(50, text="x" * 10_000)


def _write_wal_until_refused(run: Run) -> None:
    for _ in range(1000):
        run.oracle.ask_postgres("SELECT pg_logical_emit_message(false, 'test', ''), pg_switch_wal()")


@contextlib.contextmanager
def _on_small_disk(process: Process, folder: Path, tmp_path: Path) -> Iterator[SmallDisk]:
    draft = tmp_path / "disk"
    draft.mkdir()
    process.stop()
    try:
        with SmallDisk(folder, free_mebibytes=_FREE_MEBIBYTES, draft=draft) as disk, disk.under(process):
            yield disk
    except CannotMountError as error:
        # Mounting takes root, which neither a developer nor every container has. These tests are slow ones: no run of
        # `make test` counts on them, and `make faults` prints the reason.
        pytest.skip(f"no file system can be mounted here, so no disk can be filled: {error}")
    finally:
        process.start()
        process.wait_until_ready()


def _most_attempts(run: Run) -> int:
    found = run.oracle.ask_postgres("SELECT coalesce(max(attempts), 0) FROM pipeline_window WHERE acked_at IS NULL")
    return int(found[0][0])


def _is_up(postgres: Process) -> bool:
    """As a supervisor would: started again as often as it ends."""
    postgres.start()
    try:
        return postgres.check_ready()
    except StartError:
        return False
