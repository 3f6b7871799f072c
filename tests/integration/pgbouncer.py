"""A real PgBouncer before the run's PostgreSQL: each transaction gets a server's session, and not each client."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg2

from deploy.local import debian_package
from deploy.local.postgres import own_folder, privileges
from deploy.local.process import Process, Program
from tests.ports import any_free_port

if TYPE_CHECKING:
    from tests.services import Services

_PROGRAM = "/usr/sbin/pgbouncer"


class PgBouncer(Process):
    """In transaction mode, with `pool_size` sessions at the server for all clients of a database and role together."""

    def __init__(self, services: Services, *, pool_size: int) -> None:
        if not Path(_PROGRAM).exists():
            debian_package.install("pgbouncer")
        self.port = any_free_port()
        self._server = urlsplit(services.postgres.url)
        self._folder = Path("/tmp", f"towpath-pgbouncer-{os.getpid()}")  # noqa: S108 - PgBouncer's account enters it
        shutil.rmtree(self._folder, ignore_errors=True)
        own_folder(self._folder)
        (self._folder / "users").write_text(f'"{self._server.username}" "{self._server.password}"\n')
        (self._folder / "pgbouncer.ini").write_text(
            f"""
            [databases]
            * = host=127.0.0.1 port={self._server.port}
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {self.port}
            unix_socket_dir =
            auth_type = scram-sha-256
            auth_file = {self._folder / "users"}
            admin_users = {self._server.username}
            pool_mode = transaction
            default_pool_size = {pool_size}
            max_client_conn = 200
            """.replace("    ", "")
        )
        for file in self._folder.iterdir():
            file.chmod(0o644)
        super().__init__(
            Program(
                name="pgbouncer",
                argv=(_PROGRAM, str(self._folder / "pgbouncer.ini")),
                log=services.folder / "log" / "pgbouncer.log",
                is_ready=self._answers,
                privileges=privileges(),
            )
        )

    @property
    def url(self) -> str:
        """The application's database, through the pool."""
        return self.url_of(self._server.path.lstrip("/"))

    def url_of(self, database: str) -> str:
        """A database of the server, through its pool."""
        return f"postgresql://{self._server.username}:{self._server.password}@127.0.0.1:{self.port}/{database}"

    def clients(self) -> int:
        """How many are connected to the application's pool, with or without a session at the server."""
        with contextlib.closing(psycopg2.connect(self.url_of("pgbouncer"))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SHOW CLIENTS")
                database = [column.name for column in cursor.description or ()].index("database")
                return sum(row[database] == self._server.path.lstrip("/") for row in cursor.fetchall())

    def close(self) -> None:
        """End it, and take its files away."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            psycopg2.connect(self.url, connect_timeout=2).close()
        except psycopg2.OperationalError:
            return False
        return True
