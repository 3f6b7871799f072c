"""Tables of our names that `migrate` did not make, and a table of ours that somebody has changed."""

from __future__ import annotations

import pytest

from tests.conformance.rows import SECOND, row, write
from tests.conformance.subjects import PostgreSQLSubject, SchemaSubject
from towpath.eventlog import schema
from towpath.eventlog.errors import EventStoreError, RowsRefused
from towpath.eventlog.schema import SchemaConflictError
from towpath.eventlog.store import Store

clickhouse = pytest.mark.only("clickhouse", "chdb", reason="the statements are ClickHouse's")
postgresql = pytest.mark.only("postgresql", reason="the statements are PostgreSQL's")

_OURS = """
    event_type String, event_date_time DateTime64(6, 'UTC'), environment String, event_context String,
    metadata_version UInt64, outbox String, outbox_id UInt64, window_id UUID,
    written_at DateTime64(6, 'UTC') DEFAULT now64(6, 'UTC'), actor String, request_id String, ip String,
    INDEX window_id_bloom window_id TYPE bloom_filter(0.001) GRANULARITY 1
"""
_MONTHLY = "PARTITION BY toYYYYMM(event_date_time)"
_SORTED = "ORDER BY (event_date_time, outbox, outbox_id)"
_TOKENS = "non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1"


def _table(engine: str, settings: str = f"SETTINGS {_TOKENS}") -> str:
    return f"CREATE TABLE event_log ({_OURS}) ENGINE = {engine} {settings}"


_OTHER_COLUMNS = "CREATE TABLE event_log (event_type String) ENGINE ="
_OTHER_RECORD = "CREATE TABLE event_log_migration (version UInt64) ENGINE = MergeTree ORDER BY version"
_ONE_YEAR = "TTL toDateTime(event_date_time) + INTERVAL 1 YEAR"
_FOREIGN = {
    "columns of its own": (f"{_OTHER_COLUMNS} MergeTree ORDER BY event_type", "column outbox is missing"),
    "no token log": (_table(f"MergeTree {_MONTHLY} {_SORTED}", ""), "non_replicated_deduplication_window"),
    "days": (_table(f"MergeTree PARTITION BY toDate(event_date_time) {_SORTED}"), "partition key is toDate"),
    "another sorting key": (_table(f"MergeTree {_MONTHLY} ORDER BY event_type"), "sorting key is event_type"),
    "replaced rows": (_table(f"ReplacingMergeTree {_MONTHLY} {_SORTED}"), "engine is ReplacingMergeTree"),
    "a TTL": (_table(f"MergeTree {_MONTHLY} {_SORTED} {_ONE_YEAR}"), "has a TTL"),
    "a log": (f"{_OTHER_COLUMNS} Log", "engine is Log"),
    "a view": ("CREATE VIEW event_log AS SELECT 1 AS event_type", "engine is View"),
    "a record of another tool": (_OTHER_RECORD, "event_log_migration is not Towpath's: column number is missing"),
}


@clickhouse
@pytest.mark.parametrize(("statement", "why"), _FOREIGN.values(), ids=_FOREIGN)
def test_a_foreign_table_is_refused_by_name_and_left_as_it_is(subject: SchemaSubject, statement: str, why: str) -> None:
    subject.execute(statement)
    before = subject.tables()

    with pytest.raises(SchemaConflictError, match=why) as refused:
        schema.migrate(subject.store)

    assert "run `python manage.py eventlog migrate`. Nothing was changed." in str(refused.value)
    assert "Rename it" in str(refused.value)
    assert subject.tables() == before
    (problem,) = subject.store.problems()
    assert why in problem
    assert "Rename it" in problem
    assert {one.state for one in schema.states(subject.store)} == {"pending"}


_FOREIGN_ON_POSTGRESQL = {
    "columns of its own": ("CREATE TABLE event_log (event_type text)", "is a table without partitions"),
    "another partition key": (
        "CREATE TABLE event_log (event_type text, environment text) PARTITION BY LIST (environment)",
        "partition key is LIST",
    ),
    "partitions of other columns": (
        "CREATE TABLE event_log (event_date_time timestamptz) PARTITION BY RANGE (event_date_time)",
        "column outbox is missing",
    ),
    "a view": ("CREATE VIEW event_log AS SELECT 1 AS event_type", "is a view"),
    "tokens of another tool": ("CREATE TABLE event_log_token (token text)", "column month is missing"),
    "tokens without a key": (
        "CREATE TABLE event_log_token (token text, month date, written_at timestamptz)",
        r"primary key is not \(token, month\)",
    ),
    "a record of another tool": ("CREATE TABLE event_log_migration (version int)", "column number is missing"),
}


