"""Which sorting key, and which indexes: what the pages of the explorer would cost with each, on an engine of its own.

    python -m tests.benchmarks.sorting_keys [--rows 10000000] [--indexes | --inserts]

50 types over 30 days, the rarest of them one event in 20,000; contexts of some 200 bytes. Times are medians in
milliseconds, two threads; an insert is a window of 1,000 rows of the newest hour. docs/decisions/0024 has the result.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import clickhouse_connect

from tests.benchmarks.many_events import COLUMNS, DAYS, END, events
from towpath.eventlog.stores.clickhouse.schema import TABLE, migrations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clickhouse_connect.driver.client import Client

_ROWS_OF_WINDOW, _WINDOWS, _QUERIES = 1000, 150, 9
#: So many that a few milliseconds show, whatever else the machine does.
_INSERTS = 400
_BLOCK = 250_000


@dataclass(frozen=True, slots=True)
class Kind:
    """A sorting key, an index, and the expression that a period is asked for by, besides the time."""

    key: str
    indexes: tuple[str, ...] = ()
    bucket: str = ""


#: Functions of hours and days that return a DateTime are right from 1970 to 2105 only, and events can be older.
_HOUR = "intDiv(toUnixTimestamp64Micro(event_date_time), 3600000000)"
_DAY = "intDiv(toUnixTimestamp64Micro(event_date_time), 86400000000)"
_BLOOMS = {
    "type": "INDEX type_bloom event_type TYPE bloom_filter(0.001) GRANULARITY 1",
    "actor": "INDEX actor_bloom_filter actor TYPE bloom_filter(0.01) GRANULARITY 1",
    "request_id": "INDEX request_bloom request_id TYPE bloom_filter(0.01) GRANULARITY 1",
    "target": "INDEX target_bloom_filter target TYPE bloom_filter(0.01) GRANULARITY 1",
}
KEYS: Mapping[str, Kind] = {
    "type, time": Kind("event_type, event_date_time, outbox, outbox_id"),
    "time": Kind("event_date_time, outbox, outbox_id"),
    "time, bloom of type": Kind("event_date_time, outbox, outbox_id", indexes=(_BLOOMS["type"],)),
    "time, every bloom filter": Kind("event_date_time, outbox, outbox_id", indexes=tuple(_BLOOMS.values())),
    "hour, type, time": Kind(f"{_HOUR}, event_type, event_date_time, outbox, outbox_id", bucket=_HOUR),
    "day, type, time": Kind(f"{_DAY}, event_type, event_date_time, outbox, outbox_id", bucket=_DAY),
}
_CHOSEN = "time"
#: Of the columns that the three filters are of: none, each alone, all.
INSERTS: Mapping[str, tuple[str, ...]] = {
    "none": (_BLOOMS["type"],),
    **{f"bloom {name}": (_BLOOMS["type"], _BLOOMS[name]) for name in ("request_id", "actor", "target")},
    "all three": tuple(_BLOOMS.values()),
}
#: By what it is for. The first is none.
INDEXES: Mapping[str, tuple[str, ...]] = {
    "none": (),
    **{f"bloom {name}": (bloom,) for name, bloom in _BLOOMS.items()},
    "ngram bloom context": ("INDEX context_ngrams lower(event_context) TYPE ngrambf_v1(4, 65536, 2, 0) GRANULARITY 1",),
    "text context": ("INDEX context_text lower(event_context) TYPE text(tokenizer = splitByNonAlpha)",),
    "text context, trigrams": ("INDEX context_text lower(event_context) TYPE text(tokenizer = ngrams(3))",),
}

_NEWEST = "ORDER BY event_date_time DESC, outbox DESC, outbox_id DESC LIMIT 100"
_COLUMNS = "event_type, event_date_time, outbox, outbox_id, actor, target, outcome, left(event_context, 500)"
_SELECT = f"SELECT {_COLUMNS} FROM TABLE WHERE"
_MONTH = DAYS * 24


def _asked(hours: float) -> str:
    return f"IN THE LAST {int(hours * 60)} MINUTES"


def _histogram(hours: float, width: int) -> str:
    return (
        f"SELECT toStartOfInterval(event_date_time, INTERVAL {width} MINUTE) AS at, event_type, count()"
        f" FROM TABLE WHERE {_asked(hours)} GROUP BY at, event_type"
    )


PAGES: Mapping[str, str] = {
    "newest 100, all in one": f"{_SELECT} {_asked(_MONTH)} {_NEWEST}",
    "newest 100, 15 min": f"{_SELECT} {_asked(0.25)} {_NEWEST}",
    "newest 100, 24 h": f"{_SELECT} {_asked(24)} {_NEWEST}",
    "common type, 24 h": f"{_SELECT} event_type = 'type_01' AND {_asked(24)} {_NEWEST}",
    "rare type, 24 h": f"{_SELECT} event_type = 'type_50' AND {_asked(24)} {_NEWEST}",
    "rare type, 30 d": f"{_SELECT} event_type = 'type_50' AND {_asked(_MONTH)} {_NEWEST}",
    "20 of a type, 30 d": f"{_SELECT} event_type = 'type_51' AND {_asked(_MONTH)} {_NEWEST}",
    "sum of a type, 30 d": (
        f"SELECT count(), sum(length(actor)) FROM TABLE WHERE event_type = 'type_20' AND {_asked(_MONTH)}"
    ),
    "histogram 24 h": _histogram(24, 15),
    "histogram 30 d": _histogram(_MONTH, 720),
    "one event": "SELECT * FROM TABLE WHERE AT 2026-01-15 11:59:59.784 AND outbox = 'outbox_event'",
}
_WORD, _RARE_WORD = "lower(event_context)", "needle004999999"
SEARCHES: Mapping[str, str] = {
    "request, 30 d": f"{_SELECT} request_id = 'request-4999999' AND {_asked(_MONTH)} {_NEWEST}",
    "actor, 30 d": f"{_SELECT} actor = 'user:999983' AND {_asked(_MONTH)} {_NEWEST}",
    "target, 30 d": f"{_SELECT} target = 'invoice:4999999' AND {_asked(_MONTH)} {_NEWEST}",
    "absent word, 24 h": f"{_SELECT} position({_WORD}, 'absent_word') > 0 AND {_asked(24)} {_NEWEST}",
    "rare word, 30 d": f"{_SELECT} position({_WORD}, '{_RARE_WORD}') > 0 AND {_asked(_MONTH)} {_NEWEST}",
    "rare word by LIKE, 30 d": f"{_SELECT} {_WORD} LIKE '%{_RARE_WORD}%' AND {_asked(_MONTH)} {_NEWEST}",
}


def _statement(sql: str, table: str, bucket: str) -> str:
    """The SQL of one side: its table, and what its sorting key is asked by."""

    def condition(moment: str, how: str) -> str:
        of_key = f" AND {bucket} {how} {bucket.replace('event_date_time', moment)}" if bucket else ""
        return f"event_date_time {how} {moment}{of_key}"

    def last(match: re.Match[str]) -> str:
        return condition(f"(toDateTime64('{END}', 6, 'UTC') - INTERVAL {match[1]} MINUTE)", ">=")

    def at(match: re.Match[str]) -> str:
        return condition(f"toDateTime64('{match[1]}', 6, 'UTC')", "=")

    sql = re.sub(r"IN THE LAST (\d+) MINUTES", last, sql.replace("TABLE", table))
    return re.sub(r"AT ([-\d]+ [:.\d]+)", at, sql)


class _Side:
    """A table with one sorting key and some indexes."""

    def __init__(self, client: Client, table: str, rows: int, kind: Kind) -> None:
        self._client, self._rows, self._bucket = client, rows, kind.bucket
        self.table = table
        for migration in migrations():
            for statement in migration.statements:
                # Without the schema's own search indexes: each side has those that it is about.
                if "ADD INDEX" in statement:
                    continue
                bare = re.sub(r",\s*INDEX event_type_bloom [^\n]*", "", statement)
                before, order_by, after = bare.replace(TABLE, self.table).partition("ORDER BY (")
                client.command(f"{before}{order_by}{kind.key}{after[after.index(')') :]}" if order_by else before)
        for index in kind.indexes:
            client.command(f"ALTER TABLE {self.table} ADD {index}")

    def fill(self) -> float:
        """Seconds until all rows are in."""
        began = time.monotonic()
        for start in range(0, self._rows, _BLOCK):
            self._insert(events(start, min(_BLOCK, self._rows - start), self._rows))
        seconds = time.monotonic() - began
        self._client.command(f"OPTIMIZE TABLE {self.table} FINAL SETTINGS max_threads = 2")
        return seconds

    def write_window(self, number: int) -> float:
        """Milliseconds of one insert of 1,000 rows of the following month."""
        moment = f"toDateTime64('2026-02-01 00:00:00', 6, 'UTC') + INTERVAL {number} SECOND AS event_date_time"
        began = time.monotonic()
        self._insert(f"SELECT {COLUMNS.replace('event_date_time', moment)} FROM next_window")
        return (time.monotonic() - began) * 1000

    def ask(self, sql: str) -> float:
        """Milliseconds."""
        began = time.monotonic()
        self._client.query(
            _statement(sql, self.table, self._bucket), settings={"max_threads": 2, "use_query_condition_cache": 0}
        )
        return (time.monotonic() - began) * 1000

    def size(self) -> float:
        """Megabytes on disk."""
        sql = f"SELECT sum(bytes_on_disk) / 1e6 FROM system.parts WHERE table = '{self.table}' AND active"
        return float(self._client.query(sql).result_rows[0][0])

    def _insert(self, select: str) -> None:
        self._client.command(
            f"INSERT INTO {self.table} ({COLUMNS}) SELECT {COLUMNS} FROM ({select})"
            " SETTINGS max_insert_threads = 1, max_threads = 1, max_partitions_per_insert_block = 0"
        )


def _measure(client: Client, sides: Mapping[str, _Side], statements: Mapping[str, str]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {name: {"": name} for name in sides}
    for name, side in sides.items():
        found[name]["fill, s"] = side.fill()
        found[name]["size, MB"] = side.size()
        sys.stdout.write(f"{name} is filled\n")
        sys.stdout.flush()
    # In turns, so that what else the machine does meets all sides alike.
    for page, sql in statements.items():
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(_QUERIES):
            for name, side in sides.items():
                times[name].append(side.ask(sql))
        for name in sides:
            found[name][page] = statistics.median(times[name][1:])
    for name, times_of_side in _write_windows(client, sides, _WINDOWS).items():
        found[name]["window, ms"] = statistics.median(times_of_side)
    return list(found.values())


def _measure_inserts(client: Client, sides: Mapping[str, _Side]) -> list[dict[str, Any]]:
    """What each side's windows take, and how much longer than those of the first side in the same turn."""
    for side in sides.values():
        side.fill()
    times = _write_windows(client, sides, _INSERTS)
    first = times[next(iter(sides))]
    return [
        {
            "": name,
            "window, ms": f"{statistics.median(own):.1f}",
            "longer by, ms": f"{statistics.median(a - b for a, b in zip(own, first, strict=True)):.2f}",
        }
        for name, own in times.items()
    ]


