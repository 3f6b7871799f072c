"""The database: what in the server, the database or the role would hide events from the pipeline, or stop it.

Each function yields what is wrong, and how to fix it. Everything is read from catalogues, in milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, connection, transaction

from towpath import driver
from towpath.ledger.database_errors import first_line
from towpath.ledger.session import SHORTEST_STATEMENT_SECONDS
from towpath.ledger.tables import ledger_tables, may_seal
from towpath.outbox.models import LeanOutbox, all_outboxes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from django.db.backends.base.base import BaseDatabaseWrapper

#: What the pipeline does with a table's rows, in the letters of pg_policy.
_OUTBOX_COMMANDS, _LEDGER_COMMANDS, _READ = "rd", "rwd", "r"

#: A policy that lets this role see and touch every row does no harm.
_SUBJECT_TO_POLICIES = """
SELECT current_user, name FROM unnest(%(tables)s::text[], %(commands)s::text[]) AS asked (name, commands)
JOIN pg_class AS c ON c.oid = to_regclass(quote_ident(name))
WHERE row_security_active(c.oid) AND EXISTS (
    SELECT FROM regexp_split_to_table(commands, '') AS command WHERE NOT EXISTS (
        SELECT FROM policies AS p WHERE p.polrelid = c.oid AND p.polpermissive AND p.polcmd IN ('*', command)
        AND p.condition = 'true'
    ) OR EXISTS (
        SELECT FROM policies AS p WHERE p.polrelid = c.oid AND NOT p.polpermissive AND p.polcmd IN ('*', command)
    )
) ORDER BY name
"""
_POLICIES = """
WITH policies AS MATERIALIZED (
    SELECT polrelid, polpermissive, polcmd::text, pg_get_expr(polqual, polrelid) AS condition FROM pg_policy
    WHERE polroles = '{0}' OR EXISTS (SELECT FROM unnest(polroles) AS role WHERE pg_has_role(role, 'USAGE'))
)
"""

_IN_SEVERAL_SCHEMAS = """
SELECT c.relname, array_agg(n.nspname::text ORDER BY n.nspname), coalesce(
    sum(pg_stat_get_live_tuples(c.oid)) FILTER (WHERE c.oid IS DISTINCT FROM to_regclass(quote_ident(c.relname))), 0)
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE c.relname = ANY(%(tables)s) AND c.relkind IN ('r', 'p', 'v', 'f')
GROUP BY c.relname HAVING count(*) > 1 ORDER BY c.relname
"""


#: Triggers before an insert, a change or a deletion; those after one can only raise an error.
_MEDDLERS = """
SELECT tgrelid::regclass::text, 'trigger', tgname::text FROM pg_trigger
WHERE tgrelid IN (SELECT to_regclass(quote_ident(name)) FROM unnest(%(outboxes)s::text[]) AS name)
AND NOT tgisinternal AND tgenabled <> 'D' AND tgtype::int & 66 > 0
UNION ALL
SELECT ev_class::regclass::text, 'rule', rulename::text FROM pg_rewrite
WHERE ev_class IN (SELECT to_regclass(quote_ident(name)) FROM unnest(%(outboxes)s::text[]) AS name)
AND ev_enabled <> 'D'
ORDER BY 1, 3
"""


def problems_of_database(connection: BaseDatabaseWrapper) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a database before any of our tables are in it."""
    with driver.cursor(connection) as cursor:
        cursor.execute(
            """
            SELECT current_database(), current_setting('server_encoding'), current_setting('transaction_read_only'),
                   pg_is_in_recovery()
            """
        )
        name, encoding, is_read_only, is_standby = cursor.fetchone()
    if encoding != "UTF8":
        yield (
            f"The database {name!r} has the encoding {encoding}, which cannot hold every event.",
            f"Move the project to a database with ENCODING 'UTF8' (pg_dump {name}, CREATE DATABASE, restore).",
        )
    if is_standby or is_read_only == "on":
        what = "is a standby" if is_standby else "is read only for this role"
        yield (
            f"The database {name!r} {what}, but publishing and the pipeline write to it.",
            "Point `default` to the primary, without default_transaction_read_only.",
        )


