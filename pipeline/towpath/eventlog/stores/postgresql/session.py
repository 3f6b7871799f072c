"""Sessions of the event store on PostgreSQL: lent to one thread at a time, each use within a limit of time.

libpq waits for an answer for as long as the connection seems alive. Whoever uses a session here waits for
`timeout_seconds` at most: then the connection is shut down, which ends the wait with an error.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import threading
from typing import TYPE_CHECKING, Any

import psycopg2
from django.core.exceptions import ImproperlyConfigured
from psycopg2 import errorcodes
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, parse_dsn

from towpath.eventlog.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from psycopg2.extensions import connection as connection_type
    from psycopg2.extensions import cursor as cursor_type

_CONNECT_SECONDS = 5

#: What every session starts with, whatever role, database and server set. A server where commits need not be on disk is
#: asked for ours to be. A session of a process that stands still must not keep a transaction open. With `row_security`
#: off, a policy that would leave rows out is an error. Without a schema, nothing else would say why there is no table.
_SET_UP = """
SET TIME ZONE 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET standard_conforming_strings = on;
SET row_security = off;
SET default_transaction_isolation = 'read committed';
SET default_table_access_method = 'heap';
SET lock_timeout = {lock_milliseconds};
SELECT set_config('transaction_timeout', '0', false) WHERE current_setting('transaction_timeout', true) IS NOT NULL;
SET client_min_messages = warning;
SET idle_in_transaction_session_timeout = {idle_milliseconds};
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
SELECT current_schema(), current_setting('search_path');
"""

#: Options of libpq that choose a session in which nothing can be written, or that is none.
_REFUSED = {
    "replication": "it is for replication only",
    **dict.fromkeys(("service", "servicefile"), "write host and database into the URL"),
}
_MODES = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})


class Session:
    """A connection in autocommit mode: transactions are begun and ended by statements."""

    def __init__(self, connection: connection_type) -> None:
        self._connection = connection
        # A handle of its own, so that whoever shuts the connection down never meets another file of this number.
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        self._cutting = threading.Lock()

    @contextlib.contextmanager
    def limited(self, *, seconds: float) -> Iterator[cursor_type]:
        """A cursor whose statements fail once the time is over. Afterwards the session is at rest or closed."""
        is_over = threading.Event()
        timer = threading.Timer(seconds, self._cut, [is_over])
        timer.daemon = True
        timer.start()
        try:
            with self._connection.cursor() as cursor:
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
        if self._connection.closed or self._connection.info.transaction_status != TRANSACTION_STATUS_IDLE:
            return False
        # At rest, a server only ever sends its goodbye.
        at_rest = select.poll()  # select() knows no descriptor above 1023
        at_rest.register(self._socket, select.POLLIN)
        return not at_rest.poll(0)

    def close(self) -> None:
        with contextlib.suppress(psycopg2.Error):
            self._connection.close()
        self._socket.close()


class Sessions:
    """Connects when no session is at rest; as many as there are threads that use one at the same time."""

    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        self._parameters: dict[str, Any] = {
            "connect_timeout": _CONNECT_SECONDS,
            "fallback_application_name": "event store",
            **parsed(url),
            # Rows come in it.
            "client_encoding": "UTF8",
        }
        self._timeout_seconds = timeout_seconds
        milliseconds = max(1000, int(timeout_seconds * 1000))
        # The server gives up before we do: a statement must not go on when nobody waits for it any more.
        self._limit = f"SET statement_timeout = {milliseconds * 8 // 10}"
        self._set_up = _SET_UP.format(
            # Less, so that a table that is locked is not taken for a statement that takes too long.
            lock_milliseconds=milliseconds * 6 // 10,
            idle_milliseconds=milliseconds,
        )
        self._at_rest: list[Session] = []
        self._guard = threading.Lock()

    @property
    def database(self) -> str:
        """The name of the database."""
        return str(self._parameters.get("dbname", ""))

    @contextlib.contextmanager
    def cursor(self) -> Iterator[cursor_type]:
        """Raises StoreUnavailable when no connection can be made. Errors of the statements are psycopg2's."""
        session = self._taken() or self._connected()
        with session.limited(seconds=self._timeout_seconds) as cursor:
            yield cursor
        with self._guard:
            self._at_rest.append(session)

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """The rows of one statement. Raises StoreUnavailable."""
        try:
            with self.cursor() as cursor:
                cursor.execute(sql, list(parameters) or None)
                return cursor.fetchall() if cursor.description else []
        except psycopg2.Error as error:
            raise StoreUnavailable(first_line(error)) from error

    def query_elsewhere(self, sql: str, parameters: Sequence[object] = (), *, database: str) -> list[tuple[Any, ...]]:
        """The same in another database of the server, on a connection for this once."""
        session = Session(_connect({**self._parameters, "dbname": database}))
        try:
            with session.limited(seconds=self._timeout_seconds) as cursor:
                cursor.execute(sql, list(parameters) or None)
                return cursor.fetchall() if cursor.description else []
        except psycopg2.Error as error:
            raise StoreUnavailable(first_line(error)) from error
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
                # By itself: that of the role would apply to all that is sent with it.
                cursor.execute(self._limit)
                cursor.execute(self._set_up)
                schema, search_path = cursor.fetchone() or ("", "")
        except psycopg2.Error as error:
            raise StoreUnavailable(first_line(error)) from error
        if schema is None:
            session.close()
            raise StoreUnavailable(
                f"the database {self.database} has no schema of the search_path {search_path!r}: create one, or take"
                " search_path out of the options of EVENT_STORE_URL, or of the role (ALTER ROLE ... SET search_path)"
            )
        return session


