"""Statements to PostgreSQL, in sessions that are lent to one thread at a time, each use within a limit of time.

libpq waits for an answer for as long as the connection seems alive. Whoever uses a session here waits for
`timeout_seconds` at most: then the connection is shut down, which ends the wait with an error.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from typing import TYPE_CHECKING, Any

from towpath import driver
from towpath.eventlog.errors import StoreUnavailable
from towpath.eventlog.stores.postgresql import settings
from towpath.eventlog.stores.postgresql.errors import brief
from towpath.eventlog.stores.postgresql.url import parameters

if TYPE_CHECKING:
    from collections.abc import Iterator


_CONNECT_SECONDS = 5

#: libpq's PQTRANS_IDLE: between two transactions.
_IDLE = 0


class Session:
    """A connection in autocommit mode: transactions are begun and ended by statements."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        #: True if a pooler is between this process and the server. What is set in the server's session is then left to
        #: others, and what we find there is theirs.
        self.is_pooled = False
        # A handle of its own, so that whoever shuts the connection down never meets another file of this number.
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        self._cutting = threading.Lock()

    @contextlib.contextmanager
    def limited(self, *, seconds: float) -> Iterator[Any]:
        """A cursor whose statements fail once the time is over. Afterwards the session is at rest or closed."""
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
        """End every wait on the connection, from another thread."""
        with self._cutting, contextlib.suppress(OSError):
            if not is_over.is_set():
                self._socket.shutdown(socket.SHUT_RDWR)

    def is_usable(self) -> bool:
        """True if it is connected and between two transactions, as far as can be known without asking the server."""
        if self._connection.closed or self._connection.info.transaction_status != _IDLE:
            return False
        # At rest, a server only ever sends its goodbye.
        at_rest = select.poll()  # select() knows no descriptor above 1023
        at_rest.register(self._socket, select.POLLIN)
        return not at_rest.poll(0)

    def is_of_process(self, pid: int) -> bool:
        """True if the process of the server is the one that this connection was made to."""
        return bool(self._connection.info.backend_pid == pid)

    def is_in_transaction(self) -> bool:
        return bool(self._connection.info.transaction_status != _IDLE)

    def close(self) -> None:
        with contextlib.suppress(driver.Error):
            self._connection.close()
        self._socket.close()


class PostgreSQLClient:
    """Safe to share between threads. Connects when no session is at rest; there are as many as threads use one at the
    same time.
    """

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        self._parameters: dict[str, Any] = {
            "connect_timeout": _CONNECT_SECONDS,
            "fallback_application_name": "event store",
            **parameters(url),
            # Rows come in it.
            "client_encoding": "UTF8",
        }
        self._timeout_seconds = timeout_seconds
        #: True if the last session was one behind a pooler.
        self.is_pooled = False
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

    @contextlib.contextmanager
    def cursor(self) -> Iterator[Any]:
        """Raises StoreUnavailable when no connection can be made. Errors of the statements are the driver's.

        Behind a pooler it is in a transaction, which ends with it at the latest.
        """
        session = self._taken() or self._connected()
        with session.limited(seconds=self._timeout_seconds) as cursor:
            if session.is_pooled:
                cursor.execute(settings.of_transaction(timeout_seconds=self._timeout_seconds))
            yield cursor
            if session.is_pooled and session.is_in_transaction():
                cursor.execute("COMMIT")
        with self._guard:
            self._at_rest.append(session)

    def query(self, sql: str, **parameters: object) -> list[tuple[Any, ...]]:
        """The rows of one statement, with a parameter for each `%(name)s`. Raises StoreUnavailable."""
        try:
            with self.cursor() as cursor:
                cursor.execute(sql, parameters or None)
                return cursor.fetchall() if cursor.description else []
        except driver.Error as error:
            raise StoreUnavailable(brief(error)) from error

    def query_elsewhere(self, sql: str, *, database: str, **parameters: object) -> list[tuple[Any, ...]]:
        """The same in another database of the server, on a connection for this once."""
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
        """Close what is at rest."""
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
                cursor.execute("SELECT pg_backend_pid(), current_schema(), current_setting('search_path')")
                pid, schema, search_path = cursor.fetchone() or (0, "", "")
                self.is_pooled = session.is_pooled = not session.is_of_process(pid)
                for message in () if session.is_pooled else settings.of_session(timeout_seconds=self._timeout_seconds):
                    cursor.execute(message)
        except driver.Error as error:
            raise StoreUnavailable(brief(error)) from error
        if schema is None:
            session.close()
            raise StoreUnavailable(
                f"the database {self.database} has no schema of the search_path {search_path!r}: create one, or take"
                " search_path out of the options of EVENT_STORE_URL, or of the role (ALTER ROLE ... SET search_path)"
            )
        return session


def _connect(parameters: dict[str, Any]) -> Any:
    try:
        return driver.connect(parameters)
    except driver.Error as error:
        text = brief(error)
        is_missing = 'database "' in text and text.endswith("does not exist")
        raise StoreUnavailable(text + " (run `python manage.py eventlog migrate`)" * is_missing) from error