@postgresql
@pytest.mark.parametrize(("statement", "why"), _FOREIGN_ON_POSTGRESQL.values(), ids=_FOREIGN_ON_POSTGRESQL)
def test_a_foreign_table_is_refused_by_name_and_left_as_it_is_on_postgresql(
    store: Store, subject: PostgreSQLSubject, statement: str, why: str
) -> None:
    assert list(store.problems()) == []
    subject.clear()
    subject.execute(statement)
    before = subject.tables()

    with pytest.raises(SchemaConflictError, match=why) as refused:
        schema.migrate(store)

    assert "Rename it" in str(refused.value)
    assert subject.tables() == before
    assert "Rename it" in next(iter(store.problems()))


# --- What was made by hand, or lost ----------------------------------------------------------------------------------


@clickhouse
def test_a_table_that_is_ours_but_not_recorded_is_recorded(subject: SchemaSubject) -> None:
    """As deploy/clickhouse/event_log.sql makes it, with a longer token log and a column to come."""
    columns = _OURS.replace(" ip String,", "")
    tokens = _TOKENS.replace("10000", "20000")
    subject.execute(f"CREATE TABLE event_log ({columns}) ENGINE = MergeTree {_MONTHLY} {_SORTED} SETTINGS {tokens}")
    assert [problem for problem in subject.store.problems() if "eventlog migrate" not in problem] == []

    schema.migrate(subject.store)

    assert list(subject.store.problems()) == []
    assert {one.state for one in schema.states(subject.store)} == {"applied"}


@pytest.mark.only("clickhouse", "chdb", "postgresql", reason="memory has no schema")
def test_a_table_that_was_dropped_is_made_again(store: Store, subject: SchemaSubject) -> None:
    subject.execute("DROP TABLE event_log")
    (problem,) = store.problems()
    assert "eventlog migrate" in problem

    schema.migrate(store)

    assert list(store.problems()) == []
    write(store, row(1))
    assert subject.rows() == [row(1)]


# --- A table of ours that somebody has changed -----------------------------------------------------------------------


@clickhouse
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("ALTER TABLE event_log MODIFY TTL toDateTime(event_date_time) + INTERVAL 1 YEAR", "has a TTL"),
        ("ALTER TABLE event_log ADD CONSTRAINT positive CHECK outbox_id > 0", "constraints (positive)"),
        ("ALTER TABLE event_log DROP INDEX window_id_bloom", "window_id_bloom is missing"),
        ("ALTER TABLE event_log MODIFY COLUMN written_at DEFAULT toDateTime64(0, 6, 'UTC')", "written_at has DEFAULT"),
        ("ALTER TABLE event_log MODIFY COLUMN actor DEFAULT 'nobody'", "actor has DEFAULT"),
        ("ALTER TABLE event_log MODIFY SETTING async_insert = 1", "async_insert is on"),
        ("ALTER TABLE event_log MODIFY SETTING non_replicated_deduplication_window = 5", "deduplication_window is not"),
        ("ALTER TABLE event_log DROP COLUMN ip", "column ip is missing"),
        ("ALTER TABLE event_log DROP COLUMN event_context", "column event_context is missing"),
    ],
)
def test_a_change_is_named_and_its_remedy_works(store: Store, subject: SchemaSubject, change: str, why: str) -> None:
    subject.execute(change)

    (problem,) = store.problems()
    assert why in problem
    remedy = problem.split("run ", 1)[1].split(" (of a column", 1)[0]
    assert "eventlog migrate" not in remedy
    subject.execute(remedy)

    assert list(store.problems()) == []
    write(store, row(1))
    assert subject.rows() == [row(1)]


@clickhouse
@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE event_log ADD COLUMN note String DEFAULT 'TTL'",
        "ALTER TABLE event_log ADD COLUMN remark String COMMENT 'a TTL is not set; CONSTRAINT none'",
        "ALTER TABLE event_log ADD INDEX actors actor TYPE set(100)",
        "ALTER TABLE event_log MODIFY SETTING non_replicated_deduplication_window = 100000",
        "ALTER TABLE event_log MODIFY COLUMN event_context CODEC(ZSTD(9))",
    ],
)
def test_a_change_on_which_no_promise_rests_is_no_problem(store: Store, subject: SchemaSubject, change: str) -> None:
    subject.execute(change)

    assert list(store.problems()) == []


