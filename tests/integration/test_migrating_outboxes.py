"""`migrate` neither drops nor renames the table of an outbox with events under way, and says how to drain it."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest
from django.db import connection

from tests.integration.test_new_outbox import Shop, ask, migrations, shop
from towpath.ledger.models import Batch, Cursor, DeadLetter

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["migrations", "shop"]

TABLE = "shop_outboxofsubscriptionsthatcametoanend"


def run(sql: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql)


def publish() -> None:
    run(
        f"INSERT INTO {TABLE} (event_type, event_date_time, event_context, metadata_version, customer_id, plan)"
        " VALUES ('ended', now(), '{}', 2, 1, 'small')"
    )


def in_a_batch() -> None:
    Batch.objects.create(outbox=TABLE, ids=[1], rows=1, bytes=1, dispatched_at="2026-01-01T00:00:00Z")


def in_a_dead_letter() -> None:
    DeadLetter.objects.create(
        outbox=TABLE, row_id=1, error="", window_id="11111111-2222-3333-4444-555555555555", at="2026-01-01T00:00:00Z"
    )


def drain() -> None:
    Batch.objects.all().delete()
    DeadLetter.objects.all().delete()
    run(f"DELETE FROM {TABLE}")


def write(shop: Shop, number: str, operations: str) -> None:
    text = f"""
        from django.db import migrations, models

        class Migration(migrations.Migration):
            dependencies = [("shop", "0001_initial")]
            operations = [{operations}]
    """
    (shop.folder / "shop" / "migrations" / f"{number}.py").write_text(textwrap.dedent(text))


def is_there() -> bool:
    return ask("SELECT to_regclass(%s) IS NOT NULL", TABLE) == [(True,)]


MODEL = "OutboxOfSubscriptionsThatCameToAnEnd"
DELETED = f'migrations.DeleteModel("{MODEL}")'
MOVED = f'migrations.AlterModelTable("{MODEL}", "outbox_elsewhere")'
RENAMED = f'migrations.RenameModel("{MODEL}", "OutboxElsewhere")'
IN_THE_DATABASE = f"migrations.SeparateDatabaseAndState(database_operations=[{DELETED}])"
IN_THE_STATE = f"migrations.SeparateDatabaseAndState(state_operations=[{DELETED}])"


@pytest.mark.parametrize(
    ("hold", "what"),
    [(publish, "1 undelivered row(s)"), (in_a_batch, "1 batch(es)"), (in_a_dead_letter, "1 dead letter(s)")],
    ids=["row", "batch", "dead letter"],
)
def test_a_table_whose_events_are_under_way_is_not_dropped(shop: Shop, hold: Callable[[], None], what: str) -> None:
    # Given a class that is removed, with a harmless migration before that of its table
    hold()
    write(shop, "0002_more", 'migrations.AddField("customer", "age", models.IntegerField(null=True)), ' + DELETED)

    refused = shop.manage("migrate", "shop", "--skip-checks")

    # Then nothing was changed, and the message says what to do
    assert refused.returncode == 1
    assert f"shop.0002_more would drop or rename {TABLE}, the table of an outbox with {what}" in refused.stderr
    assert "pipeline status" in refused.stderr
    assert is_there()
    assert ask("SELECT count(*) FROM information_schema.columns WHERE column_name = 'age'") == [(0,)]

    # And once it is drained, it goes, and its cursor with it
    drain()
    Cursor.objects.create(outbox=TABLE, cluster="", seen="1:1:")
    (shop.folder / "shop" / "models.py").write_text("")
    shop.must("migrate", "shop", "--skip-checks")
    assert not is_there()
    assert not Cursor.objects.filter(outbox=TABLE).exists()


@pytest.mark.parametrize("operation", [MOVED, RENAMED, IN_THE_DATABASE], ids=["moved", "renamed", "database only"])
def test_other_ways_to_take_a_table_away_are_seen(shop: Shop, operation: str) -> None:
    publish()
    write(shop, "0002_more", operation)

    refused = shop.manage("migrate", "shop", "--skip-checks")

    assert (refused.returncode, is_there()) == (1, True)
    assert f"would drop or rename {TABLE}" in refused.stderr
    drain()
    (shop.folder / "shop" / "migrations" / "0002_more.py").unlink()


def test_going_back_to_zero_is_seen(shop: Shop) -> None:
    publish()

    refused = shop.manage("migrate", "shop", "zero", "--skip-checks")

    assert (refused.returncode, is_there()) == (1, True)
    assert f"shop.0001_initial would drop or rename {TABLE}" in refused.stderr
    drain()


def test_what_leaves_the_table_where_it_is_is_not_refused(shop: Shop) -> None:
    publish()
    write(shop, "0002_more", IN_THE_STATE + ', migrations.AddField("customer", "age", models.IntegerField(null=True))')

    shop.must("migrate", "shop", "--skip-checks")
    shop.must("migrate", "shop", "0001", "--skip-checks")

    assert is_there()
    drain()
    (shop.folder / "shop" / "migrations" / "0002_more.py").unlink()
