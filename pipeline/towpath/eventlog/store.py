"""The event store: the narrow interface to whatever holds the OBT, and the choice of one by its URL.

How to write another one: docs/stores.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote, urlencode, urlsplit
from uuid import UUID

from django.core.exceptions import ImproperlyConfigured
from django.db import connection

from towpath.eventlog.columns import ADDED_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from towpath.eventlog.schema import Migration

#: The local stack's event store.
DEFAULT_URL = "clickhouse://127.0.0.1:18129/default"

#: The database that `postgresql://`, without a host, means on the application's own server.
_OWN_DATABASE = "event_log"

#: Options that are for the application's own database: a search_path, a role, limits of a statement.
_OF_THE_DATABASE = frozenset({"options", "dbname", "application_name"})

_CLICKHOUSE = frozenset({"clickhouse", "clickhouses", "http", "https", "chdb"})
_POSTGRESQL = frozenset({"postgresql", "postgres"})


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A row of the OBT. `added` has the values of `ADDED_COLUMNS`, by name."""

    event_type: str
    event_date_time: datetime
    environment: str
    event_context: str
    metadata_version: int
    outbox: str
    outbox_id: int
    window_id: UUID
    written_at: datetime
    added: Mapping[str, object] = field(default_factory=dict)


#: What a store reads for `stored_event`.
STREAMED_COLUMNS = (
    *(one.name for one in fields(StoredEvent) if one.name != "added"),
    *(column.name for column in ADDED_COLUMNS),
)


def stored_event(row: Sequence[Any]) -> StoredEvent:
    """The event of a row of `STREAMED_COLUMNS`. A time without a zone is taken to be in UTC."""
    values = dict(zip(STREAMED_COLUMNS, row, strict=True))
    added = {column.name: values.pop(column.name) for column in ADDED_COLUMNS}
    for name in ("event_date_time", "written_at"):
        values[name] = values[name].replace(tzinfo=UTC) if values[name].tzinfo is None else values[name].astimezone(UTC)
    return StoredEvent(**{**values, "window_id": UUID(str(values["window_id"]))}, added=added)