@postgresql
@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("ALTER TABLE event_log ADD CONSTRAINT positive CHECK (outbox_id > 0)", "constraint positive"),
        ("ALTER TABLE event_log ALTER written_at DROP DEFAULT", "written_at has the default None"),
        ("ALTER TABLE event_log ADD COLUMN note text NOT NULL", "does not allow NULL"),
        ("ALTER TABLE event_log ALTER window_id DROP NOT NULL", "window_id allows NULL"),
        ("ALTER TABLE event_log ALTER own_boolean DROP NOT NULL", "own_boolean allows NULL"),
        ("ALTER TABLE event_log ALTER written_at DROP NOT NULL", "written_at allows NULL"),
        ("DROP INDEX event_log_by_window", "no index on window_id"),
        ("DROP INDEX event_log_by_time", "no index on event_date_time"),
        (
            "CREATE UNLOGGED TABLE event_log_later PARTITION OF event_log FOR VALUES FROM ('2030-01-01') TO (MAXVALUE)",
            "partition event_log_later is not a logged table",
        ),
    ],
)
def test_a_change_is_named_and_its_remedy_works_on_postgresql(
    store: Store, subject: SchemaSubject, change: str, why: str
) -> None:
    subject.execute(change)

    (problem,) = store.problems()
    assert why in problem
    subject.execute(problem.split("run ", 1)[1])

    assert list(store.problems()) == []
    write(store, row(1))
    assert subject.rows() == [row(1)]


@postgresql
def test_a_foreign_table_with_the_name_of_a_month_is_named(store: Store, subject: SchemaSubject) -> None:
    subject.execute("CREATE TABLE event_log_2024_02 (n int)")
    try:
        with pytest.raises(EventStoreError, match="event_log_2024_02 is not a partition of event_log: rename it"):
            write(store, row(1))
    finally:
        subject.execute("DROP TABLE event_log_2024_02")

    write(store, row(1))
    assert subject.rows() == [row(1)]


# --- What is around the table ----------------------------------------------------------------------------------------


@postgresql
def test_a_trigger_that_leaves_rows_out_stops_the_write_and_is_named(store: Store, subject: SchemaSubject) -> None:
    subject.execute(
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER eats BEFORE INSERT ON event_log FOR EACH ROW EXECUTE FUNCTION nothing()"
    )
    try:
        with pytest.raises(EventStoreError, match=r"a trigger .* leaves out rows"):
            write(store, row(1))
        assert subject.rows() == []
        (finding,) = [one for one in store.findings() if not one.is_ok]
        assert "eats on event_log" in finding.detail
        subject.execute("DROP TRIGGER eats ON event_log")
        write(store, row(1))
        assert subject.rows() == [row(1)]
        assert [one for one in store.findings() if not one.is_ok] == []
    finally:
        subject.execute("DROP FUNCTION nothing CASCADE")


@clickhouse
@pytest.mark.parametrize("token_log", ["", "SETTINGS non_replicated_deduplication_window = 100"], ids=["none", "own"])
def test_a_view_is_listed_with_what_its_target_needs(store: Store, subject: SchemaSubject, token_log: str) -> None:
    """The OBT's token drops a late insert, which counts twice in a target that keeps no tokens of its own."""
    targets = {"sums": "SummingMergeTree", "lines": "MergeTree"}
    selects = {
        "sums": "SELECT event_type, count() AS n FROM event_log GROUP BY event_type",
        "lines": "SELECT event_type, 1 AS n FROM event_log",
    }
    try:
        for name, engine in targets.items():
            columns = "(event_type String, n UInt64)"
            subject.execute(f"CREATE TABLE {name} {columns} ENGINE = {engine} ORDER BY event_type {token_log}")
            subject.execute(f"CREATE MATERIALIZED VIEW v_{name} TO {name} AS {selects[name]}")
        views = {one.detail.split()[0].rpartition(".")[2]: one for one in store.findings() if "view" in one.check}
        assert set(views) == {"v_sums", "v_lines"}
        assert {one.is_ok for one in views.values()} == {bool(token_log)}
        if not token_log:
            for one in views.values():
                subject.execute(one.detail.split("Run ", 1)[1])
            assert [one for one in store.findings() if not one.is_ok] == []

        for _ in range(2):
            write(store, *(row(number) for number in range(100)))

        assert len(subject.rows()) == 100
        assert {name: subject.sum(name, "n") for name in targets} == {"sums": 100, "lines": 100}
    finally:
        for name in targets:
            subject.execute(f"DROP TABLE IF EXISTS v_{name} SYNC")
            subject.execute(f"DROP TABLE IF EXISTS {name} SYNC")


