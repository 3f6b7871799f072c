"""A model of dispatch: each committed row gets into exactly one batch, and what is new waits for no backlog.

On the real PostgreSQL: writers whose transactions begin, write, commit and roll back in any order; two dispatchers,
with limits so small that anything is a backlog and room is always short; deliveries; restores into another cluster,
after which the cursors are rewound; rows that bring a transaction id of their own, and the command that finds them. The
oracle knows what was committed, and reads what is in batches.

The cursors' own arithmetic is in tests/unit/test_snapshot.py; what happens to the batches, in test_pipeline_model.py.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, TypeAlias

import psycopg2
import pytest
from django.conf import settings as django_settings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.dispatching import Sent
from towpath.flow import stranded
from towpath.flow.dispatch import Dispatcher, DispatchLimits
from towpath.outbox.models import all_outboxes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg2.extensions import connection as PostgresSession  # noqa: N812 - a class

    from tests.model.ledger import Ledger

#: The same examples in each run, unless MODEL_EXAMPLES is given.
_FIRST_EXAMPLES, _EXAMPLES = 25, int(os.environ.get("MODEL_EXAMPLES", "200"))
_WRITERS = 3
_MOST_RUNS = 2
#: Rows in flight: of backlogs, and those that are kept for what is new; of each of the two outboxes, half of these.
_BACKLOG_ROWS, _NEW_ROWS = 12, 4
_OUTBOX = "outbox_event"
_MOST_LOOKS = 500

_INSERT = (
    "INSERT INTO outbox_event (event_type, event_date_time, event_context, metadata_version)"
    " SELECT 'tested', now(), '{}', 1 FROM generate_series(1, %s) RETURNING id"
)
#: As a dump brings it: of a transaction that every cursor has passed.
_STRAND = (
    "INSERT INTO outbox_event (xid, event_type, event_date_time, event_context, metadata_version)"
    " SELECT '3', 'tested', now(), '{}', 1 FROM generate_series(1, %s) RETURNING id"
)

Step: TypeAlias = "tuple[str, int]"
_STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "write",
                "write",
                "giant",
                "giant",
                "commit",
                "commit",
                "roll back",
                "look",
                "look",
                "look",
                "deliver the newest",
                "deliver the oldest",
                "is new",
                "is new",
                "restore",
                "strand",
                "bring back",
            ]
        ),
        st.integers(0, 7),
    ),
    min_size=10,
    max_size=40,
)


class Dispatching:
    """The writers, the dispatchers, and the oracle."""

    def __init__(self, ledger: Ledger, sessions: list[PostgresSession]) -> None:
        self.ledger = ledger
        self.sessions = sessions
        self.sent = Sent()
        limits = DispatchLimits(batch_ids=2, batch_bytes=1000, in_flight_rows=_BACKLOG_ROWS + _NEW_ROWS)
        self.dispatchers = [Dispatcher(all_outboxes(), limits=limits, enqueue=self.sent) for _ in range(2)]
        self.dispatchers[0].create_cursors()
        ledger.begin_cursors_here()
        self.committed: list[int] = []
        #: Those that brought a transaction id of their own, and are not known to be waiting for a cursor.
        self.stranded: set[int] = set()
        #: Rows of each writer's open transaction.
        self.open: list[list[int]] = [[] for _ in sessions]

    def do(self, action: str, number: int) -> None:
        writer = number % _WRITERS
        match action:
            case "write":
                self._write(writer, 1 + number)
            case "giant":
                self.committed += [id_ for (id_,) in self.ledger.rows(_INSERT, 10 + 3 * number)]
            case "commit" | "roll back":
                self._end(writer, is_committed=action == "commit")
            case "look":
                self._look(number)
            case "deliver the newest" | "deliver the oldest":
                self._deliver(1 + number, first="ASC" if action == "deliver the oldest" else "DESC")
            case "is new":
                self._check_new_comes_first(number)
            case "restore":
                # The transaction ids of the cursors mean nothing here. Rows keep those that they had.
                self.ledger.execute("UPDATE pipeline_cursor SET cluster = 'another'")
            case "strand":
                self.stranded |= {id_ for (id_,) in self.ledger.rows(_STRAND, 1 + number % 3)}
            case "bring back":
                self._bring_back()

    def check(self) -> None:
        sent = self.sent.times(_OUTBOX)
        assert not [id_ for id_, times in sent.items() if times > 1], "in two batches"
        assert not sent.keys() - set(self.committed) - self.stranded, "dispatched, but never committed"
        in_flight = dict(self.ledger.rows("SELECT is_backlog, sum(rows) FROM pipeline_batch GROUP BY is_backlog"))
        assert in_flight.get(True, 0) <= _BACKLOG_ROWS, "more of a backlog than there is room for"
        assert in_flight.get(False, 0) <= _NEW_ROWS, "more new rows than there is room for"

    def finish(self) -> None:
        """End all transactions, deliver and look until nothing is left: each row has been dispatched once."""
        for writer in range(_WRITERS):
            self._end(writer, is_committed=True)
        self._drain()
        assert not set(self.committed) - self.sent.times(_OUTBOX).keys(), "lost"
        self._bring_back()
        self._drain()
        assert self.sent.times(_OUTBOX) == Counter([*self.committed, *self.stranded])

    def _drain(self) -> None:
        idle = 0
        for number in range(_MOST_LOOKS):
            idle = 0 if self._look(number) else idle + 1
            self.check()
            self._deliver(_BACKLOG_ROWS)
            if idle == 2:
                return
        raise AssertionError("does not drain")

    def _bring_back(self) -> None:
        waiting = self.stranded - self.sent.times(_OUTBOX).keys()
        assert stranded.bring_back().get(_OUTBOX, 0) <= len(waiting), "brings back what was not stranded"

    def _write(self, writer: int, rows: int) -> None:
        with self.sessions[writer].cursor() as cursor:
            cursor.execute(_INSERT, [rows])
            self.open[writer] += [id_ for (id_,) in cursor.fetchall()]

    def _end(self, writer: int, *, is_committed: bool) -> None:
        if is_committed:
            self.sessions[writer].commit()
            self.committed += self.open[writer]
        else:
            self.sessions[writer].rollback()
        self.open[writer] = []

    def _look(self, number: int) -> bool:
        return self.dispatchers[number % 2].look()

    def _deliver(self, batches: int, *, first: str = "ASC") -> None:
        self.ledger.execute(
            "WITH acked AS (DELETE FROM pipeline_batch WHERE id IN"
            f" (SELECT id FROM pipeline_batch ORDER BY id {first} LIMIT %s) RETURNING ids)"
            " DELETE FROM outbox_event WHERE id IN (SELECT unnest(ids) FROM acked)",
            batches,
        )

    def _check_new_comes_first(self, number: int) -> None:
        """Whatever is being paged, an event that is committed after a look is dispatched by the next one."""
        self._look(number)
        ((runs,),) = self.ledger.rows("SELECT jsonb_array_length(runs) FROM pipeline_cursor WHERE outbox = %s", _OUTBOX)
        ((new,),) = self.ledger.rows("SELECT coalesce(sum(rows), 0) FROM pipeline_batch WHERE NOT is_backlog")
        if runs == _MOST_RUNS or new >= _NEW_ROWS / 2:
            return  # what is new may have to wait
        ids = [id_ for (id_,) in self.ledger.rows(_INSERT, 1)]
        self.committed += ids
        self._look(number + 1)
        assert not set(ids) - self.sent.times(_OUTBOX).keys(), "what is new waits for a backlog"


@pytest.fixture
def sessions() -> Iterator[list[PostgresSession]]:
    sessions = [psycopg2.connect(django_settings.DATABASE_URL) for _ in range(_WRITERS)]
    yield sessions
    for session in sessions:
        session.close()


@pytest.mark.timeout(0 if "MODEL_EXAMPLES" in os.environ else 600)
@pytest.mark.parametrize("examples", [_FIRST_EXAMPLES, pytest.param(_EXAMPLES, marks=pytest.mark.slow)])
def test_each_committed_row_is_dispatched_once_and_what_is_new_comes_first(
    ledger: Ledger, sessions: list[PostgresSession], monkeypatch: pytest.MonkeyPatch, examples: int
) -> None:
    monkeypatch.setattr("towpath.flow.dispatch._PAGE_ROWS", 4)
    monkeypatch.setattr("towpath.flow.dispatch._KEPT_FOR_NEW", (_BACKLOG_ROWS + _NEW_ROWS) // _NEW_ROWS)
    monkeypatch.setattr("towpath.ledger.take.MOST_RUNS", _MOST_RUNS)

    @settings(
        max_examples=examples,
        derandomize="MODEL_EXAMPLES" not in os.environ,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(steps=_STEPS)
    def example(steps: list[Step]) -> None:
        for session in sessions:
            session.rollback()
        ledger.clear()
        dispatching = Dispatching(ledger, sessions)
        for action, number in steps:
            dispatching.do(action, number)
            dispatching.check()
        dispatching.finish()

    example()