@dataclass(frozen=True, slots=True)
class Digest:
    """How many rows of one type and context a table has: `inside` a period, and `around` it, which includes those."""

    event_type: str
    #: Of the context's bytes, in hexadecimal digits.
    md5: str
    #: The time of the earliest of them.
    first_at: datetime
    inside: int
    around: int

    @property
    def key(self) -> tuple[str, str]:
        return self.event_type, self.md5


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one thing around the store: `is_ok`, and what it is or how to fix it."""

    check: str
    is_ok: bool
    detail: str


class EventStore(Protocol):
    """What the pipeline needs of a store. Rows travel as PostgreSQL COPY text, columns as in `ROW_COLUMNS`.

    What a store cannot do it says with an error; nothing is ignored.
    """

    def migrations(self) -> Sequence[Migration]:
        """Every migration of the OBT, in order, in the store's own statements, which can be repeated."""

    def applied_migrations(self) -> Mapping[int, tuple[str, str]]:
        """(name, checksum) of each applied migration, by number. Raises StoreUnavailable."""

    def apply_migration(self, migration: Migration) -> None:
        """Run it and record it. Raises StoreUnavailable."""

    def foreign_tables(self) -> Sequence[str]:
        """Each table of our names that `migrate` did not make and that differs from what it makes, and how to fix it.
        While there is one, `migrate` changes nothing. Raises StoreUnavailable."""

    def problems(self) -> Sequence[str]:
        """What is wrong with the table or its settings, each with what to do; empty when all is well."""

    def findings(self) -> Sequence[Finding]:
        """What the user's profile, policies, and whatever reads from or writes to the table do to the promises.

        Raises StoreUnavailable.
        """

    def write(self, rows: bytes, *, row_count: int, token: str) -> None:
        """Write the rows, all or none of each month, on disk when it returns. A second write with the same token is
        dropped as long as the store remembers the token.

        Raises StoreUnavailable, OutcomeUnknown or RowsRefused.
        """

    def read_back(self, window_id: UUID) -> set[tuple[str, int]]:
        """(outbox, outbox_id) of every stored row of a window. Raises StoreUnavailable."""

    def counts(self, window_ids: Sequence[UUID]) -> Mapping[UUID, Mapping[str, int]]:
        """Rows stored, per window and outbox; a window without rows is absent. For hundreds of windows in one query.

        Raises StoreUnavailable.
        """

    def digests(self, table: str | None, *, since: datetime, until: datetime, slack: timedelta) -> Iterator[Digest]:
        """What a table of the store holds from `since` to before `until`, and within `slack` around that, in the
        order of (event_type, md5). `table` is the OBT if None, else any table or view, also `schema.table`, with the
        columns event_type, event_date_time and event_context.

        Raises StoreUnavailable.
        """

    def stream(
        self, event_type: str, *, since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[StoredEvent]:
        """The events of a type, `since <= event_date_time < until`, the oldest first; as many as there are.

        Nothing stays open in the store between two of them. Events that are written meanwhile may come or not. Raises
        StoreUnavailable, also in the middle.
        """

    def now(self) -> datetime:
        """The store's clock. Raises StoreUnavailable."""

    def close(self) -> None:
        """Give back the connections."""


def checked(url: str) -> str:
    """The URL as it is. Raises ImproperlyConfigured for one that no store knows."""
    scheme = url.partition(":")[0].lower() if ":" in url else ""
    if scheme in _CLICKHOUSE:
        from towpath.eventlog.stores.clickhouse import url as clickhouse_url  # noqa: PLC0415

        clickhouse_url.address(url)
    elif scheme in _POSTGRESQL:
        from towpath.eventlog.stores.postgresql import session as postgresql_session  # noqa: PLC0415

        postgresql_session.parsed(url)
    else:
        raise ImproperlyConfigured(
            f"no store knows {scheme!r}: use clickhouse://host:8123/database, postgresql://host:5432/database, "
            "postgresql:// or chdb:///folder"
        )
    return url


def completed(url: str, *, database_url: str) -> str:
    """The URL of EVENT_STORE_URL in full: `postgresql://` alone is a database of its own beside the application's.

    Raises ImproperlyConfigured for a URL that no store knows.
    """
    parts = urlsplit(checked(url))
    if parts.scheme in _POSTGRESQL:
        server = parts if parts.netloc else urlsplit(database_url)
        options = server.query if parts.netloc else _of_the_server(server.query)
        query = f"?{options}" if options else ""
        # By hand: urlunsplit leaves out the slashes of an empty host, which stands for libpq's default.
        return f"{server.scheme}://{server.netloc}/{parts.path.strip('/') or _OWN_DATABASE}{query}"
    return url


def _of_the_server(query: str) -> str:
    """The options of a URL that are for another database of the same server, too."""
    return "&".join(one for one in query.split("&") if one.partition("=")[0] not in _OF_THE_DATABASE)


def connect(url: str, *, timeout_seconds: float) -> EventStore:
    """The store of a URL; `postgresql://` without a server is on the application's own, whatever its DATABASES say.

    Connects at first use, so that it can be made while the store is down.
    """
    try:
        checked(url)
    except ImproperlyConfigured as error:
        raise ImproperlyConfigured(f"EVENT_STORE_URL: {error}") from None
    # Late, so that a process that never writes never loads a driver.
    if urlsplit(url).scheme in _POSTGRESQL:
        from towpath.eventlog.stores.postgresql.store import PostgreSQLStore  # noqa: PLC0415

        return PostgreSQLStore(with_own_server(url), timeout_seconds=timeout_seconds)
    from towpath.eventlog.stores.clickhouse.store import ClickHouseStore  # noqa: PLC0415

    return ClickHouseStore(url, timeout_seconds=timeout_seconds)


def with_own_server(url: str) -> str:
    """The URL in full: one of PostgreSQL without a server is on the application's own."""
    parts = urlsplit(checked(url))
    is_full = parts.scheme not in _POSTGRESQL or parts.netloc
    return completed(url, database_url=url if is_full else _own_server())


def _own_server() -> str:
    """A URL of what Django connects to by default. All of it is in the query, where also a socket's folder may be."""
    parameters = connection.get_connection_params()
    for of_django in ("dbname", "client_encoding", "cursor_factory", *_OF_THE_DATABASE):
        parameters.pop(of_django, None)
    return "postgresql://?" + urlencode(parameters, quote_via=quote)