@clickhouse
def test_a_view_on_a_view_s_target_is_listed_as_well(store: Store, subject: SchemaSubject) -> None:
    # Given a target with a token log, and on it a view whose own target has none
    subject.execute(
        "CREATE TABLE lines (event_type String, n UInt64) ENGINE = MergeTree ORDER BY event_type"
        " SETTINGS non_replicated_deduplication_window = 100"
    )
    subject.execute("CREATE TABLE sums (event_type String, n UInt64) ENGINE = SummingMergeTree ORDER BY event_type")
    subject.execute("CREATE MATERIALIZED VIEW v_lines TO lines AS SELECT event_type, 1 AS n FROM event_log")
    subject.execute("CREATE MATERIALIZED VIEW v_sums TO sums AS SELECT event_type, n FROM lines")
    try:
        (finding,) = (one for one in store.findings() if not one.is_ok)
        assert "v_sums" in finding.detail
        subject.execute(finding.detail.split("Run ", 1)[1])
        assert [one for one in store.findings() if not one.is_ok] == []

        for _ in range(2):
            write(store, *(row(number) for number in range(100)))

        assert (subject.sum("lines", "n"), subject.sum("sums", "n")) == (100, 100)
    finally:
        for name in ("lines", "sums"):
            subject.execute(f"DROP TABLE IF EXISTS v_{name} SYNC")
            subject.execute(f"DROP TABLE IF EXISTS {name} SYNC")


@clickhouse
@pytest.mark.parametrize(
    "expression",
    [
        "toUInt32(event_context)",
        "toDate(event_context)",
        "toUUID(event_context)",
        "toIPv4(event_context)",
        "toFloat64(event_context)",
        "CAST(event_context AS Enum8('a' = 1))",
        "base64Decode(event_context)",
        "event_context::JSON",
        "toBool(event_context)",
        "match('a', concat(event_context, '('))",
    ],
)
def test_an_error_of_a_view_names_the_view_and_quotes_no_payload(
    store: Store, subject: SchemaSubject, expression: str
) -> None:
    subject.execute("CREATE TABLE seen (n String) ENGINE = MergeTree ORDER BY n")
    subject.execute(f"CREATE MATERIALIZED VIEW seeing TO seen AS SELECT toString({expression}) AS n FROM event_log")
    try:
        with pytest.raises(RowsRefused, match=r"^[A-Z_0-9]{5,} in the view \w+\.seeing \(code") as raised:
            write(store, row(1, context=b"hunter2@"))
    finally:
        subject.execute("DROP TABLE seeing SYNC")
        subject.execute("DROP TABLE seen SYNC")

    assert "hunter2" not in str(raised.value)


@clickhouse
def test_an_error_of_a_constraint_names_it_and_quotes_no_payload(store: Store, subject: SchemaSubject) -> None:
    subject.execute("ALTER TABLE event_log ADD CONSTRAINT short CHECK length(event_context) < 3")

    with pytest.raises(RowsRefused, match=r"^Constraint `short` for table \S+ is violated \(code") as raised:
        write(store, row(1, context=b"hunter2@"))

    assert "hunter2" not in str(raised.value)


@clickhouse
@pytest.mark.parametrize(
    ("name", "addition"),
    [
        ("column mine", "ADD COLUMN mine UInt32 MATERIALIZED toUInt32(event_context)"),
        ("index mine", "ADD INDEX mine toUInt32(event_context) TYPE minmax"),
        ("projection mine", "ADD PROJECTION mine (SELECT toUInt32(event_context) AS n ORDER BY n)"),
    ],
)
def test_what_each_insert_computes_besides_is_named(
    store: Store, subject: SchemaSubject, name: str, addition: str
) -> None:
    subject.execute(f"ALTER TABLE event_log {addition}")

    (finding,) = (one for one in store.findings() if one.check == "event store extras")
    assert finding.detail.startswith(f"{name}: ")
    with pytest.raises(RowsRefused):
        write(store, row(1))
    write(store, row(2, context=b"7"), token=SECOND)
    assert subject.rows() == [row(2, context=b"7")]
