"""What the roles of roles.sql may do with each table, derived from the models: a new outbox needs no word here.

Invariant: an attacker who takes over the web can neither read the payload of an undelivered event, nor change or
delete one, nor change the ledger, but for pausing dispatch (its status pages and metrics read it). An attacker in a
worker reads, of the application's tables, only what lean outboxes refer to, can change no seal, and can publish no
event but the pipeline's own.

    python -m deploy.postgres.grants       (as the tables' owner, after each `manage.py migrate`)
"""

from __future__ import annotations

import os
from collections import defaultdict
from typing import TYPE_CHECKING

import django
from django.apps import apps
from django.db import connection, transaction
from django.db.models.expressions import Col
from django.db.models.sql.datastructures import Join

if TYPE_CHECKING:
    from collections.abc import Iterator

    from towpath.outbox.models import Outbox

_WEB = "towpath_web"
_PIPELINE = "towpath_pipeline"
_MIGRATIONS = "django_migrations"
#: What the pipeline may do with a table of the ledger.
_LEDGER_RIGHTS = "SELECT, INSERT, UPDATE, DELETE"
#: The tables that prove what the event store holds: what is in them is evidence, also against the pipeline. A seal and
#: what a digest covers are never changed and stay. A proof is never changed, either: it is packed, and goes with its
#: month.
_RIGHTS_ON_EVIDENCE = {
    "pipeline_seal": "SELECT, INSERT",
    "pipeline_coverage": "SELECT, INSERT",
    "pipeline_proof": "SELECT, INSERT, DELETE",
    "pipeline_packedproofs": "SELECT, INSERT, DELETE",
}
#: What the console asks the pipeline for. A pause delays events, loses none, and is shown as a problem.
_RIGHTS_OF_WEB = {"pipeline_pause": "SELECT, INSERT, DELETE"}

#: What processes of the pipeline publish, and commands with their role. With any other, they could forge events.
_OWN_EVENTS = ("ledger_sealed", "canary_sent", "recovery_run", "dead_letters_replayed", "pipeline_action_failed")
_OWN_LIST = ", ".join(f"'{event}'" for event in _OWN_EVENTS)
_OWN_OUTBOX = "outbox_event"
_REFUSE_OTHERS = (
    f"""
CREATE OR REPLACE FUNCTION towpath_refuse_event() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    RAISE insufficient_privilege USING MESSAGE = '{_PIPELINE} may publish events of its own only';
END $$""",
    # Made once: it takes a lock that writers wait for. After the insert, because one before it could change events, and
    # `pipeline doctor` asks for such a trigger to be removed.
    f"""
DO $$ BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_trigger WHERE tgname = 'towpath_refuse_event' AND tgrelid = '{_OWN_OUTBOX}'::regclass
        AND {" AND ".join(f"pg_get_triggerdef(oid) LIKE '%{event}%'" for event in _OWN_EVENTS)}
    ) THEN
        DROP TRIGGER IF EXISTS towpath_refuse_event ON {_OWN_OUTBOX};
        CREATE TRIGGER towpath_refuse_event AFTER INSERT ON {_OWN_OUTBOX} FOR EACH ROW
        WHEN (current_user = '{_PIPELINE}' AND NEW.event_type NOT IN ({_OWN_LIST}))
        EXECUTE FUNCTION towpath_refuse_event();
    END IF;
END $$""",
)


def apply() -> int:
    """Set every grant anew, in one transaction, so that a running process never misses one; how many there are."""
    statements = list(grants())
    with transaction.atomic(), connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    return len(statements)


