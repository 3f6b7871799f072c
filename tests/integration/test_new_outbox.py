"""A new outbox is one class: makemigrations makes its table, and the pipeline finds it."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connection

from deploy.local.process import PROJECT
from tests.forked import run_python
from tests.integration.event_log import EventLog
from tests.integration.manage import manage
from tests.integration.workers import QUICK, Workers
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

_WAIT_SECONDS = 90

#: An application as its author writes it: nothing of the pipeline is in it. The long name is on purpose: an index of
#: PostgreSQL may have 63 characters, Django's own limit is 30.
_FILES = {
    "shop_settings.py": """
        from backend.config.settings import *

        INSTALLED_APPS = [*INSTALLED_APPS, "shop"]
    """,
    "shop/__init__.py": "",
    "shop/events.py": """
        from towpath import Event

        class CustomerCame(Event):
            name: str

        class SubscriptionEnded(Event):
            version = 2
            customer_id: int
            plan: str
            reason: str | None = None
    """,
    "shop/models.py": """
        from django.db import models
        from towpath.outbox.models import FrozenOutbox, LeanOutbox
        from shop.events import CustomerCame, SubscriptionEnded

        class Customer(models.Model):
            name = models.TextField()
            came_at = models.DateTimeField(auto_now_add=True)

        class OutboxCustomer(LeanOutbox):
            customer = models.ForeignKey(Customer, on_delete=models.PROTECT)
            event = CustomerCame
            event_date_time = "customer__came_at"
            event_context = {"name": "customer__name"}

        class OutboxOfSubscriptionsThatCameToAnEnd(FrozenOutbox):
            events = (SubscriptionEnded,)
            customer_id = models.BigIntegerField()
            plan = models.CharField(max_length=20)
    """,
}
_LEAN, _FROZEN = "shop_outboxcustomer", "shop_outboxofsubscriptionsthatcametoanend"

_PUBLISH = """
import django
django.setup()
from django.db import transaction
from towpath import publish_many
from shop.events import SubscriptionEnded
from shop.models import Customer, OutboxCustomer
with transaction.atomic():
    customers = [Customer.objects.create(name=f"Customer {n}") for n in range(3)]
    OutboxCustomer.objects.bulk_create(OutboxCustomer(customer=customer) for customer in customers)
    publish_many(SubscriptionEnded(customer_id=customer.pk, plan="small") for customer in customers[:2])
