"""The event store on ClickHouse: a server over HTTP or, with `chdb:///folder`, the same engine inside this process.
Only one process at a time can open the folder.

A window is one INSERT with the window's token. Table settings (schema.py: token log, fsync) and settings that are
pinned on every statement (settings.py: one block per month, no asynchronous inserts, no shortened answers) make it
idempotent, and durable when it returns.
"""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from towpath.eventlog.columns import Column, row_columns
from towpath.eventlog.errors import OutcomeUnknown, StoreUnavailable
from towpath.eventlog.proof import covered, month_of
from towpath.eventlog.rows import have_one_text
from towpath.eventlog.search import FoundEvents
from towpath.eventlog.store import Digest, Finding, Migration
from towpath.eventlog.stored import StoredEvent, stored_event, streamed_columns
from towpath.eventlog.stores.clickhouse import keeping, proof, search, surroundings
from towpath.eventlog.stores.clickhouse.client import NOT_THE_STORES, ClickHouseClient
from towpath.eventlog.stores.clickhouse.moments import microseconds, moment_of, of_microseconds
from towpath.eventlog.stores.clickhouse.query import where
from towpath.eventlog.stores.clickhouse.schema import CREATE_MIGRATIONS, TABLE, migrations
from towpath.eventlog.stores.clickhouse.settings import PINNED_ON_CHANGES, PINNED_ON_DECISIONS
from towpath.eventlog.stores.clickhouse.url import address

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from towpath.eventlog.proof import RowDigest, WindowDigest
    from towpath.eventlog.query import Query
    from towpath.eventlog.search import Bar, FoundEvent, Position
    from towpath.eventlog.store import Change, MaskedRow

#: Rows on a page of `stream`.
_PAGE_ROWS = 1000


