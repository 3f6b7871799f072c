"""An event store in memory that behaves as the real ones do. It is for the testing kit, and for tests that decide what
goes wrong in a store.

It passes the conformance suite (tests/conformance): it parses rows as a store does, an insert is one block for each
month, and the token log has an entry for each block and forgets the oldest.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from hashlib import md5, sha256
from threading import Lock
from typing import TYPE_CHECKING, Any
from uuid import UUID

from towpath.eventlog.columns import Column, added_columns, row_columns
from towpath.eventlog.errors import OutcomeUnknown, RowsRefused, StoreUnavailable
from towpath.eventlog.proof import RowDigest, WindowDigest, covered, kinds, row_digest, window_digests
from towpath.eventlog.query.matching import matches
from towpath.eventlog.rows import Identity, have_one_text, lines, text_of, values
from towpath.eventlog.search import Bar, FoundEvent, FoundEvents, Position, bar_start, position_of
from towpath.eventlog.store import Change, Digest, MaskedRow
from towpath.eventlog.stored import StoredEvent
from towpath.eventlog.values import parse as value_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from towpath.eventlog.query import Query

Block = tuple[str, str]  # month, token


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row of the OBT. Its context is kept as bytes."""

    outbox: str
    outbox_id: int
    window_id: UUID
    event_type: str
    event_date_time: datetime
    environment: str
    metadata_version: int
    event_context: bytes
    #: The values of `added_columns`, in their order.
    added: tuple[object, ...] = ("",) * len(added_columns())
    written_at: datetime = field(default_factory=lambda: datetime.now(UTC), compare=False)

    @property
    def identity(self) -> Identity:
        return self.outbox, self.outbox_id

    @property
    def month(self) -> str:
        return f"{self.event_date_time:%Y%m}"


