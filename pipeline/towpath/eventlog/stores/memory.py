"""The event store in memory, which behaves as the real ones do: for the testing kit and for tests that must
decide what goes wrong in a store.

It passes the conformance suite (tests/conformance): rows are parsed as a store parses them, an insert is one block for
each month, and the token log has an entry for each block, of which it forgets the oldest.
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
from towpath.eventlog.rows import Identity, have_one_text, lines, text_of, values
from towpath.eventlog.store import Change, Digest, MaskedRow, StoredEvent, Wanted
from towpath.eventlog.values import parse as value_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Block = tuple[str, str]  # month, token


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row of the OBT, its text as the bytes that are stored."""

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
    """An `EventStore`, a `ReadableStore` and a `KeepableStore`, which remembers `token_log_entries` blocks."""

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
        """Store the rows of one month, all or none. False if the token log has the block."""
        with self._writing:
            if block in self.token_log:
                return False
            self.remember(block)
            self.rows += rows
            return True

    def remember(self, block: Block) -> None:
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
        yield from {row.window_id for row in self.rows if _first_day(row.event_date_time) == month.replace(day=1)}

    def keeping_problems(self, change: Change) -> Sequence[str]:  # noqa: ARG002 - as the others
        return []

    def drop_month(self, month: date) -> None:
        with self._writing:
            self.rows = [row for row in self.rows if _first_day(row.event_date_time) != month.replace(day=1)]

    def find_windows(self, wanted: Wanted, *, month: date) -> Sequence[UUID]:
        found = (row for row in self.rows if _first_day(row.event_date_time) == month.replace(day=1))
        return list({row.window_id for row in found if self._is_wanted(row, wanted)})

    def row_digests_of(
        self, window_ids: Sequence[UUID], *, columns: Sequence[str]
    ) -> Mapping[UUID, Sequence[RowDigest]]:
        found = {window_id: self.row_digests(window_id, columns=columns) for window_id in window_ids}
        return {window_id: rows for window_id, rows in found.items() if rows}

    def read_rows(self, window_ids: Sequence[UUID], wanted: Wanted) -> Sequence[StoredEvent]:
        return [self._event(row) for row in self.rows if row.window_id in window_ids and self._is_wanted(row, wanted)]

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

    def _is_wanted(self, row: StoredRow, wanted: Wanted) -> bool:
        added = self.added_values(row)
        context = row.event_context.decode()
        return all(added[name] == value for name, value in wanted.columns.items()) and (
            "\\" in context or all(text in context for text in wanted.texts)
        )

    def _digest(self, row: StoredRow, columns: Sequence[str]) -> RowDigest:
        held = self._held(row)
        digest = row_digest([(kind, held[name]) for name, kind in kinds(columns, self.own_columns)])
        month = _first_day(row.event_date_time)
        return RowDigest(row.outbox, row.outbox_id, month, row.event_type, row.event_date_time, digest)

    def _held(self, row: StoredRow) -> dict[str, Any]:
        """The value of every column, by name."""
        return {name: getattr(row, name) for name in StoredRow.__slots__} | self.added_values(row)

    def added_values(self, row: StoredRow) -> dict[str, object]:
        """The values of the added columns, by name."""
        names = (column.name for column in added_columns(self.own_columns))
        return dict(zip(names, row.added, strict=True))

    def now(self) -> datetime:
        return datetime.now(UTC)

    def close(self) -> None:
        """Nothing is open."""


def parse(rows: bytes, *, own_columns: tuple[Column, ...] = ()) -> list[StoredRow]:
    """The rows of COPY text. Raises RowsRefused, which quotes none of them."""
    return [_parse_row(line, own_columns) for line in lines(rows)]


def by_month(rows: Sequence[StoredRow]) -> dict[str, list[StoredRow]]:
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
