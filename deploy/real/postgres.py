"""PostgreSQL 17 of the tree, with one superuser, as the container image makes it."""

from __future__ import annotations

import subprocess
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg2
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT

from deploy.local.credentials import remembered_secret
from deploy.local.errors import StartError
from deploy.local.process import Process, Program, open_log
from deploy.real.tree import PATH, entered

if TYPE_CHECKING:
    from pathlib import Path

_NAME = "towpath"
_PLACE = "/srv/postgres"
#: PostgreSQL refuses to run as root. The tree's own account has the data. A change of user clears the signal that ends
#: the program with its parent.
_AS_POSTGRES = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=KILL", "--")
_PROGRAMS = "/usr/lib/postgresql/17/bin"
_INIT = f"""
set -eu
mkdir {_PLACE}/data
chown -R postgres {_PLACE}
exec {" ".join(_AS_POSTGRES)} {_PROGRAMS}/initdb --pgdata={_PLACE}/data --username={_NAME} --pwfile={_PLACE}/password \
    --auth=scram-sha-256 --encoding=UTF8 --locale-provider=builtin --locale=C.UTF-8
"""
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    # Tests prepare some and forget them.
    "max_prepared_transactions": "10",
    "timezone": "UTC",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


class Postgres(Process):
    """A PostgreSQL server on loopback; all its files are in a folder, which an account of the tree owns."""

    def __init__(self, tree: Path, folder: Path, *, port: int) -> None:
        self._tree = tree
        self._folder = folder
        self.port = port
        folder.mkdir(parents=True, exist_ok=True)
        settings = {**_SETTINGS, "port": str(port)}
        server = (
            *_AS_POSTGRES,
            f"{_PROGRAMS}/postgres",
            "-D",
            f"{_PLACE}/data",
            *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
        )
        super().__init__(
            Program(
                name="postgres",
                argv=entered(tree, server, binds={folder: _PLACE}),
                log=folder.parent / "log" / "postgres.log",
                is_ready=self._accepts_connections,
                environment={"PATH": PATH, "LANG": "C.UTF-8"},
                stop_seconds=1,
            )
        )

    @property
    def url(self) -> str:
        return self._url(_NAME)

    def start(self) -> None:
        """Make the cluster on the first start, and start."""
        if not (self._folder / "data").exists():
            remembered_secret(self._folder / "password")
            with open_log(self.program.log) as log:
                done = subprocess.run(
                    entered(self._tree, ("/bin/sh", "-c", _INIT), binds={self._folder: _PLACE}),
                    env={"PATH": PATH, "LANG": "C.UTF-8"},
                    stdout=log,
                    stderr=log,
                    check=False,
                )
            if done.returncode:
                raise StartError(f"initdb ended with exit code {done.returncode}", log=self.program.log)
        super().start()

    def _url(self, database: str) -> str:
        password = remembered_secret(self._folder / "password")
        return f"postgresql://{_NAME}:{password}@127.0.0.1:{self.port}/{database}"

    def _accepts_connections(self) -> bool:
        """True if the server answers; makes sure that the database exists."""
        try:
            connection = psycopg2.connect(self._url("postgres"), connect_timeout=2)
        except psycopg2.OperationalError:
            return False
        with closing(connection):
            connection.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
            with connection.cursor() as cursor:
                cursor.execute("SELECT FROM pg_database WHERE datname = %s", [_NAME])
                if cursor.rowcount == 0:
                    cursor.execute(f"CREATE DATABASE {_NAME}")
        return True
