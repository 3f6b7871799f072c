"""The event log's tables as SQL files, from what `manage.py eventlog migrate` does on a single node.

Invariant: the files say what the store's migrations say, so that a table made by hand is taken for up to date by
`manage.py eventlog migrate`, which then only records it.

    python -m deploy.clickhouse.tables       (writes event_log.sql and event_log_replicated.sql)
"""

from __future__ import annotations

from pathlib import Path

from towpath.eventlog.stores.clickhouse.schema import CREATE_MIGRATIONS, migrations

_FOLDER = Path(__file__).parent

_SINGLE = """\
-- Made by `python -m deploy.clickhouse.tables`: what `manage.py eventlog migrate` creates on a single node.
"""
_REPLICATED = """\
-- Made by `python -m deploy.clickhouse.tables`: the tables on replicas. Run it as an administrator, on one replica,
-- before `manage.py eventlog migrate`, which then finds the tables and records its migrations. Needs Keeper, and the
-- macros `cluster`, `shard` and `replica` on each server. One shard: a window is read back where it was written.
"""
#: Replicas forget a token after a time, too; the default of an hour is shorter than an outage can be.
_TOKEN_SECONDS = 7 * 24 * 3600


def files() -> dict[Path, str]:
    """What each file must hold."""
    statements = [CREATE_MIGRATIONS]
    for migration in migrations():
        statements += migration.statements
    return {
        _FOLDER / "event_log.sql": _as_file(_SINGLE, statements),
        _FOLDER / "event_log_replicated.sql": _as_file(
            _REPLICATED, [_replicated(statement) for statement in statements]
        ),
    }


def _replicated(statement: str) -> str:
    tokens = f"replicated_deduplication_window_seconds = {_TOKEN_SECONDS}, replicated_deduplication_window"
    return (
        statement.replace("ENGINE = MergeTree", "ENGINE = ReplicatedMergeTree")
        .replace("_migration (", "_migration ON CLUSTER '{cluster}' (")
        .replace("event_log (", "event_log ON CLUSTER '{cluster}' (")
        .replace("non_replicated_deduplication_window", tokens)
    )


def _as_file(heading: str, statements: list[str]) -> str:
    return heading + "".join(f"\n{statement.strip()};\n" for statement in statements)


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text)