"""


class Shop:
    """The application's folder, and manage.py as run with its settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            "DJANGO_SETTINGS_MODULE": "shop_settings",
            "PYTHONPATH": str(folder),
            # A module that a test writes again within the second would be taken for the one that is compiled.
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.manage = partial(manage, **self.environment)

    def must(self, *arguments: str) -> str:
        done = self.manage(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def migrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What makemigrations makes of the application."""
    folder = tmp_path_factory.mktemp("shop")
    written(folder).must("makemigrations", "shop")
    return folder / "shop" / "migrations"


@pytest.fixture
def new_shop(tmp_path: Path) -> Shop:
    """The application as it was typed: without migrations, and without a table."""
    return written(tmp_path)


@pytest.fixture
def shop(tmp_path: Path, migrations: Path) -> Iterator[Shop]:
    """The application, migrated."""
    shop = written(tmp_path)
    shutil.copytree(migrations, tmp_path / "shop" / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    shop.must("migrate", "shop")
    yield shop
    shop.must("migrate", "shop", "zero", "--skip-checks")


def written(folder: Path) -> Shop:
    for name, text in _FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(textwrap.dedent(text))
    return Shop(folder)


def publish(shop: Shop) -> None:
    """Three events of the lean outbox, and two of the frozen one."""
    done = run_python("-c", _PUBLISH, cwd=PROJECT, env={**os.environ, **shop.environment})
    assert done.returncode == 0, done.stderr


def ask(sql: str, *values: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return list(cursor.fetchall())


@pytest.mark.timeout(300)
def test_a_new_outbox_is_migrated_found_and_delivered(shop: Shop, workers: Workers, event_log: EventLog) -> None:
    # Given a lean and a frozen outbox whose migrations makemigrations has made, and has nothing to add to
    shop.must("makemigrations", "--check", "--dry-run", "shop")
    for table in (_LEAN, _FROZEN):
        assert_is_an_outbox(table)
    assert compression(_FROZEN, "event_context") == ("l" if has_lz4() else "")
    assert 'ALTER COLUMN "event_context" SET COMPRESSION lz4' in shop.must("sqlmigrate", "shop", "0001")

    # When events are published, status knows of them
    publish(shop)
    outboxes = json.loads(shop.manage("pipeline", "status", "--json").stdout)["outboxes"]
    assert (outboxes[_LEAN]["pending"], outboxes[_FROZEN]["pending"]) == (3, 2)
    assert ask(f"SELECT customer_id, plan FROM {_FROZEN} ORDER BY id") == [
        (id_, "small") for (id_,) in ask("SELECT id FROM shop_customer ORDER BY id LIMIT 2")
    ]

    # Then workers that were not told of them deliver them
    workers.dispatcher(**QUICK, **shop.environment)
    workers.aggregator(**QUICK, **shop.environment)
    eventually(lambda: event_log.count() == 5, seconds=_WAIT_SECONDS)
    stored = [(event.outbox, event.event_type, event.metadata_version) for event in event_log.events()]
    assert stored == [*[(_LEAN, "customer_came", 1)] * 3, *[(_FROZEN, "subscription_ended", 2)] * 2]
    assert event_log.events()[2].event_context == b'{"name":"Customer 2"}'
    eventually(lambda: ask(f"SELECT count(*) FROM {_LEAN}, {_FROZEN}") == [(0,)], seconds=_WAIT_SECONDS)


def test_the_registry_of_a_new_application_is_written_beside_its_code(new_shop: Shop) -> None:
    missing = new_shop.manage("eventlog", "events", "--check")
    assert missing.returncode == 1
    assert "manage.py eventlog events --write" in missing.stderr

    new_shop.must("eventlog", "events", "--write")

    written = json.loads((new_shop.folder / "shop" / "events.schema.json").read_text())
    assert {type_: list(versions) for type_, versions in written.items()} == {
        "customer_came": ["1"],
        "subscription_ended": ["2"],
    }
    new_shop.must("eventlog", "events", "--check")
    lines = [line.split()[:3] for line in new_shop.must("eventlog", "events").splitlines()]
    assert ["subscription_ended", "2", _FROZEN] in lines


def test_an_outbox_that_would_lose_events_stops_manage_py_with_a_hint(new_shop: Shop) -> None:
    models = new_shop.folder / "shop" / "models.py"
    models.write_text(models.read_text().replace("models.PROTECT", "models.CASCADE"))

    for command in (("check",), ("migrate",), ("makemigrations", "shop")):
        refused = new_shop.manage(*command)
        assert refused.returncode == 1
        assert "outbox.E005" in refused.stderr
        assert "on_delete=models.PROTECT" in refused.stderr


def assert_is_an_outbox(table: str) -> None:
    identity = "SELECT is_identity, column_default FROM information_schema.columns WHERE table_name = %s"
    assert ask(f"{identity} AND column_name = 'id'", table) == [("YES", None)]
    assert ask(f"{identity} AND column_name = 'xid'", table) == [("NO", "pg_current_xact_id()")]
    (indexes,) = zip(*ask("SELECT indexdef FROM pg_indexes WHERE tablename = %s", table), strict=True)
    assert any(str(index).endswith("USING btree (xid, id) WHERE (xid >= '0'::xid8)") for index in indexes), indexes
    found = ask("SELECT unnest(ARRAY[oid, reltoastrelid]) FROM pg_class WHERE relname = %s", table)
    for (relation,) in found:
        ((options,),) = ask("SELECT reloptions FROM pg_class WHERE oid = %s", relation)
        assert {"autovacuum_vacuum_threshold=20000", "autovacuum_vacuum_scale_factor=0", "vacuum_truncate=off"} <= {
            *options
        }


def has_lz4() -> bool:
    """PostgreSQL may be built without it; then the column keeps the server's own method."""
    ((methods,),) = ask("SELECT enumvals FROM pg_settings WHERE name = 'default_toast_compression'")
    return "lz4" in str(methods)


def compression(table: str, column: str) -> str:
    ((method,),) = ask(
        "SELECT attcompression::text FROM pg_attribute WHERE attrelid = %s::regclass AND attname = %s", table, column
    )
    return str(method)
