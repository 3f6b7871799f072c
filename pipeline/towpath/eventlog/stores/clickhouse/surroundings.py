"""What surrounds the OBT on ClickHouse: tables with our names, the user's profile, row policies, and dependents.

This module only reads. It reports what the user may not see as unseen, never as absent.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from towpath.eventlog.errors import StoreUnavailable
from towpath.eventlog.store import Finding
from towpath.eventlog.stores.clickhouse.client import NotGranted
from towpath.eventlog.stores.clickhouse.differences import (
    MIGRATIONS,
    Difference,
    Table,
    describe,
    differences,
    differences_of_record,
)
from towpath.eventlog.stores.clickhouse.schema import INDEXES, TABLE, column_types
from towpath.eventlog.stores.clickhouse.settings import (
    PINNED_ON_DECISIONS,
    PINNED_ON_INSERTS,
    fixed_otherwise,
    not_known_to_be_harmless,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from towpath.eventlog.columns import Column
    from towpath.eventlog.store import Change
    from towpath.eventlog.stores.clickhouse.client import ClickHouseClient
    from towpath.eventlog.stores.clickhouse.settings import Setting

_ELSEWHERE = "Rename it, or name a separate database in EVENT_STORE_URL, then run `python manage.py eventlog migrate`"

#: Attempts before rows are reported as hidden: a month may be dropped between the two counts.
_LOOKS = 3


def applied_migrations(client: ClickHouseClient) -> Mapping[int, tuple[str, str]]:
    """Return (name, checksum) of each applied migration, by number. It is empty if the table is gone, so that `migrate`
    creates it again."""
    record = describe(client, MIGRATIONS)
    if record is None or differences_of_record(record) or not _exists(client, TABLE):
        return {}
    rows = client.query(f"SELECT number, name, checksum FROM {MIGRATIONS} ORDER BY applied_at")
    return {int(number): (str(name), str(checksum)) for number, name, checksum in rows}


def foreign_tables(client: ClickHouseClient, own_columns: tuple[Column, ...]) -> list[str]:
    """Return a sentence for each table with one of our names that `migrate` must not touch."""
    found = []
    record = describe(client, MIGRATIONS)
    if record is not None and (reasons := differences_of_record(record)):
        found.append(f"{_named(record)} is not Towpath's: {'; '.join(reasons)}. {_ELSEWHERE}")
    table = describe(client, TABLE)
    if table is not None and not applied_migrations(client):
        found_different = differences(table, own_columns, recorded=frozenset())
        reasons = [one.what for one in found_different if not one.is_pending]
        if reasons:
            found.append(f"{_named(table)} was not made by Towpath: {'; '.join(reasons)}. {_ELSEWHERE}")
    return found


def table_problems(client: ClickHouseClient, own_columns: tuple[Column, ...]) -> list[str]:
    """Return what breaks a guarantee in the table, and how to fix it."""
    table = describe(client, TABLE)
    if foreign := foreign_tables(client, own_columns):
        return foreign
    if table is None:
        return [f"table {TABLE} does not exist: run `python manage.py eventlog migrate`"]
    recorded = frozenset(name for name, _ in applied_migrations(client).values())
    return [_advice(one) for one in differences(table, own_columns, recorded=recorded)]


def _advice(one: Difference) -> str:
    return f"{one.what}: {'run `python manage.py eventlog migrate`' if one.is_pending else one.remedy}"


def findings(client: ClickHouseClient, own_columns: tuple[Column, ...]) -> list[Finding]:
    """Check the profile, the quorum, the row policies, and what depends on the table."""
    table = describe(client, TABLE)
    quorum = quorum_findings(table.engine if table else "", client.settings())
    return [_profile(client), *quorum, _visibility(client), *_dependents(client, own_columns)]


def reading_problems(client: ClickHouseClient) -> list[str]:
    """Return what keeps our user from reading every column of every row, and how to fix it."""
    try:
        # Every column that the table has, including those that no migration of ours has added.
        client.query(f"SELECT * FROM {TABLE} LIMIT 0", wanted=PINNED_ON_DECISIONS)
    except NotGranted:
        table = f"{client.database}.{TABLE}"
        return [
            f"user {client.user} may not read every column of {table}: run GRANT SELECT ON {table} TO {client.user}"
        ]
    hidden = hidden_rows(client)
    return [hidden] if hidden else []


def keeping_problems(client: ClickHouseClient, change: Change) -> list[str]:
    """Return what keeps our user from making a change, and how to fix it."""
    right = {"drop": "ALTER DELETE", "rewrite": "ALTER UPDATE"}[change]
    try:
        ((is_granted,),) = client.query(f"CHECK GRANT {right} ON {TABLE}")
    except StoreUnavailable:  # an older server does not know the question
        return []
    table = f"{client.database}.{TABLE}"
    remedy = f"use the URL of towpath_keeper (docs/deployment.md), or run GRANT {right} ON {table} TO {client.user}"
    return [] if is_granted else [f"user {client.user} lacks {right} on {table}: {remedy}"]


def hidden_rows(client: ClickHouseClient) -> str:
    """Return what is wrong if our user does not see every row of the table. It is empty if the user sees every row, or
    may not see the parts.

    The count of rows in the list of parts is the measure: no row policy and no filter changes it.
    """
    try:
        shown, held = _shown_and_held(client)
    except NotGranted:
        return ""
    if shown >= held:
        return ""
    return (
        f"the event store's user {client.user} sees {shown} of {held} rows of {TABLE}: a row policy hides the others,"
        " or a replica lags behind. Exempt this user: ALTER ROW POLICY ... TO ALL EXCEPT ..."
    )


def _shown_and_held(client: ClickHouseClient) -> tuple[int, int]:
    shown = held = 0
    for _ in range(_LOOKS):
        ((held, parts_with_deleted_rows),) = client.query(
            """
            SELECT sum(rows), countIf(has_lightweight_delete) FROM system.parts
            WHERE active AND database = currentDatabase() AND table = %(table)s
            """,
            table=TABLE,
        )
        # Until they are merged, parts also count the rows that DELETE FROM has removed.
        wanted = {**PINNED_ON_DECISIONS, "apply_deleted_mask": "0" if parts_with_deleted_rows else "1"}
        ((shown,),) = client.query(f"SELECT count() FROM {TABLE}", wanted=wanted)
        if shown >= held:
            break
    return shown, held


def _profile(client: ClickHouseClient) -> Finding:
    settings = client.settings()
    fixed = fixed_otherwise({**PINNED_ON_INSERTS, **PINNED_ON_DECISIONS}, settings)
    unknown = not_known_to_be_harmless(settings.values())
    if not fixed and not unknown:
        return Finding("event store profile", True, "changes nothing that Towpath's statements depend on")
    said = []
    if fixed:
        said.append(f"its constraints do not allow what Towpath's statements need: {'; '.join(fixed)}. Remove them")
    if unknown:
        said.append(f"it sets {', '.join(unknown)}, which is not known to be harmless. Remove it from the profile")
    return Finding("event store profile", False, "; ".join(said))


def quorum_findings(engine: str, settings: Mapping[str, Setting]) -> Iterator[Finding]:
    """Check, for a replicated table, that a read-back sees what was acknowledged a moment ago."""
    if engine == "ReplicatedMergeTree":
        quorum = settings["insert_quorum"].value
        advice = ": a replica that lags behind would report stored rows as missing. Set it to 'auto' in the profile"
        yield Finding("event store quorum", quorum != "0", quorum + advice * (quorum == "0"))


def _visibility(client: ClickHouseClient) -> Finding:
    if not _exists(client, TABLE):
        return Finding("event store row policies", True, f"no table {TABLE}")
    hidden = hidden_rows(client)
    if hidden:
        return Finding("event store row policies", False, hidden)
    try:
        policies = client.query(
            """
            SELECT name FROM system.row_policies
            WHERE database IN (currentDatabase(), '') AND table IN (%(table)s, '')
            """,
            table=TABLE,
        )
    except NotGranted:
        return Finding("event store row policies", True, "every row is visible")
    if policies:
        names = ", ".join(str(name) for (name,) in policies)
        detail = (
            f"{names}: every row is visible to this user now, but may not stay so. Exempt it: ALTER ROW POLICY ... TO"
            " ALL EXCEPT ..."
        )
        return Finding("event store row policies", False, detail)
    return Finding("event store row policies", True, "none")


def _dependents(client: ClickHouseClient, own_columns: tuple[Column, ...]) -> Iterator[Finding]:
    table = describe(client, TABLE)
    if table is None:
        return
    # Including the views on a view's target: each insert reaches them, and a late one counts in each of them.
    sources = [(table.database, TABLE)]
    for source in sources:
        for view in _views(client, *source):
            finding, target = _view(client, *view)
            yield finding
            if target and target not in sources:
                sources.append(target)
    computed = [
        *(f"projection {name}" for name in re.findall(r"\bPROJECTION (`[^`]+`|\w+)", table.ddl)),
        *(f"index {name}" for name in re.findall(r"\bINDEX (`[^`]+`|\w+)", table.ddl) if name not in INDEXES),
        *(
            f"column {name}"
            for name, column in table.columns.items()
            if name not in column_types(own_columns) and column.default.startswith(("DEFAULT ", "MATERIALIZED "))
        ),
    ]
    if computed:
        advice = "each insert computes them, and an event for which one fails becomes a dead letter"
        yield Finding("event store extras", True, f"{', '.join(computed)}: {advice}")
    others = client.query(
        """
        SELECT database, name, engine FROM system.tables WHERE engine IN ('Buffer', 'Distributed', 'Merge')
        AND position(engine_full, %(quoted)s) > 0 ORDER BY database, name
        """,
        quoted=f"'{TABLE}'",
    )
    for database, name, engine in others:
        is_buffer = engine == "Buffer"
        detail = f"{database}.{name} ({engine})" + ": it inserts without tokens. Drop it" * is_buffer
        yield Finding("event store dependents", not is_buffer, detail)


def _views(client: ClickHouseClient, database: str, name: str) -> list[tuple[str, str]]:
    """Return (database, name) of each materialized view on the table, which each insert reaches."""
    found = client.query(
        """
        SELECT dependencies_database, dependencies_table FROM system.tables
        WHERE database = %(database)s AND name = %(name)s
        """,
        database=database,
        name=name,
    )
    return sorted(
        (str(one), str(view)) for databases, views in found for one, view in zip(databases, views, strict=True)
    )


def _view(client: ClickHouseClient, database: str, name: str) -> tuple[Finding, tuple[str, str] | None]:
    """Return the finding about a view, and the table that it fills if the user can see it."""
    check = "event store view"
    found = client.query(
        """
        SELECT create_table_query, toString(uuid) FROM system.tables
        WHERE database = %(database)s AND name = %(name)s
        """,
        database=database,
        name=name,
    )
    if not found:
        unseen = f"{database}.{name}: its target cannot be seen by this user; it needs a token log (docs/stores.md)"
        return Finding(check, True, unseen), None
    ddl, uuid = found[0]
    refreshed = " REFRESH " in ddl.split(" AS SELECT", 1)[0]
    if refreshed:
        return Finding(check, True, f"{database}.{name}: it refreshes on its own, so inserts do not wait for it"), None
    filled = target_database, target = _target(client, ddl, database=database, name=name, uuid=uuid)
    described = client.query(
        """
        SELECT engine, create_table_query FROM system.tables WHERE database = %(database)s AND name = %(name)s
        """,
        database=target_database,
        name=target,
    )
    if not described:
        detail = f"{database}.{name}: its target {target_database}.{target} does not exist, or this user cannot see it"
        return Finding(check, False, detail), None
    engine, target_ddl = described[0]
    what = f"{database}.{name} to {target_database}.{target} ({engine})"
    if not _forgets_tokens(engine, target_ddl):
        return Finding(check, True, f"{what}: with a token log"), filled
    if not engine.endswith("MergeTree"):
        return Finding(check, False, f"{what}: has no token log, so a late insert counts twice in it"), filled
    detail = (
        f"{what}: without a token log, a late insert counts twice in it. Run ALTER TABLE {target_database}.`{target}`"
        " MODIFY SETTING non_replicated_deduplication_window = 10000"
    )
    return Finding(check, False, detail), filled


def _target(client: ClickHouseClient, ddl: str, *, database: str, name: str, uuid: str) -> tuple[str, str]:
    part = r"(`(?:[^`\\]|\\.)+`|\w+)"
    to = re.search(rf"^CREATE MATERIALIZED VIEW \S+ (?:REFRESH .*? )?TO {part}\.{part}", ddl)
    if to:
        return to[1].strip("`"), to[2].strip("`")
    inner = f".inner_id.{uuid}"
    return database, inner if _exists(client, inner, database=database) else f".inner.{name}"


def _forgets_tokens(engine: str, ddl: str) -> bool:
    """True if the table does not recognise a block that it has already taken."""
    replicated = engine.startswith(("Replicated", "Shared"))
    name = "replicated_deduplication_window" if replicated else "non_replicated_deduplication_window"
    window = re.search(rf"\b{name} = '?(\d+)", ddl)
    if not engine.endswith("MergeTree"):
        return True
    return int(window[1]) == 0 if window else not replicated


def _exists(client: ClickHouseClient, name: str, *, database: str = "") -> bool:
    ((count,),) = client.query(
        """
        SELECT count() FROM system.tables
        WHERE database = if(%(database)s = '', currentDatabase(), %(database)s) AND name = %(name)s
        """,
        database=database,
        name=name,
    )
    return bool(count)


def _named(table: Table) -> str:
    return f"the table {table.database}.{table.name}"
