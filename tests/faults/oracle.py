"""The oracle: what was committed, written down by the committing transactions themselves, against what is stored.

It shares no code with the product: PostgreSQL and the event store are asked directly, with SQL of its own.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg2

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from tests.faults.stores import StoreOfRun

Identity = tuple[str, int]

_CREATE = """
CREATE TABLE IF NOT EXISTS oracle_event (
    n bigserial PRIMARY KEY, run text NOT NULL, key text NOT NULL, outbox text NOT NULL, outbox_id bigint NOT NULL,
    md5 text NOT NULL
)"""
_OUTBOXES = ("outbox_event", "outbox_user")
#: A sample looks at the youngest so many: what is between dispatch and ack is among them.
_SAMPLED_EVENTS = 20_000
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """The books compared. Every list but `dead` must be empty once everything is drained."""

    committed: int
    stored: int
    dead: int
    #: Of the events whose COMMIT got no answer.
    maybe_committed: int
    lost: list[Identity] = field(default_factory=list)
    doubled: list[Identity] = field(default_factory=list)
    doubled_keys: list[str] = field(default_factory=list)
    phantom: list[Identity] = field(default_factory=list)
    altered: list[Identity] = field(default_factory=list)
    #: Keys whose COMMIT was confirmed to the writer, but that PostgreSQL does not have.
    forgotten: list[str] = field(default_factory=list)

    @property
    def faults(self) -> dict[str, list[Any]]:
        """What must not be, by kind, with examples."""
        kinds = ("lost", "doubled", "doubled_keys", "phantom", "altered", "forgotten")
        return {kind: getattr(self, kind)[:_SHOWN] for kind in kinds if getattr(self, kind)}


@dataclass(frozen=True, slots=True)
class _Stored:
    copies: Counter[Identity]
    keys: Counter[str]
    #: Of every copy.
    md5: set[tuple[Identity, str]]


class Oracle:
    """Reads both ends. `run` limits what it looks at to the events of one run."""

    def __init__(self, database_url: str, store: StoreOfRun) -> None:
        self._database_url = database_url
        self.store = store

    def create(self) -> None:
        self.ask_postgres(_CREATE)

    def undelivered(self) -> dict[str, int]:
        """What is still on its way, by table; empty when all is drained."""
        left = {
            "batches": self._count("SELECT count(*) FROM pipeline_batch"),
            "windows": self._count("SELECT count(*) FROM pipeline_window WHERE acked_at IS NULL"),
        }
        for outbox in _OUTBOXES:
            left[outbox] = self._count(
                f"SELECT count(*) FROM {outbox} AS o WHERE NOT EXISTS (SELECT FROM pipeline_deadletter AS d"
                f" WHERE d.outbox = '{outbox}' AND d.row_id = o.id)"
            )
        return {name: count for name, count in left.items() if count}

    def committed(self, run: str) -> int:
        return self._count("SELECT count(*) FROM oracle_event WHERE run = %s", [run])

    def stored(self, run: str) -> int:
        """Distinct events of the run that are stored."""
        return int(self.store.ask(f"SELECT count(DISTINCT (outbox, outbox_id)) {self._of(run)}")[0][0])

    def copies_by_key(self, run: str) -> Counter[str]:
        """How often each key of the run is stored."""
        rows = self.store.ask(f"SELECT {self.store.key}, count(*) {self._of(run)} GROUP BY 1")
        return Counter({key: int(count) for key, count in rows})

    def verdict(self, run: str, *, acknowledged: Collection[str] = (), maybe: Collection[str] = ()) -> Verdict:
        """Compare, by identity and by key and md5 of the context. Only final when everything is drained."""
        events = self.ask_postgres("SELECT key, outbox, outbox_id, md5 FROM oracle_event WHERE run = %s", [run])
        dead = set(self.ask_postgres("SELECT outbox, row_id FROM pipeline_deadletter"))
        stored = self._stored(run)
        committed = {(outbox, outbox_id): md5 for _, outbox, outbox_id, md5 in events}
        keys = {key for key, *_ in events}
        return Verdict(
            committed=len(committed),
            stored=len(stored.copies),
            dead=len(committed.keys() & dead),
            maybe_committed=len(keys & set(maybe)),
            lost=sorted(committed.keys() - stored.copies.keys() - dead),
            doubled=sorted(identity for identity, copies in stored.copies.items() if copies > 1),
            doubled_keys=sorted(key for key, copies in stored.keys.items() if copies > 1),
            phantom=sorted(stored.copies.keys() - committed.keys()),
            altered=sorted({identity for identity, md5 in stored.md5 if committed.get(identity, md5) != md5}),
            forgotten=sorted(set(acknowledged) - keys),
        )

    def sample(self, run: str) -> list[str]:
        """I5 and I6 at this moment, as sentences about what breaks them. Raises OSError or psycopg2.Error.

        PostgreSQL is read first, in one snapshot. What it no longer holds then was deleted before, so it must have
        been stored before, and the store, which is read afterwards, never deletes: no timing makes a false alarm.
        """
        broken = [
            f"I6: {outbox} {outbox_id} is in {count} open batches"
            for outbox, outbox_id, count in self.ask_postgres(
                "SELECT outbox, held, count(*) FROM pipeline_batch, unnest(ids) AS held"
                " GROUP BY 1, 2 HAVING count(*) > 1"
            )
        ]
        deleted = self.ask_postgres(
            "SELECT e.outbox, e.outbox_id FROM"
            " (SELECT * FROM oracle_event WHERE run = %s ORDER BY n DESC LIMIT %s) AS e"
            " WHERE NOT EXISTS (SELECT FROM outbox_event AS o WHERE e.outbox = 'outbox_event' AND o.id = e.outbox_id)"
            " AND NOT EXISTS (SELECT FROM outbox_user AS o WHERE e.outbox = 'outbox_user' AND o.id = e.outbox_id)",
            [run, _SAMPLED_EVENTS],
        )
        if deleted:
            lowest = min(outbox_id for _, outbox_id in deleted)
            found = self.store.ask(f"SELECT outbox, outbox_id FROM event_log WHERE outbox_id >= {lowest}")
            missing = set(deleted) - {(outbox, int(outbox_id)) for outbox, outbox_id in found}
            broken += [f"I5: {outbox} {outbox_id} is deleted and not stored" for outbox, outbox_id in sorted(missing)]
        return broken

    def _stored(self, run: str) -> _Stored:
        rows = self.store.ask(f"SELECT outbox, outbox_id, {self.store.key}, {self.store.md5} {self._of(run)}")
        return _Stored(
            copies=Counter((outbox, int(outbox_id)) for outbox, outbox_id, _, _ in rows),
            keys=Counter(key for _, _, key, _ in rows),
            md5={((outbox, int(outbox_id)), md5) for outbox, outbox_id, _, md5 in rows},
        )

    def _of(self, run: str) -> str:
        """Rows whose key is one of the run's."""
        return f"FROM event_log WHERE {self.store.key} LIKE '{run}%'"

    def _count(self, sql: str, parameters: Sequence[object] = ()) -> int:
        return int(self.ask_postgres(sql, parameters)[0][0])

    def ask_postgres(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(self._database_url, connect_timeout=5)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(sql, list(parameters))
                if cursor.description:
                    return cursor.fetchall()
                # Rows without columns (SELECT FROM ...) are rows, too, though psycopg2 has nothing to fetch of them.
                return [()] * cursor.rowcount if str(cursor.statusmessage).startswith("SELECT") else []