class ClickHouseStore:
    """A `Store` on a ClickHouse engine. Safe to share between threads; connects at first use."""

    def __init__(self, url: str, *, timeout_seconds: float, own_columns: tuple[Column, ...] = ()) -> None:
        self._own_columns = own_columns
        self._client = ClickHouseClient(address(url), timeout_seconds=timeout_seconds)

    def migrations(self) -> Sequence[Migration]:
        return migrations(self._own_columns)

    def applied_migrations(self) -> Mapping[int, tuple[str, str]]:
        return surroundings.applied_migrations(self._client)

    def apply_migration(self, migration: Migration) -> None:
        for statement in (CREATE_MIGRATIONS, *migration.statements):
            self._client.command(statement)
        # After a crash this can run again, as the statements can: the newest record of a number counts.
        self._client.command(
            f"INSERT INTO {TABLE}_migration (number, name, checksum) SELECT %(number)s, %(name)s, %(checksum)s",
            number=migration.number,
            name=migration.name,
            checksum=migration.checksum,
        )

    def foreign_tables(self) -> Sequence[str]:
        return surroundings.foreign_tables(self._client, self._own_columns)

    def problems(self) -> Sequence[str]:
        return surroundings.table_problems(self._client, self._own_columns)

    def reading_problems(self) -> Sequence[str]:
        return surroundings.reading_problems(self._client)

    def findings(self) -> Sequence[Finding]:
        return surroundings.findings(self._client, self._own_columns)

    def write(self, rows: bytes, *, row_count: int, token: str) -> None:
        columns = [column.name for column in row_columns(self._own_columns)]
        written = self._client.insert(TABLE, columns, rows, token=token)
        # A write that is dropped by its token still counts its rows. Fewer than sent means that some were not parsed.
        if written < row_count:
            raise OutcomeUnknown(f"the event store says that it took {written} of {row_count} rows")

    def read_back(self, window_id: UUID) -> set[tuple[str, int]]:
        stored = self._array(
            f"SELECT groupArray((outbox, outbox_id)) FROM {TABLE} WHERE window_id = %(window)s", window=str(window_id)
        )
        return {(str(outbox), int(outbox_id)) for outbox, outbox_id in stored}

    def counts(self, window_ids: Sequence[UUID]) -> Mapping[UUID, Mapping[str, int]]:
        counts: dict[UUID, dict[str, int]] = {}
        if window_ids:
            found = self._array(
                f"""
                SELECT groupArray((window_id, outbox, stored)) FROM (
                    SELECT window_id, outbox, count() AS stored FROM {TABLE}
                    WHERE window_id IN %(windows)s GROUP BY window_id, outbox
                )
                """,
                windows=tuple(str(window_id) for window_id in window_ids),
            )
            for window_id, outbox, stored in found:
                counts.setdefault(window_id, {})[str(outbox)] = int(stored)
        return counts

    def stream(
        self, event_type: str, *, since: datetime | None = None, until: datetime | None = None
    ) -> Iterator[StoredEvent]:
        conditions = ["event_type = %(event_type)s"]
        parameters: dict[str, Any] = {"event_type": event_type}
        for name, moment, comparison in (("since", since, ">="), ("until", until, "<")):
            if moment is not None:
                conditions.append(f"event_date_time {comparison} {moment_of(name)}")
                parameters[name] = microseconds(moment)
        columns = ", ".join(streamed_columns(self._own_columns))
        after = ""
        while True:
            # With ties, so that a row that is stored twice is streamed twice even at the end of a page.
            rows = self._client.query(
                f"""
                SELECT {columns} FROM {TABLE} WHERE {" AND ".join(conditions)} {after}
                ORDER BY event_date_time, outbox, outbox_id LIMIT {_PAGE_ROWS} WITH TIES
                """,
                **parameters,
            )
            for row in rows:
                event = stored_event(row, self._own_columns)
                yield event
            if len(rows) < _PAGE_ROWS:
                return
            # The first condition is there for the sorting key, which the server does not use for the second.
            after = f"""
                AND event_date_time >= {moment_of("time")}
                AND (event_date_time, outbox, outbox_id) > ({moment_of("time")}, %(outbox)s, %(outbox_id)s)
                """
            parameters |= {
                "time": microseconds(event.event_date_time),
                "outbox": event.outbox,
                "outbox_id": event.outbox_id,
            }

    def search(
        self,
        query: Query,
        *,
        since: datetime,
        until: datetime,
        before: Position | None = None,
        rows: int,
        most_characters: int | None = None,
        seconds: float,
    ) -> FoundEvents:
        more, ends = 1, time.monotonic() + seconds
        while True:
            sql, parameters = search.page(
                query,
                since=since,
                until=until,
                before=before,
                rows=rows + more,
                most_characters=most_characters,
                own=self._own_columns,
            )
            found = self._searched(sql, parameters, seconds=ends - time.monotonic())
            last = found[rows - 1].position if len(found) >= rows else None
            if last is None or len(found) < rows + more or found[-1].position < last:
                return found[: rows + sum(one.position == last for one in found[rows:])]
            # Every further row is at the position of the last one, so there may be more of them: ask again.
            more *= 16

    def histogram(
        self, query: Query, *, since: datetime, until: datetime, step: timedelta, seconds: float
    ) -> Sequence[Bar]:
        sql, parameters = search.bars(query, since=since, until=until, step=step)
        return search.found_bars(self._client.columns_within(sql, parameters, seconds=seconds))

    def one(self, position: Position, *, seconds: float) -> Sequence[FoundEvent]:
        return list(self._searched(*search.at(position, own=self._own_columns), seconds=seconds))

    def _searched(self, sql: str, parameters: dict[str, Any], *, seconds: float) -> FoundEvents:
        return FoundEvents.of_columns(self._client.columns_within(sql, parameters, seconds=seconds), self._own_columns)

    def stored_targets(self, event_type: str, targets: Sequence[str], *, since: datetime, until: datetime) -> set[str]:
        if not targets:
            return set()
        stored = self._array(
            f"""
            SELECT groupUniqArray(target) FROM {TABLE} WHERE event_type = %(event_type)s
            AND event_date_time >= {moment_of("since")} AND event_date_time <= {moment_of("until")}
            AND target IN %(targets)s
            """,
            event_type=event_type,
            since=microseconds(since),
            until=microseconds(until),
            targets=tuple(targets),
        )
        return {str(target) for target in stored}

    def digests(self, table: str | None, *, since: datetime, until: datetime, slack: timedelta) -> Iterator[Digest]:
        found = self._client.stream(
            f"""
            SELECT toString(event_type) AS type, lower(hex(MD5(event_context))) AS digest,
                toUnixTimestamp64Micro(toDateTime64(min(event_date_time), 6, 'UTC')),
                countIf(event_date_time >= {moment_of("since")} AND event_date_time < {moment_of("until")}), count()
            FROM {_quoted(table or TABLE)}
            WHERE event_date_time >= {moment_of("earliest")} AND event_date_time < {moment_of("latest")}
            GROUP BY type, digest ORDER BY type, digest
            """,
            since=microseconds(since),
            until=microseconds(until),
            earliest=microseconds(since - slack),
            latest=microseconds(until + slack),
        )
        for event_type, digest, number, count, around in found:
            yield Digest(str(event_type), str(digest), of_microseconds(int(number)), int(count), int(around))

    def covered_columns(self) -> tuple[str, ...]:
        return covered(self._own_columns)

    def window_digests(self, window_ids: Sequence[UUID], *, columns: Sequence[str]) -> Sequence[WindowDigest]:
        sql = proof.digests_of_windows(columns, self._own_columns)
        if not window_ids:
            return []
        return proof.window_digests(self._array(sql, windows=tuple(str(window_id) for window_id in window_ids)))

    def row_digests(self, window_id: UUID, *, columns: Sequence[str]) -> Sequence[RowDigest]:
        return self.row_digests_of([window_id], columns=columns).get(window_id, [])

    def body_digests(self, windows: Mapping[UUID, Sequence[str]]) -> Mapping[UUID, str]:
        if not windows or not have_one_text(row_columns(self._own_columns)):
            return {}
        orders = list(dict.fromkeys(map(tuple, windows.values())))
        found = self._array(
            proof.digests_of_bodies(self._own_columns),
            windows=[str(window_id) for window_id in windows],
            orders=[list(order) for order in orders],
            order_of_windows=[orders.index(tuple(order)) + 1 for order in windows.values()],
        )
        return {UUID(window_id): str(digest) for window_id, digest in found}

    def months(self) -> Sequence[date]:
        return sorted(month_of(int(month)) for month in self._array(proof.MONTHS))

    def windows_of(self, month: date) -> Iterator[UUID]:
        page: Sequence[Any] = []
        while True:
            sql = proof.windows_of(is_first=not page)
            page = self._array(sql, month=_month_number(month), after=str(page[-1]) if page else "")
            yield from (UUID(str(window_id)) for window_id in page)
            if len(page) < proof.PAGE_WINDOWS:
                return

    def keeping_problems(self, change: Change) -> Sequence[str]:
        return surroundings.keeping_problems(self._client, change)

    def drop_month(self, month: date, *, windows: int) -> bool:
        number = _month_number(month)
        ((rows,),) = self._client.query(keeping.COUNT_ROWS, month=number)
        ((stored,),) = self._client.query(keeping.COUNT_WINDOWS, month=number)
        # The windows of a large month are counted for seconds, its rows in no time. Nothing locks the table for both
        # this and the drop.
        ((rows_now,),) = self._client.query(keeping.COUNT_ROWS, month=number)
        if int(stored) > windows or rows_now != rows:
            return False
        self._client.command(keeping.DROP_MONTH, wanted=PINNED_ON_CHANGES, month=number)
        return True

    def find_windows(self, query: Query, *, month: date) -> Sequence[UUID]:
        condition, parameters = where(query)
        found = self._array(keeping.of_month(condition), month=_month_number(month), **parameters)
        return [UUID(str(window_id)) for window_id in found]

    def row_digests_of(
        self, window_ids: Sequence[UUID], *, columns: Sequence[str]
    ) -> Mapping[UUID, Sequence[RowDigest]]:
        sql = proof.digests_of_rows(columns, self._own_columns)
        return proof.row_digests(self._array(sql, windows=tuple(str(window_id) for window_id in window_ids)))

    def read_rows(self, window_ids: Sequence[UUID], query: Query) -> Sequence[StoredEvent]:
        condition, parameters = where(query)
        columns = ", ".join(streamed_columns(self._own_columns))
        rows = self._client.query(
            f"SELECT {columns} FROM {TABLE} WHERE {proof.OF_WINDOWS} AND {condition}",
            wanted=PINNED_ON_DECISIONS,
            windows=tuple(str(window_id) for window_id in window_ids),
            **parameters,
        )
        return [stored_event(row, self._own_columns) for row in rows]

    def rewrite(self, rows: Sequence[MaskedRow], *, mask: str) -> None:
        if not rows:
            return
        limit = self._client.settings()["max_query_size"]
        wanted, most_characters = dict(PINNED_ON_CHANGES), int(limit.value)
        if limit.can_be(str(keeping.MOST_CHARACTERS)):
            most_characters = keeping.MOST_CHARACTERS
            wanted["max_query_size"] = str(most_characters)
        for statement, parameters in keeping.mutations(rows, mask=mask, most_characters=most_characters):
            self._client.command(statement, wanted=wanted, **parameters)

    def now(self) -> datetime:
        moment: datetime = self._client.query("SELECT now64(6, 'UTC')")[0][0]
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def close(self) -> None:
        self._client.close()

    def _array(self, sql: str, **parameters: object) -> Sequence[Any]:
        """Return the array that a statement yields as its only row. Raises StoreUnavailable.

        An array is always one row, so an answer without rows is not the server's, and must not mean "nothing is
        stored".
        """
        rows = self._client.query(sql, wanted=PINNED_ON_DECISIONS, **parameters)
        if len(rows) != 1:
            raise StoreUnavailable(NOT_THE_STORES)
        # The answer would report rows that a policy hides as missing, and they would be stored again.
        if hidden := surroundings.hidden_rows(self._client):
            raise StoreUnavailable(hidden)
        found: Sequence[Any] = rows[0][0]
        return found


def _month_number(month: date) -> int:
    return month.year * 100 + month.month


def _quoted(table: str) -> str:
    return ".".join("`" + part.replace("\\", "\\\\").replace("`", "\\`") + "`" for part in table.split("."))
