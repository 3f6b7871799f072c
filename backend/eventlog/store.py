"""The event store: the narrow interface to whatever holds the OBT, and the choice of one by its URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from backend.eventlog.schema import Migration


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

    def problems(self) -> Sequence[str]:
        """What is wrong with the table or its settings, each with what to do; empty when all is well."""

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

    def now(self) -> datetime:
        """The store's clock. Raises StoreUnavailable."""

    def close(self) -> None:
        """Give back the connections."""


def connect(url: str, *, timeout_seconds: float) -> EventStore:
    """The store that `url` names. Connects at first use, so that it can be made while the store is down.

    Raises ImproperlyConfigured for a URL no store knows.
    """
    scheme = urlsplit(url).scheme
    if scheme in {"clickhouse", "clickhouses", "http", "https"}:
        # Late, so that a process that never writes never loads the driver.
        from backend.eventlog.clickhouse import ClickHouseStore  # noqa: PLC0415

        return ClickHouseStore(url, timeout_seconds=timeout_seconds)
    raise ImproperlyConfigured(f"EVENT_STORE_URL: no store knows {scheme!r}: use clickhouse://host:8123/database")
