"""The event store: what each of its clients may ask of whatever holds the OBT, and the values that they exchange.

How to write another one: docs/stores.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, Protocol
from uuid import UUID

from towpath.eventlog.columns import Kind, added_columns
from towpath.eventlog.masking import MASK, Cut, with_mask

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import date

    from towpath.eventlog.columns import Column
    from towpath.eventlog.proof import RowDigest, WindowDigest


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema, in the store's own statements."""

    number: int
    name: str
    statements: tuple[str, ...]

    @property
    def checksum(self) -> str:
        return sha256("\n".join(self.statements).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: `is_ok`, and what was found or how to fix it."""

    check: str
    is_ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A row of the OBT. `added` has the values of `added_columns`, by name."""

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


def streamed_columns(own: tuple[Column, ...] = ()) -> list[str]:
    """What a store reads for `stored_event`."""
    base = [one.name for one in fields(StoredEvent) if one.name != "added"]
    return [*base, *(column.name for column in added_columns(own))]


def stored_event(row: Sequence[Any], own: tuple[Column, ...] = ()) -> StoredEvent:
    """The event of a row of `streamed_columns`. A time without a zone is taken to be in UTC."""
    values = dict(zip(streamed_columns(own), row, strict=True))
    added = {column.name: _as_kind(column.kind, values.pop(column.name)) for column in added_columns(own)}
    for name in ("event_date_time", "written_at"):
        values[name] = _as_kind(Kind.TIME, values[name])
    return StoredEvent(**{**values, "window_id": UUID(str(values["window_id"]))}, added=added)


def _as_kind(kind: Kind, value: Any) -> object:
    """The same in Python, whichever driver has read it."""
    if kind is Kind.TIME:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return UUID(str(value)) if kind is Kind.UUID else value


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


#: What only few users of a store may do: drop months, and rewrite rows.
Change = Literal["drop", "rewrite"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows are looked for: those that may hold all of this."""

    #: Columns of text, with the value that each must have.
    columns: Mapping[str, str]
    #: A context that has a backslash, or each of these somewhere: none that holds them as a value is left out, since
    #: JSON can write a value in another way with a backslash only.
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MaskedRow:
    """A stored row, and what gives way to a mask: parts of its context, and the values of columns."""

    event: StoredEvent
    cuts: tuple[Cut, ...]
    columns: tuple[str, ...]

    @property
    def is_changed(self) -> bool:
        """True if anything of the row gives way."""
        return bool(self.cuts) or any(self.event.added[name] not in {"", MASK} for name in self.columns)

    def context(self, mask: str) -> str:
        """The context as it will be."""
        return with_mask(self.event.event_context, self.cuts, mask)

    def after(self, mask: str) -> StoredEvent:
        """The row as it will be."""
        added = {name: MASK if name in self.columns and value else value for name, value in self.event.added.items()}
        return replace(self.event, event_context=self.context(mask), added=added)


class EventStore(Protocol):
    """What the pipeline needs of a store: all that a window's way takes.

    What a store cannot do it says with an error; nothing is ignored.
    """

    def write(self, rows: bytes, *, row_count: int, token: str) -> None:
        """Write the rows, all or none of each month, on disk when it returns. A second write with the same token is
        dropped as long as the store remembers the token.

        `rows` is COPY text (`towpath.eventlog.rows`) of `row_count` rows.

        Raises StoreUnavailable, OutcomeUnknown (also when the store says that it took fewer) or WriteRefused.
        """

    def read_back(self, window_id: UUID) -> set[tuple[str, int]]:
        """(outbox, outbox_id) of every stored row of a window. Raises StoreUnavailable."""

    def counts(self, window_ids: Sequence[UUID]) -> Mapping[UUID, Mapping[str, int]]:
        """Rows stored, per window and outbox; a window without rows is absent. For hundreds of windows in one query.

        Raises StoreUnavailable.
        """

    def covered_columns(self) -> tuple[str, ...]:
        """What a digest that is taken now covers: every column of the table that a person can read."""

    def window_digests(self, window_ids: Sequence[UUID], *, columns: Sequence[str]) -> Sequence[WindowDigest]:
        """Of what is stored of these windows now, in the order of window, outbox and month; a window without rows is
        absent. For hundreds of windows in one query.

        Raises StoreUnavailable.
        """

    def body_digests(self, windows: Mapping[UUID, Sequence[str]]) -> Mapping[UUID, str]:
        """Of each window, SHA-256 (64 hexadecimal digits) of the COPY text that its stored rows make: of a window that
        was written once and whole, that of the text that was given to `write`. A window without rows is absent.

        `windows` has the outboxes of each in the order in which they were loaded. Empty if the project has a column of
        Kind.FLOAT, whose values do not make one text (`rows.have_one_text`).

        Raises StoreUnavailable.
        """

    def now(self) -> datetime:
        """The store's clock. Raises StoreUnavailable."""

    def close(self) -> None:
        """Give back the connections."""


class MigratableStore(Protocol):
    """What `eventlog migrate` and the doctor need of a store: its table, and what is around it."""

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
        """What is wrong with the table or its settings, each with how to fix it; empty when all is well.

        Raises StoreUnavailable.
        """

    def reading_problems(self) -> Sequence[str]:
        """What keeps the user from reading every column of every row, each with how to fix it; empty when nothing does.

        Raises StoreUnavailable.
        """

    def findings(self) -> Sequence[Finding]:
        """What the user's profile, policies, and whatever reads from or writes to the table do to the promises.

        Raises StoreUnavailable.
        """


class ReadableStore(Protocol):
    """What readers of the event log need of a store."""

    def stream(
        self, event_type: str, *, since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[StoredEvent]:
        """The events of a type, `since <= event_date_time < until`, the oldest first, however many there are.

        Nothing stays open in the store between two of them. Events that are written meanwhile may be among them or
        not. Raises StoreUnavailable, also in the middle.
        """

    def stored_targets(self, event_type: str, targets: Sequence[str], *, since: datetime, until: datetime) -> set[str]:
        """Those of the targets that an event of the type has, `since <= event_date_time <= until`. Raises
        StoreUnavailable: an answer that is not certainly the store's must not be taken for "none"."""

    def digests(self, table: str | None, *, since: datetime, until: datetime, slack: timedelta) -> Iterator[Digest]:
        """What a table of the store holds from `since` to before `until`, and within `slack` around that, in the
        order of (event_type, md5). `table` is the OBT if None, else any table or view, also `schema.table`, with the
        columns event_type, event_date_time and event_context.

        Raises StoreUnavailable.
        """


class ProvableStore(EventStore, Protocol):
    """What an audit needs of a store: digests of all that it holds, in the form of `towpath.eventlog.proof`.

    `columns` are the covered ones, by name, in the order of the form. A name that the table has no column of is a
    ValueError. An answer that is not certainly the store's is StoreUnavailable, and never "nothing is stored".
    """

    def row_digests(self, window_id: UUID, *, columns: Sequence[str]) -> Sequence[RowDigest]:
        """Of each stored row of a window, in the order of (outbox, outbox_id); one that is stored twice comes twice.

        Raises StoreUnavailable.
        """

    def months(self) -> Sequence[date]:
        """The first days of the months (UTC) that hold rows, the earliest first. Raises StoreUnavailable."""

    def windows_of(self, month: date) -> Iterator[UUID]:
        """Each window that has rows in the month, once, in no order, however many there are. `month` is any day of it.

        Nothing stays open in the store between two of them. A window that is written meanwhile may be among them or
        not. Raises StoreUnavailable, also in the middle.
        """


class KeepableStore(ProvableStore, Protocol):
    """What retention and erasure need of a store: months that go, and rows that are rewritten."""

    def keeping_problems(self, change: Change) -> Sequence[str]:
        """What keeps the user from a change, each with how to fix it: before the ledger says that it was made. Empty as
        well if the store does not say. Raises StoreUnavailable."""

    def drop_month(self, month: date) -> None:
        """Remove every row of the month, and what holds them; nothing of one that is gone already. `month` is any day
        of it. Raises StoreUnavailable, which says what the user may not do."""

    def find_windows(self, wanted: Wanted, *, month: date) -> Sequence[UUID]:
        """The windows that have wanted rows in the month. Raises StoreUnavailable."""

    def row_digests_of(
        self, window_ids: Sequence[UUID], *, columns: Sequence[str]
    ) -> Mapping[UUID, Sequence[RowDigest]]:
        """As `row_digests`, for dozens of windows in one query; a window without rows is absent. Raises
        StoreUnavailable."""

    def read_rows(self, window_ids: Sequence[UUID], wanted: Wanted) -> Sequence[StoredEvent]:
        """The wanted rows of these windows, with every covered column. Raises StoreUnavailable."""

    def rewrite(self, rows: Sequence[MaskedRow], *, mask: str) -> None:
        """Put the mask into the contexts of these rows, and MASK into those of their columns that are not empty, which
        are the same columns in each row; nothing else changes. On disk when it returns. A row that has been rewritten
        meanwhile is left as it is, so that an interrupted call can be repeated.

        Raises StoreUnavailable, which says what the user may not do; then some of the rows may be rewritten.
        """


class Store(MigratableStore, ReadableStore, KeepableStore, Protocol):
    """A store that a URL can name, which serves all of them."""
