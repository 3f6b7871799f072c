"""PostgreSQL's driver, which Django chooses: psycopg 3 if it is installed, otherwise psycopg2.

Everything that differs between the two is here: results of several statements, parameters, COPY, error codes.

Towpath often sends several statements in one message: settings, and then the statement that needs them. Parameters are
put in on the client's side. So a message is one round trip and one transaction, and nothing of it stays in the session.
"""

from __future__ import annotations

import contextlib
import io
from typing import IO, TYPE_CHECKING, Any, cast

from django.core.exceptions import ImproperlyConfigured
from django.db import connection, transaction

try:
    from django.db.backends.postgresql.psycopg_any import is_psycopg3
except ImportError as error:
    raise ImproperlyConfigured(
        'No driver for PostgreSQL is installed. Run `pip install "towpath[psycopg]"`, or "towpath[psycopg2]".'
    ) from error

if TYPE_CHECKING or not is_psycopg3:
    import psycopg2 as _psycopg
    from psycopg2.extensions import parse_dsn as _parsed
else:
    import psycopg as _psycopg
    from psycopg.conninfo import conninfo_to_dict as _parsed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

#: The base of the driver's own errors. Django's connections raise Django's instead.
Error = _psycopg.Error

#: What Django gives the driver besides libpq's parameters.
OPTIONS_OF_DJANGO = ("client_encoding", "cursor_factory", "context", "prepare_threshold")


@contextlib.contextmanager
def cursor(of: BaseDatabaseWrapper = connection) -> Iterator[CursorWrapper]:
    """Return a cursor of Django's connection that takes several statements in a message, with the result of the last.

    `of` may also be a connection of `connect`.
    """
    with of.cursor() as found:
        if not is_psycopg3:
            yield found
            return
        # With OPTIONS["server_side_binding"], the server would put in the parameters, which works for one statement
        # only.
        if not hasattr(found, "mogrify"):
            found.cursor = _psycopg.ClientCursor(of.connection)  # type: ignore[attr-defined]
        yield cast("CursorWrapper", _AtLastResult(found))


class _AtLastResult:
    """A cursor of psycopg 3, which would otherwise stay at the result of a message's first statement."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor

    def execute(self, sql: str, parameters: Any = None) -> None:
        self._cursor.execute(sql, parameters)
        while self._cursor.nextset():
            pass

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


def with_parameters(cursor: Any, sql: str, parameters: Sequence[object] | Mapping[str, object]) -> str:
    """Return the statement with its parameters put in."""
    text = cursor.mogrify(sql, parameters)
    return text if isinstance(text, str) else str(text, "utf-8")


def copy_out(query: str, parameters: Sequence[object], *, settings: str, to: IO[bytes]) -> int:
    """Write the rows of a query of Django's connection as COPY text. Returns their number.

    `settings` are statements that hold for this COPY: in a transaction of its own, or until the caller's ends. Raises
    Django's errors, and what `to.write()` raises: then the rest of the rows may be on its way, so close the connection.
    """
    # Django does not translate the errors of a COPY.
    with cursor() as found, connection.wrap_database_errors:
        copy = f"COPY ({with_parameters(found, query, parameters)}) TO STDOUT (ENCODING 'UTF8')"
        if is_psycopg3:
            # It takes a COPY only in a separate message.
            with transaction.atomic():
                found.execute(settings)
                with found.copy(copy) as rows:
                    for row in rows:
                        to.write(row)
        else:
            # One message to the server, and so one transaction.
            found.copy_expert(f"{settings}{copy}", to)
        return int(found.rowcount)


def copy_in(cursor: Any, rows: bytes, *, before: str, to: str) -> int:
    """Copy rows of COPY text into the table and columns `to`, after the statements `before`. Returns their number."""
    copy = f"COPY {to} FROM STDIN"
    if is_psycopg3:
        cursor.execute(before)
        with cursor.copy(copy) as copying:
            copying.write(rows)
    else:
        cursor.copy_expert(f"{before}; {copy}", io.BytesIO(rows))
    return int(cursor.rowcount)


def connect(parameters: Mapping[str, Any]) -> Any:
    """Open a connection that Django does not know, with libpq's parameters, in autocommit mode. Raises `Error`."""
    if is_psycopg3:
        return _psycopg.connect(
            **parameters,
            autocommit=True,
            prepare_threshold=None,
            cursor_factory=_psycopg.ClientCursor,  # type: ignore[attr-defined]
        )
    found = _psycopg.connect(**parameters)
    found.autocommit = True
    return found


def parameters_of(url: str) -> dict[str, Any]:
    """Return libpq's parameters in a URL. Raises ValueError with libpq's own text, which may quote the password."""
    try:
        return dict(_parsed(url))
    except _psycopg.ProgrammingError as error:
        raise ValueError(str(error)) from None


def sqlstate(error: BaseException) -> str:
    """Return PostgreSQL's five-character code of an error of the driver or of Django; empty without one."""
    cause = error.__cause__ or error
    return getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or ""


def is_privilege_missing(error: BaseException) -> bool:
    """True if PostgreSQL refuses a statement because the role lacks a privilege."""
    return sqlstate(error) == "42501"