def parsed(url: str) -> dict[str, Any]:
    """libpq's parameters. Raises ImproperlyConfigured, which names the option that has no meaning here."""
    try:
        found: dict[str, Any] = parse_dsn(url)
    except psycopg2.ProgrammingError as error:
        # The only message of libpq's that cannot quote a password.
        unknown = re.search(r'invalid URI query parameter: "(\w+)"', first_line(error))
        why = f"{unknown[1]} is not an option of libpq" if unknown else _UNREADABLE
        raise ImproperlyConfigured(why) from None
    for name, why in _REFUSED.items():
        if name in found:
            raise ImproperlyConfigured(f"the option {name} cannot be used, {why}")
    if found.get("sslmode", "prefer") not in _MODES:
        raise ImproperlyConfigured(f"the option sslmode must be one of {', '.join(sorted(_MODES))}")
    if found.get("target_session_attrs") in {"read-only", "standby", "prefer-standby"}:
        raise ImproperlyConfigured("the option target_session_attrs must name a session that can write")
    if not str(found.get("connect_timeout", "1")).isdigit():
        raise ImproperlyConfigured("the option connect_timeout must be a whole number of seconds")
    if "client_encoding" in found and found["client_encoding"].upper().replace("-", "") not in {"UTF8", "AUTO"}:
        raise ImproperlyConfigured("the option client_encoding must be UTF8: rows come in it")
    return found


_UNREADABLE = "it cannot be read: percent-encode special characters of the password, and check host, port and options"


def _connect(parameters: dict[str, Any]) -> connection_type:
    try:
        connection: connection_type = psycopg2.connect(**parameters)
    except psycopg2.Error as error:
        text = first_line(error)
        is_missing = 'database "' in text and text.endswith("does not exist")
        raise StoreUnavailable(text + " (run `python manage.py eventlog migrate`)" * is_missing) from error
    connection.autocommit = True
    return connection


def first_line(error: psycopg2.Error) -> str:
    """The error without its details, in which the server quotes rows."""
    text = (error.diag.message_primary or str(error)).strip()
    line = text.splitlines()[0] if text else type(error).__name__
    return line + _READ_ONLY * (error.pgcode == errorcodes.READ_ONLY_SQL_TRANSACTION)


_READ_ONLY = ": the server is a standby, or role, database or EVENT_STORE_URL set default_transaction_read_only"