class MemoryStore:
    """A `Store` without migrations. Its token log remembers `token_log_entries` blocks."""

    def __init__(self, *, own_columns: tuple[Column, ...] = (), token_log_entries: int = 10_000) -> None:
        self.own_columns = own_columns
        self.rows: list[StoredRow] = []
        self.token_log: OrderedDict[Block, None] = OrderedDict()
        self._token_log_entries = token_log_entries
        self._writing = Lock()

    def write(self, rows: bytes, *, row_count: int, token: str) -> None:
        parsed = parse(rows, own_columns=self.own_columns)
        for month, block in by_month(parsed).items():
            self.store_block((month, token), block)
        if len(parsed) < row_count:
            raise OutcomeUnknown(f"the event store took {len(parsed)} of {row_count} rows")

    def store_block(self, block: Block, rows: Sequence[StoredRow]) -> bool:
        """Store the rows of one month, all or none. Return False, and store nothing, if the token log has the block."""
        with self._writing:
            if block in self.token_log:
                return False
            self.remember(block)
            self.rows += rows
            return True

    def remember(self, block: Block) -> None:
        """Put the block into the token log, which then forgets its oldest block if it is full."""
        self.token_log[block] = None
        if len(self.token_log) > self._token_log_entries:
            self.token_log.popitem(last=False)

    def read_back(self, window_id: UUID) -> set[Identity]:
        return {row.identity for row in self.rows if row.window_id == window_id}

    def counts(self, window_ids: Sequence[UUID]) -> Mapping[UUID, Mapping[str, int]]:
        counts: dict[UUID, Counter[str]] = defaultdict(Counter)
        for row in self.rows:
            if row.window_id in window_ids:
                counts[row.window_id][row.outbox] += 1
        return counts

    def stream(
        self, event_type: str, *, since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[StoredEvent]:
        found = [
            row
            for row in self.rows
            if row.event_type == event_type
            and (since is None or row.event_date_time >= since)
            and (until is None or row.event_date_time < until)
        ]
        for row in sorted(found, key=lambda row: (row.event_date_time, row.identity)):
            yield self._event(row)

    def _event(self, row: StoredRow) -> StoredEvent:
        return StoredEvent(
            event_type=row.event_type,
            event_date_time=row.event_date_time,
            environment=row.environment,
            event_context=row.event_context.decode(),
            metadata_version=row.metadata_version,
            outbox=row.outbox,
            outbox_id=row.outbox_id,
            window_id=row.window_id,
            written_at=row.written_at,
            added=self.added_values(row),
        )

    def search(
        self,
        query: Query,
        *,
        since: datetime,
        until: datetime,
        before: Position | None = None,
        rows: int,
        most_characters: int | None = None,
        seconds: float,  # noqa: ARG002 - as the others
    ) -> FoundEvents:
        found = [
            event
            for event in self._found(query, since=since, until=until)
            if before is None or position_of(event) < before
        ]
        found.sort(key=position_of, reverse=True)
        last = position_of(found[rows - 1]) if len(found) >= rows else None
        cut = [
            FoundEvent(replace(event, event_context=event.event_context[:most_characters]), len(event.event_context))
            for event in found
            if last is None or position_of(event) >= last
        ]
        return FoundEvents.of(cut)

    def histogram(
        self,
        query: Query,
        *,
        since: datetime,
        until: datetime,
        step: timedelta,
        seconds: float,  # noqa: ARG002 - as the others
    ) -> Sequence[Bar]:
        found = self._found(query, since=since, until=until)
        counts = Counter((bar_start(event.event_date_time, step), event.event_type) for event in found)
        return sorted(Bar(start, event_type, events) for (start, event_type), events in counts.items())

    def one(self, position: Position, *, seconds: float) -> Sequence[FoundEvent]:  # noqa: ARG002 - as the others
        found = (event for event in map(self._event, self.rows) if position_of(event) == position)
        in_order = sorted(found, key=lambda event: (event.window_id, event.event_type))
        return [FoundEvent(event, len(event.event_context)) for event in in_order]

    def _found(self, query: Query, *, since: datetime, until: datetime) -> Iterator[StoredEvent]:
        events = map(self._event, self.rows)
        return (event for event in events if since <= event.event_date_time < until and matches(query, event))

    def stored_targets(self, event_type: str, targets: Sequence[str], *, since: datetime, until: datetime) -> set[str]:
        found = {
            str(self.added_values(row)["target"])
            for row in self.rows
            if row.event_type == event_type and since <= row.event_date_time <= until
        }
        return found.intersection(targets)

    def digests(self, table: str | None, *, since: datetime, until: datetime, slack: timedelta) -> Iterator[Digest]:
        if table is not None:
            raise StoreUnavailable(f"a store in memory has no table {table}")
        times: dict[tuple[str, str], list[datetime]] = defaultdict(list)
        for row in self.rows:
            if since - slack <= row.event_date_time < until + slack:
                digest = md5(row.event_context, usedforsecurity=False).hexdigest()
                times[row.event_type, digest].append(row.event_date_time)
        for (event_type, digest), around in sorted(times.items()):
            inside = [time for time in around if since <= time < until]
            yield Digest(event_type, digest, min(around), len(inside), len(around))

    def covered_columns(self) -> tuple[str, ...]:
        return covered(self.own_columns)

    def window_digests(self, window_ids: Sequence[UUID], *, columns: Sequence[str]) -> Sequence[WindowDigest]:
        rows = [row for row in self.rows if row.window_id in window_ids]
        return window_digests((row.window_id, self._digest(row, columns)) for row in rows)

    def row_digests(self, window_id: UUID, *, columns: Sequence[str]) -> Sequence[RowDigest]:
        digests = (self._digest(row, columns) for row in self.rows if row.window_id == window_id)
        return sorted(digests, key=lambda one: (one.outbox, one.outbox_id, one.digest))

    def body_digests(self, windows: Mapping[UUID, Sequence[str]]) -> Mapping[UUID, str]:
        columns = row_columns(self.own_columns)
        if not have_one_text(columns):
            return {}
        bodies: dict[UUID, list[tuple[int, int, bytes]]] = defaultdict(list)
        for row in self.rows:
            if row.window_id in windows:
                places = {outbox: place for place, outbox in enumerate(windows[row.window_id])}
                held = self._held(row)
                text = text_of([(column.kind, held[column.name]) for column in columns])
                bodies[row.window_id].append((places.get(row.outbox, len(places)), row.outbox_id, text))
        return {
            window_id: sha256(b"".join(text for *_, text in sorted(body))).hexdigest()
            for window_id, body in bodies.items()
        }

    def months(self) -> Sequence[date]:
        return sorted({_first_day(row.event_date_time) for row in self.rows})

    def windows_of(self, month: date) -> Iterator[UUID]:
        yield from sorted(
            {row.window_id for row in self.rows if _first_day(row.event_date_time) == month.replace(day=1)}
        )

    def keeping_problems(self, change: Change) -> Sequence[str]:  # noqa: ARG002 - as the others
        return []

    def drop_month(self, month: date, *, windows: int) -> bool:
        with self._writing:
            if len(set(self.windows_of(month))) > windows:
                return False
            self.rows = [row for row in self.rows if _first_day(row.event_date_time) != month.replace(day=1)]
        return True

    def find_windows(self, query: Query, *, month: date) -> Sequence[UUID]:
        found = (row for row in self.rows if _first_day(row.event_date_time) == month.replace(day=1))
        return list({row.window_id for row in found if matches(query, self._event(row))})

    def row_digests_of(
        self, window_ids: Sequence[UUID], *, columns: Sequence[str]
    ) -> Mapping[UUID, Sequence[RowDigest]]:
        found = {window_id: self.row_digests(window_id, columns=columns) for window_id in window_ids}
        return {window_id: rows for window_id, rows in found.items() if rows}

    def read_rows(self, window_ids: Sequence[UUID], query: Query) -> Sequence[StoredEvent]:
        found = (self._event(row) for row in self.rows if row.window_id in window_ids)
        return [event for event in found if matches(query, event)]

    def rewrite(self, rows: Sequence[MaskedRow], *, mask: str) -> None:
        def identity(row: StoredRow | StoredEvent, context: bytes) -> tuple[object, ...]:
            return row.window_id, row.outbox, row.outbox_id, row.event_date_time, context

        masked = {identity(one.event, one.event.event_context.encode()): one.after(mask) for one in rows}
        with self._writing:
            for place, row in enumerate(self.rows):
                after = masked.get(identity(row, row.event_context))
                if after is not None:
                    added = tuple(after.added[column.name] for column in added_columns(self.own_columns))
                    self.rows[place] = replace(row, event_context=after.event_context.encode(), added=added)

    def _digest(self, row: StoredRow, columns: Sequence[str]) -> RowDigest:
        held = self._held(row)
        digest = row_digest([(kind, held[name]) for name, kind in kinds(columns, self.own_columns)])
        month = _first_day(row.event_date_time)
        return RowDigest(row.outbox, row.outbox_id, month, row.event_type, row.event_date_time, digest)

    def _held(self, row: StoredRow) -> dict[str, Any]:
        """Return the value of every column, by name."""
        return {name: getattr(row, name) for name in StoredRow.__slots__} | self.added_values(row)

    def added_values(self, row: StoredRow) -> dict[str, object]:
        """Return the values of the added columns, by name."""
        names = (column.name for column in added_columns(self.own_columns))
        return dict(zip(names, row.added, strict=True))

    def now(self) -> datetime:
        return datetime.now(UTC)

    def close(self) -> None:
        """Do nothing: nothing is open."""


def parse(rows: bytes, *, own_columns: tuple[Column, ...] = ()) -> list[StoredRow]:
    """Return the rows of COPY text. Raises RowsRefused, which quotes no row."""
    return [_parse_row(line, own_columns) for line in lines(rows)]


def by_month(rows: Sequence[StoredRow]) -> dict[str, list[StoredRow]]:
    """Return the rows of each month (YYYYMM), earliest month first."""
    months: dict[str, list[StoredRow]] = defaultdict(list)
    for row in rows:
        months[row.month].append(row)
    return dict(sorted(months.items()))


def _first_day(moment: datetime) -> date:
    return moment.astimezone(UTC).date().replace(day=1)


def _parse_row(line: bytes, own_columns: tuple[Column, ...]) -> StoredRow:
    row = values(line, row_columns(own_columns))
    try:
        return StoredRow(
            outbox=row["outbox"].decode(),
            outbox_id=_natural(row["outbox_id"]),
            window_id=UUID(row["window_id"].decode()),
            event_type=row["event_type"].decode(),
            event_date_time=datetime.fromisoformat(row["event_date_time"].decode()).astimezone(UTC),
            environment=row["environment"].decode(),
            metadata_version=_natural(row["metadata_version"]),
            event_context=row["event_context"],
            added=tuple(value_of(column.kind, row[column.name].decode()) for column in added_columns(own_columns)),
        )
    except ValueError:
        raise RowsRefused("Cannot parse input: a value is not of its column's type") from None


def _natural(text: bytes) -> int:
    number = int(text)
    if number < 0 or number >= math.ldexp(1, 64):
        raise ValueError
    return number
