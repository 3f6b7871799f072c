"""The event store: what each client may ask of a store that holds the One Big Table (OBT), and the values exchanged.

How to write a store: docs/stores.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Literal, Protocol
from uuid import UUID

from towpath.eventlog.masking import MASK, Cut, with_mask
from towpath.eventlog.search import SearchableStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import date

    from towpath.eventlog.proof import RowDigest, WindowDigest
    from towpath.eventlog.query import Query
    from towpath.eventlog.stored import StoredEvent


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema, as statements of the store."""

    number: int
    name: str
    statements: tuple[str, ...]

    @property
    def checksum(self) -> str:
        return sha256("\n".join(self.statements).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `detail` says what was found, or what is wrong and how to fix it."""

    check: str
    is_ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Digest:
    """The number of rows of one type and context in a table: `inside` a period, and `around` it (including
    `inside`)."""

    event_type: str
    #: Of the context's bytes, as 32 hexadecimal digits.
    md5: str
    #: The time of the earliest of them.
    first_at: datetime
    inside: int
    around: int

    @property
    def key(self) -> tuple[str, str]:
        return self.event_type, self.md5


#: What only few users of a store may do: drop months, or rewrite rows.
Change = Literal["drop", "rewrite"]


@dataclass(frozen=True, slots=True)
class MaskedRow:
    """A stored row, and what is to be masked in it: parts of its context, and the values of columns."""

    event: StoredEvent
    cuts: tuple[Cut, ...]
    columns: tuple[str, ...]

    @property
    def is_changed(self) -> bool:
        """True if anything in the row is masked."""
        return bool(self.cuts) or any(self.event.added[name] not in {"", MASK} for name in self.columns)

    def context(self, mask: str) -> str:
        """Return the context with the mask."""
        return with_mask(self.event.event_context, self.cuts, mask)

    def after(self, mask: str) -> StoredEvent:
        """Return the row with the mask."""
        added = {name: MASK if name in self.columns and value else value for name, value in self.event.added.items()}
        return replace(self.event, event_context=self.context(mask), added=added)


class EventStore(Protocol):
    """What the pipeline needs of a store to deliver windows, and to count what arrived.

    A store that cannot do something raises an error; it ignores nothing.
    """

    def write(self, rows: bytes, *, row_count: int, token: str) -> None:
        """Write the rows: for each month all of them or none, and on disk when it returns. A second write with the same
        token changes nothing, as long as the store remembers the token.

        `rows` is COPY text (`towpath.eventlog.rows`) of `row_count` rows.

        Raises StoreUnavailable, OutcomeUnknown (including when the store reports fewer rows) or WriteRefused.
        """

    def read_back(self, window_id: UUID) -> set[tuple[str, int]]:
        """Return (outbox, outbox_id) of every stored row of a window. Raises StoreUnavailable."""

    def counts(self, window_ids: Sequence[UUID]) -> Mapping[UUID, Mapping[str, int]]:
        """Return the number of stored rows by window and outbox, for hundreds of windows in one query. A window without
        rows is absent.

        Raises StoreUnavailable.
        """

    def now(self) -> datetime:
        """Return the time of the store's clock. Raises StoreUnavailable."""

    def close(self) -> None:
        """Close the connections."""


class VerifiableStore(EventStore, Protocol):
    """What verification needs of a store besides: digests of windows, in the form of `towpath.eventlog.proof`."""

    def covered_columns(self) -> tuple[str, ...]:
        """Return the columns that a digest covers if it is taken now: every column of the table that a person reads."""

    def window_digests(self, window_ids: Sequence[UUID], *, columns: Sequence[str]) -> Sequence[WindowDigest]:
        """Return a digest of what is stored of each window now, ordered by window, outbox and month, for hundreds of
        windows in one query. A window without rows is absent.

        Raises StoreUnavailable.
        """

    def body_digests(self, windows: Mapping[UUID, Sequence[str]]) -> Mapping[UUID, str]:
        """Return, for each window, the SHA-256 (64 hexadecimal digits) of the COPY text that its stored rows make. For
        a window that was written once and whole, that is the text that was given to `write`. A window without rows is
        absent.

        `windows` has the outboxes of each window, in the order in which they were loaded. The result is empty if the
        project has a column of Kind.FLOAT, whose values have several texts (`rows.have_one_text`).

        Raises StoreUnavailable.
        """


class MigratableStore(Protocol):
    """What `eventlog migrate` and the doctor need of a store: its table, and the things around it."""

    def migrations(self) -> Sequence[Migration]:
        """Return every migration of the OBT in order, as statements of the store that can be repeated."""

    def applied_migrations(self) -> Mapping[int, tuple[str, str]]:
        """Return (name, checksum) of each applied migration, by number. Raises StoreUnavailable."""

    def apply_migration(self, migration: Migration) -> None:
        """Run the migration and record it. Raises StoreUnavailable."""

    def foreign_tables(self) -> Sequence[str]:
        """Return a sentence for each table that has one of our names, but that `migrate` did not make and would make
        differently. While there is such a table, `migrate` changes nothing. Raises StoreUnavailable."""

    def problems(self) -> Sequence[str]:
        """Return what is wrong with the table or its settings, and how to fix it. Raises StoreUnavailable."""

    def reading_problems(self) -> Sequence[str]:
        """Return what keeps the user from reading every column of every row, and how to fix it. Raises
        StoreUnavailable."""

    def findings(self) -> Sequence[Finding]:
        """Check what the user's profile, row policies, and anything that reads from or writes to the table do to the
        guarantees. Raises StoreUnavailable."""


class ReadableStore(Protocol):
    """What readers of the event log need of a store."""

    def stream(
        self, event_type: str, *, since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[StoredEvent]:
        """Yield the events of a type with `since <= event_date_time < until`, oldest first, however many there are.

        Nothing stays open in the store between two events. Events that are written in the meantime may or may not be
        among them. Raises StoreUnavailable, even in the middle.
        """

    def stored_targets(self, event_type: str, targets: Sequence[str], *, since: datetime, until: datetime) -> set[str]:
        """Return those of the targets that an event of this type has, with `since <= event_date_time <= until`. Raises
        StoreUnavailable: an answer that may not be the store's must not be taken for "none"."""

    def digests(self, table: str | None, *, since: datetime, until: datetime, slack: timedelta) -> Iterator[Digest]:
        """Yield what a table of the store holds with `since <= event_date_time < until`, and within `slack` around
        that, ordered by (event_type, md5). `table` is any table or view with the columns event_type, event_date_time
        and event_context, also as `schema.table`; None is the OBT.

        Raises StoreUnavailable.
        """


class ProvableStore(VerifiableStore, Protocol):
    """What an audit needs of a store: digests of everything that it holds.

    `columns` are the names of the covered columns, in the order of that form. A name without a column raises
    ValueError. An answer that may not be the store's raises StoreUnavailable; it never means "nothing is stored".
    """

    def row_digests(self, window_id: UUID, *, columns: Sequence[str]) -> Sequence[RowDigest]:
        """Return a digest of each stored row of a window, ordered by (outbox, outbox_id). A row that is stored twice
        comes twice.

        Raises StoreUnavailable.
        """

    def months(self) -> Sequence[date]:
        """Return the first day of each month (UTC) that has rows, earliest first. Raises StoreUnavailable."""

    def windows_of(self, month: date) -> Iterator[UUID]:
        """Yield each window that has rows in the month, once, in the order of the ids, however many there are: so
        windows that were sealed one after the other come together. `month` is any day of the month. If somebody has
        added rows without a window, they are those of NO_WINDOW, here and in digests.

        Nothing stays open in the store between two windows. A window that is written in the meantime may or may not be
        among them. Raises StoreUnavailable, even in the middle.
        """


class KeepableStore(ProvableStore, Protocol):
    """What retention and erasure need of a store: to drop months, and to rewrite rows."""

    def keeping_problems(self, change: Change) -> Sequence[str]:
        """Return what keeps the user from making a change, and how to fix it. It is asked before the ledger says that
        the change was made. The answer is empty if the store cannot tell. Raises StoreUnavailable."""

    def drop_month(self, month: date, *, windows: int) -> bool:
        """Remove every row of the month, and the partition that holds them; False, and nothing is removed, if it has
        rows of more than so many windows. It does nothing for a month that is already gone. `month` is any day of the
        month.

        As little time as possible is between the count and the removal: what is written then is lost. Raises
        StoreUnavailable, which says what the user may not do.
        """

    def find_windows(self, query: Query, *, month: date) -> Sequence[UUID]:
        """Return the windows with rows of the month that the query finds; NO_WINDOW for rows without one. Raises
        StoreUnavailable."""

    def row_digests_of(
        self, window_ids: Sequence[UUID], *, columns: Sequence[str]
    ) -> Mapping[UUID, Sequence[RowDigest]]:
        """Return what `row_digests` returns, for dozens of windows in one query. A window without rows is absent.
        Raises StoreUnavailable."""

    def read_rows(self, window_ids: Sequence[UUID], query: Query) -> Sequence[StoredEvent]:
        """Return the rows of these windows that the query finds, with every covered column. Raises StoreUnavailable."""

    def rewrite(self, rows: Sequence[MaskedRow], *, mask: str) -> None:
        """Write the mask into the contexts of these rows, and MASK into those of their columns that are not empty; the
        columns are the same for each row. Nothing else changes, and all is on disk when it returns. A row that was
        already rewritten stays as it is, so an interrupted call can be repeated.

        Raises StoreUnavailable, which says what the user may not do. Some of the rows may be rewritten then.
        """


class Store(MigratableStore, ReadableStore, SearchableStore, KeepableStore, Protocol):
    """A store that a URL can name: it serves every client."""
