"""A standby of the tests' PostgreSQL, and the failover to it."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING, Self

import psycopg2
from django.db import connection

from deploy.local.postgres import HERE, Postgres, own_folder, programs
from deploy.local.process import setpriv
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.faults.oracle import Oracle
    from tests.services import Services

_CATCH_UP_SECONDS = 60


class Standby:
    """Streams from the primary until it is cut off; takes its place, port and folder in `take_over`."""

    def __init__(self, services: Services, oracle: Oracle, *, port: int) -> None:
        self._primary = services.postgres
        self._oracle = oracle
        self._primary_data = services.folder / "postgres" / "data"
        # Beside the primary's, which may be a link into memory: a folder is not renamed from one device to another.
        folder = (services.folder / "postgres").resolve().parent / "postgres-standby"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        # The roles come with the data.
        for name in ("password", "superuser-password"):
            shutil.copy(services.folder / "postgres" / name, folder / name)
        self._data = folder / "data"
        self._server = Postgres(folder, port, services.folder / "log" / "postgres-standby.log")

    def __enter__(self) -> Self:
        # As the account of the server, which must own its data.
        own_folder(self._data)
        backup = (programs() / "pg_basebackup", "--checkpoint=fast", "--no-sync", "--write-recovery-conf")
        source = f"--dbname={self._primary.superuser_url}"
        done = subprocess.run(
            [*setpriv(self._primary.program), *backup, f"--pgdata={HERE}", source],
            capture_output=True,
            text=True,
            cwd=self._data,
            check=False,
        )
        assert not done.returncode, done.stderr
        self._server.start()
        self._server.wait_until_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def wait_until_caught_up(self) -> None:
        """Return when it has all that is committed now."""
        ((now,),) = self._oracle.ask_postgres("SELECT pg_current_wal_flush_lsn()::text")
        eventually(
            lambda: self._oracle.ask_postgres(
                "SELECT FROM pg_stat_replication WHERE application_name = 'walreceiver' AND replay_lsn >= %s::pg_lsn",
                [now],
            ),
            seconds=_CATCH_UP_SECONDS,
            what="the standby has caught up",
        )

    def cut_off(self) -> None:
        """From now on it hears nothing of what the primary commits."""
        self._server.stop()

    def take_over(self) -> None:
        """The primary dies immediately; the standby is promoted and answers in its place."""
        self._primary.kill()
        connection.close()
        self._server.start()
        self._server.wait_until_ready()
        with closing(psycopg2.connect(self._server.url)) as own, own.cursor() as cursor:
            cursor.execute("SELECT pg_promote()")
            assert cursor.fetchone() == (True,)
        self._server.stop()
        shutil.rmtree(self._primary_data)
        self._data.rename(self._primary_data)
        self._primary.start()
        self._primary.wait_until_ready()
