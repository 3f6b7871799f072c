"""Statements to PostgreSQL, in sessions that are lent to one thread at a time, each use with a time limit.

libpq waits for an answer as long as the connection seems alive. A caller of this module waits `timeout_seconds` at
most: then the connection is shut down, which ends the wait with an error.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from typing import TYPE_CHECKING, Any

from towpath import driver
from towpath.eventlog.errors import LimitReached, StoreUnavailable
from towpath.eventlog.stores.postgresql import settings
from towpath.eventlog.stores.postgresql.errors import brief, is_limit
from towpath.eventlog.stores.postgresql.url import parameters

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


_CONNECT_SECONDS = 5

#: libpq's PQTRANS_IDLE: between two transactions.
_IDLE = 0

_OF_SESSION = """
SELECT pg_backend_pid(), current_schema(), current_setting('search_path'), reset_val::int
FROM pg_settings WHERE name = 'statement_timeout'
"""


class Session:
    """A connection in autocommit mode: statements begin and end transactions."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        #: True if a pooler is between this process and the server. The server's session is then shared: a setting that
        #: we leave in it would affect others, and we may find settings of theirs.
        self.is_pooled = False
        #: The limit that the role or the database sets, in milliseconds. 0 means no limit.
        self.statement_timeout = 0
        # A descriptor of its own, so that a shutdown never hits another file that has been given this number.
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        self._cutting = threading.Lock()

    @contextlib.contextmanager
    def limited(self, *, seconds: float) -> Iterator[Any]:
        """A context with a cursor whose statements fail once the time is over. An error in it closes the session."""
        is_over = threading.Event()
        timer = threading.Timer(seconds, self._cut, [is_over])
        timer.daemon = True
        timer.start()
        try:
            with driver.cursor(self._connection) as cursor:
                yield cursor
        except BaseException:
            self.close()
            raise
        finally:
            with self._cutting:
                is_over.set()
            timer.cancel()

    def _cut(self, is_over: threading.Event) -> None:
        """Shut the connection down, which ends every wait on it. The timer's thread calls this."""
        with self._cutting, contextlib.suppress(OSError):
            if not is_over.is_set():
                self._socket.shutdown(socket.SHUT_RDWR)

    def is_usable(self) -> bool:
        """True if it is connected and between two transactions, as far as we can tell without asking the server."""
        if self._connection.closed or self._connection.info.transaction_status != _IDLE:
            return False
        # On an idle connection, the server only ever sends that it closes it.
        at_rest = select.poll()  # select() cannot watch a descriptor above 1023
        at_rest.register(self._socket, select.POLLIN)
        return not at_rest.poll(0)

    def is_of_process(self, pid: int) -> bool:
        """True if `pid` is the server process that this connection was made to. Behind a pooler, it is another one."""
        return bool(self._connection.info.backend_pid == pid)

    def is_in_transaction(self) -> bool:
        return bool(self._connection.info.transaction_status != _IDLE)

    def close(self) -> None:
        with contextlib.suppress(driver.Error):
            self._connection.close()
        self._socket.close()