def hiding_problems(*, is_with_lean: bool = True) -> Iterator[str]:
    """Yield why undelivered rows, or the ledger, may look empty to this role although they are not."""
    commands = dict.fromkeys(ledger_tables(), _LEDGER_COMMANDS) | dict.fromkeys(all_outboxes(), _OUTBOX_COMMANDS)
    referenced = dict.fromkeys(_referenced(), _READ) if is_with_lean else {}
    yield from _policy_problems(referenced | commands)
    yield from _schema_problems(is_only_with_rows=not is_with_lean)


def limit_problems() -> Iterator[str]:
    """Yield the role's time limits that are too short for one statement of the pipeline, whatever this transaction has
    set."""
    with driver.cursor() as cursor:
        cursor.execute(
            """
            SELECT name, reset_val::bigint, current_user FROM pg_settings
            WHERE name IN ('statement_timeout', 'transaction_timeout') AND reset_val::bigint BETWEEN 1 AND %(too_short)s
            ORDER BY name
            """,
            {"too_short": SHORTEST_STATEMENT_SECONDS * 1000 - 1},
        )
        found = cursor.fetchall()
    for setting, milliseconds, role in found:
        yield (
            f"{setting} is {milliseconds} ms, which is too short for a large window: run ALTER ROLE {role} SET"
            f" {setting} = '{SHORTEST_STATEMENT_SECONDS}s'"
        )


def reading_problems() -> Iterator[str]:
    """Yield the outboxes whose events this role cannot deliver, because a privilege or a column is missing. A role that
    may not write the ledger is not the pipeline's, and is not checked."""
    if not may_seal():
        return
    for name, outbox in all_outboxes().items():
        sql, parameters = _reading(outbox).sql_with_params()
        try:
            with transaction.atomic(), driver.cursor() as cursor:
                cursor.execute(f"EXPLAIN {sql}", parameters)  # which checks the privileges, and reads nothing
                cursor.execute(
                    "SELECT has_table_privilege(%(table)s, 'DELETE'), current_user",
                    {"table": connection.ops.quote_name(name)},
                )
                may_delete, role = cursor.fetchone()
        except DatabaseError as error:
            yield f"the events of {name} cannot be read: {first_line(error)}"
        else:
            if not may_delete:
                yield f"the role {role} may not delete delivered rows from {name}: run GRANT DELETE ON {name} TO {role}"


def meddling_problems() -> Iterator[str]:
    """Yield the triggers and rules of outbox tables that may change or swallow rows."""
    with driver.cursor() as cursor:
        cursor.execute(_MEDDLERS, {"outboxes": [*all_outboxes()]})
        found = cursor.fetchall()
    for table, kind, name in found:
        yield f"the {kind} {name} on {table} may change or remove events: drop it"


def _policy_problems(commands: Mapping[str, str]) -> Iterator[str]:
    with driver.cursor() as cursor:
        cursor.execute(_POLICIES + _SUBJECT_TO_POLICIES, {"tables": [*commands], "commands": [*commands.values()]})
        found = cursor.fetchall()
    if found:
        role, hidden = found[0][0], ", ".join(name for _, name in found)
        yield (
            f"row level security on {hidden} may hide rows from the role {role}: run ALTER ROLE {role} BYPASSRLS, or"
            " give the role a policy USING (true)"
        )


def _schema_problems(*, is_only_with_rows: bool) -> Iterator[str]:
    with driver.cursor() as cursor:
        cursor.execute(_IN_SEVERAL_SCHEMAS, {"tables": [*all_outboxes(), *ledger_tables()]})
        found = cursor.fetchall()
    for name, schemas, rows_elsewhere in found:
        if rows_elsewhere or not is_only_with_rows:
            yield (
                f"{name} exists in several schemas ({', '.join(schemas)}), but only the rows of one are delivered."
                " Keep that one, and put it in the search_path of every role. With django-tenants, list its app in"
                " SHARED_APPS only"
            )


def _referenced() -> list[str]:
    """Return the tables that lean outboxes read."""
    tables: set[str] = set()
    for outbox in all_outboxes().values():
        if issubclass(outbox, LeanOutbox):
            query = _reading(outbox)
            tables.update(table.table_name for table in query.alias_map.values())
    return sorted(tables)


def _reading(outbox: Any) -> Any:
    return outbox._base_manager.values_list("id", *outbox.event_columns().values()).query