def grants() -> Iterator[str]:
    """The statements, beginning with those that take everything away."""
    from towpath.ledger.tables import ledger_tables  # noqa: PLC0415 - the apps are ready only now
    from towpath.outbox.models import all_outboxes  # noqa: PLC0415 - the same

    outboxes = all_outboxes()
    ledger = set(ledger_tables())
    models = [model for model in apps.get_models(include_auto_created=True) if model._meta.managed]
    application = {model._meta.db_table for model in models} - set(outboxes) - ledger
    for table in sorted({*outboxes, *ledger, *application, _MIGRATIONS}):
        yield f"REVOKE ALL ON {_quoted(table)} FROM {_WEB}, {_PIPELINE}"
    yield f"GRANT SELECT ON {_quoted(_MIGRATIONS)} TO {_WEB}, {_PIPELINE}"
    for table in sorted(application):
        yield f"GRANT SELECT, INSERT, UPDATE, DELETE ON {_quoted(table)} TO {_WEB}"
    for table in sorted(ledger):
        yield f"GRANT {_RIGHTS_ON_EVIDENCE.get(table, _LEDGER_RIGHTS)} ON {_quoted(table)} TO {_PIPELINE}"
        yield f"GRANT {_RIGHTS_OF_WEB.get(table, 'SELECT')} ON {_quoted(table)} TO {_WEB}"
    # The marks go up to the last number that was given (pipeline/towpath/ledger/marks.py).
    for sequence in ("pipeline_window_number_seq", "pipeline_batch_id_seq"):
        yield f"GRANT SELECT ON SEQUENCE {_quoted(sequence)} TO {_PIPELINE}"
    read_through: dict[str, set[str]] = defaultdict(set)
    for table, outbox in outboxes.items():
        # PostgreSQL gives id and xid: a row with another's xid is never dispatched, nor one with another's id stored.
        # An insert returns the row's id, and deleting a user asks whether an event points to it.
        inserted, read = _columns(_columns_inserted(outbox)), _columns(_columns_without_payload(outbox))
        yield f"GRANT INSERT ({inserted}), SELECT ({read}) ON {_quoted(table)} TO {_WEB}"
        # The rows of a restored database get the xid of the transaction that finds them (Dispatcher).
        yield f"GRANT SELECT, DELETE, UPDATE (xid) ON {_quoted(table)} TO {_PIPELINE}"
        if table == _OWN_OUTBOX:
            yield from _REFUSE_OTHERS
            yield f"GRANT INSERT ({inserted}) ON {_quoted(table)} TO {_PIPELINE}"
        for referred, columns in _columns_read(outbox).items():
            if referred in application:
                read_through[referred] |= columns
    for table, columns in sorted(read_through.items()):
        yield f"GRANT SELECT ({_columns(columns)}) ON {_quoted(table)} TO {_PIPELINE}"


def _columns_inserted(outbox: type[Outbox]) -> set[str]:
    return {str(field.column) for field in outbox._meta.concrete_fields} - {"id", "xid"}


def _columns_without_payload(outbox: type[Outbox]) -> set[str]:
    return {str(field.column) for field in outbox._meta.concrete_fields if field.column != outbox.payload_column}


def _columns_read(outbox: type[Outbox]) -> dict[str, set[str]]:
    """By table, the columns that the query of an event's columns reads, taken from the query that Django makes."""
    query = outbox._default_manager.values_list(*outbox.event_columns().values()).query
    compiler = query.get_compiler(connection=connection)
    compiler.as_sql()
    tables = {alias: source.table_name for alias, source in query.alias_map.items()}
    read: dict[str, set[str]] = defaultdict(set)
    for source in query.alias_map.values():
        if isinstance(source, Join):
            for left, right in source.join_fields:  # type: ignore[attr-defined]  # the stubs are of Django 4
                read[tables[source.parent_alias]].add(left.column)
                read[source.table_name].add(right.column)
    for selected, _, _ in compiler.select:
        for part in selected.flatten():
            if isinstance(part, Col):
                read[tables[part.alias]].add(str(part.target.column))
    return read


def _columns(names: set[str]) -> str:
    return ", ".join(_quoted(name) for name in sorted(names))


def _quoted(name: str) -> str:
    return connection.ops.quote_name(name)


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "backend.config.settings")
    django.setup()
    print(f"{apply()} grants and revocations")  # noqa: T201 - a command line