class PostgreSQLClient:
    """A client of one database. It is safe to share between threads.

    It connects when no session is idle, so it has as many sessions as threads have used at the same time.
    """

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        self._parameters: dict[str, Any] = {
            "connect_timeout": _CONNECT_SECONDS,
            "fallback_application_name": "event store",
            **parameters(url),
            # Rows are sent in it.
            "client_encoding": "UTF8",
        }
        self._timeout_seconds = timeout_seconds
        #: True if the newest session is behind a pooler.
        self.is_pooled = False
        self._server = 0
        self._at_rest: list[Session] = []
        self._guard = threading.Lock()

    @property
    def database(self) -> str:
        """The name of the database."""
        return str(self._parameters.get("dbname", ""))

    @property
    def user(self) -> str:
        """The name of the role."""
        return str(self._parameters.get("user", ""))

    def server(self) -> int:
        """Return the server's major version. Raises StoreUnavailable."""
        if not self._server:
            with self.cursor() as cursor:
                self._server = int(cursor.connection.info.server_version) // 10_000
        return self._server

    @contextlib.contextmanager
    def cursor(self) -> Iterator[Any]:
        """A context with a cursor. Raises StoreUnavailable if it cannot connect; errors of statements are the driver's.

        Behind a pooler, the cursor is in a transaction, which is committed when the context ends.
        """
        with self._lent() as (_, cursor):
            yield cursor

    @contextlib.contextmanager
    def _lent(self) -> Iterator[tuple[Session, Any]]:
        session = self._taken() or self._connected()
        with session.limited(seconds=self._timeout_seconds) as cursor:
            if session.is_pooled:
                cursor.execute(settings.of_transaction(timeout_seconds=self._timeout_seconds))
            yield session, cursor
            if session.is_pooled and session.is_in_transaction():
                cursor.execute("COMMIT")
        with self._guard:
            self._at_rest.append(session)

    def query(self, sql: str, **parameters: object) -> list[tuple[Any, ...]]:
        """Return the rows of one statement, with a parameter for each `%(name)s`. Raises StoreUnavailable."""
        try:
            with self.cursor() as cursor:
                cursor.execute(sql, parameters or None)
                return cursor.fetchall() if cursor.description else []
        except driver.Error as error:
            raise StoreUnavailable(brief(error)) from error

    def query_within(self, sql: str, parameters: Mapping[str, object], *, seconds: float) -> list[tuple[Any, ...]]:
        """Return the rows of a statement that may take `seconds`, or less if the role's own limit is lower.

        Raises StoreUnavailable, or LimitReached when the statement reaches a limit.
        """
        try:
            with self._lent() as (session, cursor):
                milliseconds = min(seconds, self._timeout_seconds * 0.8) * 1000
                limit = max(1, int(min(milliseconds, session.statement_timeout or milliseconds)))
                begin = "" if session.is_pooled else "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY;"
                cursor.execute(f"{begin} {settings.of_reading(milliseconds=limit)}")
                cursor.execute(sql, parameters)
                rows: list[tuple[Any, ...]] = cursor.fetchall()
                if not session.is_pooled:
                    cursor.execute("COMMIT")
                return rows
        except driver.Error as error:
            outcome = LimitReached if is_limit(error) else StoreUnavailable
            raise outcome(brief(error)) from error

    def query_elsewhere(self, sql: str, *, database: str, **parameters: object) -> list[tuple[Any, ...]]:
        """Do the same as `query` in another database of the server, on a connection that is closed afterwards."""
        session = Session(_connect({**self._parameters, "dbname": database}))
        try:
            with session.limited(seconds=self._timeout_seconds) as cursor:
                cursor.execute(sql, parameters or None)
                return cursor.fetchall() if cursor.description else []
        except driver.Error as error:
            raise StoreUnavailable(brief(error)) from error
        finally:
            session.close()

    def close(self) -> None:
        """Close the idle sessions."""
        while (session := self._pop()) is not None:
            session.close()

    def _taken(self) -> Session | None:
        while (session := self._pop()) is not None:
            if session.is_usable():
                return session
            session.close()
        return None

    def _pop(self) -> Session | None:
        with self._guard:
            return self._at_rest.pop() if self._at_rest else None

    def _connected(self) -> Session:
        try:
            session = Session(_connect(self._parameters))
        except OSError as error:
            raise StoreUnavailable(f"{type(error).__name__}: {error}") from error
        try:
            with session.limited(seconds=self._timeout_seconds) as cursor:
                cursor.execute(_OF_SESSION)
                pid, schema, search_path, session.statement_timeout = cursor.fetchone() or (0, "", "", 0)
                self.is_pooled = session.is_pooled = not session.is_of_process(pid)
                for message in () if session.is_pooled else settings.of_session(timeout_seconds=self._timeout_seconds):
                    cursor.execute(message)
        except driver.Error as error:
            raise StoreUnavailable(brief(error)) from error
        if schema is None:
            session.close()
            raise StoreUnavailable(
                f"the database {self.database} has none of the schemas in the search_path {search_path!r}. Create one,"
                " or remove search_path from the options of EVENT_STORE_URL and of the role (ALTER ROLE ... SET"
                " search_path)"
            )
        return session


def _connect(parameters: dict[str, Any]) -> Any:
    try:
        return driver.connect(parameters)
    except driver.Error as error:
        text = brief(error)
        is_missing = 'database "' in text and text.endswith("does not exist")
        raise StoreUnavailable(text + " (run `python manage.py eventlog migrate`)" * is_missing) from error
