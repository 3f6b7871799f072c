"""What tests do to a PostgreSQL server and the application does not: settings of the server, roles, switches.

The role of the application never becomes a superuser; on a server of the tests' own, it is granted just this.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg2

from deploy.local.postgres import binaries

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_SETTINGS = (
    "log_statement",
    "log_duration",
    "log_line_prefix",
    "log_min_duration_statement",
    "log_checkpoints",
    "synchronous_standby_names",
    "fsync",
    "full_page_writes",
    "synchronous_commit",
    "autovacuum",
)


def let_role_administer(superuser_url: str, role: str = "towpath") -> None:
    """Grant the role what the tests need."""
    statements = (
        f"ALTER ROLE {role} CREATEROLE",
        f"ALTER ROLE {role} SET createrole_self_grant = 'set, inherit'",
        f"GRANT pg_monitor, pg_signal_backend, pg_checkpoint TO {role}",
        f"GRANT SET, ALTER SYSTEM ON PARAMETER {', '.join(_SETTINGS)} TO {role}",
        *(
            f"GRANT EXECUTE ON FUNCTION {function} TO {role} WITH GRANT OPTION"
            for function in ("pg_reload_conf()", "pg_switch_wal()", "pg_promote(boolean, int)", "pg_control_system()")
        ),
    )
    administer(superuser_url, *statements)


def administer(superuser_url: str, *statements: str) -> None:
    """Run them, all or none."""
    with closing(psycopg2.connect(superuser_url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(";".join(statements))


def run_file(superuser_url: str, file: Path, *, variables: Mapping[str, str]) -> None:
    """Run a file of SQL by psql, as a person does, with these variables in its environment."""
    psql = [
        str(binaries() / "psql"),
        "--set",
        "ON_ERROR_STOP=1",
        "--no-psqlrc",
        "--quiet",
        superuser_url,
        "--file",
        str(file),
    ]
    subprocess.run(psql, env={**os.environ, **variables}, check=True)


def on_database(url: str, database: str) -> str:
    """The URL, with another database of the same server."""
    return urlsplit(url)._replace(path=f"/{database}").geturl()
