"""What surrounds the OBT on PostgreSQL: tables with our names, and what triggers, rules and policies do to its rows.

This module only reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from towpath.eventlog.store import Finding
from towpath.eventlog.stores.postgresql.differences import (
    MIGRATIONS,
    PENDING,
    TOKENS,
    differences,
    differences_of_record,
    differences_of_tokens,
    kind_of,
)
from towpath.eventlog.stores.postgresql.schema import TABLE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from towpath.eventlog.columns import Column
    from towpath.eventlog.store import Change
    from towpath.eventlog.stores.postgresql.client import PostgreSQLClient

_ELSEWHERE = "Rename it, or name a separate database in EVENT_STORE_URL, then run `python manage.py eventlog migrate`"

#: The OBT, its partitions, and the table of tokens.
_OURS = """(
    SELECT inhrelid AS oid FROM pg_inherits WHERE inhparent = to_regclass(%(table)s)
    UNION SELECT to_regclass(%(table)s)::oid
    UNION SELECT to_regclass(%(tokens)s)::oid
)"""


def applied_migrations(client: PostgreSQLClient) -> Mapping[int, tuple[str, str]]:
    """Return (name, checksum) of each applied migration, by number. It is empty if the table is gone, so that `migrate`
    creates it again."""
    if differences_of_record(client) or not kind_of(client, MIGRATIONS) or not kind_of(client, TABLE):
        return {}
    rows = client.query(f"SELECT number, name, checksum FROM {MIGRATIONS}")
    return {number: (name, checksum) for number, name, checksum in rows}


def foreign_tables(client: PostgreSQLClient, own_columns: tuple[Column, ...]) -> list[str]:
    """Return a sentence for each table with one of our names that `migrate` must not touch."""
    found = {MIGRATIONS: differences_of_record(client)}
    if not applied_migrations(client):
        reasons = differences(client, own_columns, recorded=frozenset()) if kind_of(client, TABLE) else {}
        found[TABLE] = [what for what in reasons if reasons[what] != PENDING]
        found[TOKENS] = differences_of_tokens(client)
    return [
        f"the table {_schema(client, name)}.{name} was not made by Towpath: {'; '.join(reasons)}. {_ELSEWHERE}"
        for name, reasons in found.items()
        if reasons
    ]


def table_problems(client: PostgreSQLClient, own_columns: tuple[Column, ...]) -> list[str]:
    """Return what breaks a guarantee in the tables or the server's settings, and how to fix it."""
    if foreign := foreign_tables(client, own_columns):
        return foreign
    if not kind_of(client, TABLE):
        return [f"table {TABLE} does not exist: run `python manage.py eventlog migrate`"]
    recorded = frozenset(name for name, _ in applied_migrations(client).values())
    found = [f"{what}: {remedy}" for what, remedy in differences(client, own_columns, recorded=recorded).items()]
    if reasons := differences_of_tokens(client):
        found.append(f"{TOKENS}: {'; '.join(reasons)}: drop it, drop {MIGRATIONS}, and run `eventlog migrate`")
    elif not kind_of(client, TOKENS):
        found.append(f"table {TOKENS} does not exist: drop {MIGRATIONS}, and run `python manage.py eventlog migrate`")
    if client.query("SELECT current_setting('fsync')") != [("on",)]:
        found.append("fsync is off: a power cut loses what was acknowledged; set it to on in postgresql.conf")
    if client.query("SELECT current_setting('server_encoding')") != [("UTF8",)]:
        found.append("the database's encoding is not UTF8: give the event store a database with ENCODING 'UTF8'")
    return found


def reading_problems(client: PostgreSQLClient) -> list[str]:
    """Return what keeps our role from reading every column of every row, and how to fix it.

    Raises StoreUnavailable if a policy would hide rows.
    """
    if not kind_of(client, TABLE):
        return [f"table {TABLE} does not exist: run `python manage.py eventlog migrate`"]
    denied = client.query(
        """
        SELECT attname, current_user FROM pg_attribute
        WHERE attrelid = to_regclass(%(table)s) AND attnum > 0 AND NOT attisdropped
        AND NOT has_column_privilege(attrelid, attnum, 'SELECT') ORDER BY attnum
        """,
        table=TABLE,
    )
    if denied:
        columns, role = ", ".join(column for column, _ in denied), denied[0][1]
        return [f"role {role} may not read {columns} of {TABLE}: run GRANT SELECT ON {TABLE} TO {role}"]
    # Fails if a policy would hide rows: row_security is off.
    client.query(f"SELECT FROM {TABLE} LIMIT 0")
    return []


def keeping_problems(client: PostgreSQLClient, change: Change) -> list[str]:
    """Return what keeps our role from making a change, and how to fix it. Only the owner can drop a partition."""
    ((role, owner, is_owner, may_update),) = client.query(
        """
        SELECT current_user::text, relowner::regrole::text, pg_has_role(relowner, 'USAGE'),
            has_table_privilege(oid, 'UPDATE')
        FROM pg_class WHERE oid = %(table)s::regclass
        """,
        table=TABLE,
    )
    if change == "drop" and not is_owner:
        return [f"role {role} does not own {TABLE}: use the URL of towpath_keeper, or run GRANT {owner} TO {role}"]
    if change == "rewrite" and not may_update:
        remedy = f"use the URL of towpath_keeper, or run GRANT UPDATE ON {TABLE} TO {role}"
        return [f"role {role} lacks UPDATE on {TABLE}: {remedy}"]
    return []


def findings(client: PostgreSQLClient) -> list[Finding]:
    """Check for triggers, rules and policies, which can leave rows out of an insert or an answer."""
    triggers = client.query(
        f"""
        SELECT tgrelid::regclass::text, tgname FROM pg_trigger
        WHERE NOT tgisinternal AND tgrelid IN {_OURS} AND tgenabled <> 'D' ORDER BY 1, 2
        """,
        table=TABLE,
        tokens=TOKENS,
    )
    rules = client.query(
        f"""
        SELECT ev_class::regclass::text, rulename FROM pg_rewrite WHERE ev_class IN {_OURS} ORDER BY 1, 2
        """,
        table=TABLE,
        tokens=TOKENS,
    )
    policies = client.query(
        f"""
        SELECT oid::regclass::text FROM pg_class WHERE oid IN {_OURS} AND row_security_active(oid) ORDER BY 1
        """,
        table=TABLE,
        tokens=TOKENS,
    )
    return [
        _finding("triggers", [f"{name} on {table}" for table, name in triggers], "each insert runs them. Drop them"),
        _finding(
            "rules", [f"{name} on {table}" for table, name in rules], "they change what an insert does. Drop them"
        ),
        _finding(
            "policies",
            [table for (table,) in policies],
            "row level security applies to the role of EVENT_STORE_URL: ALTER TABLE ... DISABLE ROW LEVEL SECURITY,"
            " or ALTER ROLE ... BYPASSRLS",
        ),
    ]


def _finding(what: str, found: list[str], remedy: str) -> Finding:
    return Finding(f"event store {what}", not found, f"{', '.join(found)}: {remedy}" if found else "none")


def _schema(client: PostgreSQLClient, name: str) -> str:
    ((schema,),) = client.query(
        "SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass(%(table)s)", table=name
    )
    return str(schema)