def _write_windows(client: Client, sides: Mapping[str, _Side], count: int) -> dict[str, list[float]]:
    """Milliseconds of each insert. Another side begins each turn, so that none always comes after the same one."""
    client.command(
        "CREATE OR REPLACE TABLE next_window ENGINE = Memory AS " + events(0, _ROWS_OF_WINDOW, _ROWS_OF_WINDOW)
    )
    times: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(count):
        begin = number % len(names)
        for name in [*names[begin:], *names[:begin]]:
            times[name].append(sides[name].write_window(number))
    return times


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(rows[0])
    lines = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    for row in rows:
        cells = [value if isinstance(value, str) else f"{value:.0f}" for value in row.values()]
        lines += [f"| {' | '.join(cells)} |"]
    return "\n".join(lines)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.sorting_keys")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--indexes", action="store_true", help="indexes on the chosen key, instead of keys")
    parser.add_argument("--inserts", action="store_true", help="only inserts, with the filters of values and without")
    options = parser.parse_args()
    folder = tempfile.mkdtemp()
    try:
        client: Client = clickhouse_connect.get_client(interface="chdb", path=folder)
        kinds = KEYS
        if options.indexes or options.inserts:
            listed = INSERTS if options.inserts else INDEXES
            kinds = {name: replace(KEYS[_CHOSEN], indexes=indexes) for name, indexes in listed.items()}
        sides = {
            name: _Side(client, f"side_{number}", options.rows, kind)
            for number, (name, kind) in enumerate(kinds.items())
        }
        if options.inserts:
            found = _measure_inserts(client, sides)
        else:
            found = _measure(client, sides, SEARCHES if options.indexes else PAGES)
        sys.stdout.write(f"\n{_table(found)}\n")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
