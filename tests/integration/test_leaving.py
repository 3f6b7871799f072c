"""docs/leaving.md, word for word, on a project that has outboxes of its own and Towpath's wheel in its environment."""

from __future__ import annotations

import contextlib
import json
import shlex
import textwrap
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest
from django.db import connection

from tests.administering import on_database
from tests.clickhouse import database_of
from tests.integration.foreign_project import ForeignProject, blocks, variables_of
from tests.integration.own_environment import make_environment
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clickhouse_connect.driver.client import Client

    from tests.services import Services

SETTINGS = """
INSTALLED_APPS += ["towpath", "django_dramatiq", "shop"]
MIDDLEWARE += ["towpath.outbox.middleware.EventContextMiddleware"]
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": os.environ["DATABASE"]}}
"""
WITHOUT_OUTBOXES = """
from django.db import models

class Customer(models.Model):
    name = models.TextField()
    came_at = models.DateTimeField(auto_now_add=True)
"""
MODELS = f"""
{WITHOUT_OUTBOXES}

from towpath import Event
from towpath.outbox.models import FrozenOutbox, LeanOutbox

class CustomerCame(Event):
    name: str

class Paid(Event):
    amount: int

class OutboxCustomer(LeanOutbox):
    customer = models.ForeignKey(Customer, on_delete=models.PROTECT)
    event = CustomerCame
    event_date_time = "customer__came_at"
    event_context = {{"name": "customer__name"}}

class OutboxPayment(FrozenOutbox):
    events = (Paid,)
"""
#: The general outbox, a lean and a frozen one.
PUBLISH = """
from django.db import transaction
from towpath import Event, publish_many
from shop.models import Customer, OutboxCustomer, Paid

class Noted(Event):
    number: int

with transaction.atomic():
    customers = Customer.objects.bulk_create(Customer(name=f"Customer {n}") for n in range(%(count)d))
    OutboxCustomer.objects.bulk_create(OutboxCustomer(customer=customer) for customer in customers)
    publish_many(Paid(amount=n) for n in range(%(count)d))
    publish_many(Noted(number=n) for n in range(%(count)d))
"""
SHOP = {"shop_outboxcustomer", "shop_outboxpayment"}
OURS = (
    "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    " AND (table_name LIKE 'pipeline%' OR table_name LIKE '%outbox%')"
)


class Project(ForeignProject):
    """A project with three outboxes."""

    database_url: str

    def manage(self, arguments: str, *, exit_code: int = 0, **environment: str) -> str:
        return self.run(f"python manage.py {arguments}", exit_code=exit_code, environment=environment)

    def publish(self, count: int) -> None:
        self.run(shlex.join(["python", "manage.py", "shell", "--no-imports", "-c", PUBLISH % {"count": count}]))

    def leave(self, arguments: str = "", *, exit_code: int = 0, **environment: str) -> dict[str, Any]:
        printed = self.manage(f"pipeline leave --json {arguments}", exit_code=exit_code, **environment)
        answer: dict[str, Any] = json.loads(printed.splitlines()[-1])
        return answer

    def write(self, path: str, text: str) -> None:
        (self.folder / path).write_text(textwrap.dedent(text))

    def query(self, sql: str) -> list[str]:
        with contextlib.closing(psycopg2.connect(self.database_url)) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return [str(value) for (value,) in cursor.fetchall()]


@pytest.fixture
def clickhouse(services: Services) -> Iterator[Client]:
    with database_of(services.clickhouse, "leaving") as client:
        yield client


@pytest.fixture
def project(services: Services, clickhouse: Client, tmp_path: Path) -> Iterator[Project]:
    assert clickhouse.ping()
    environment = {**variables_of(services, database="leaving"), "DATABASE": "leaving"}
    folder = tmp_path / "mysite"
    (folder / "shop").mkdir(parents=True)
    own = make_environment(tmp_path / "environment")
    with connection.cursor() as cursor:
        for name in ("leaving", "leaving_new"):
            cursor.execute(f"CREATE DATABASE {name}")
        with Project(folder, environment, own=own) as project:
            project.database_url = on_database(services.postgres.url, "leaving")
            project.run("pip wheel --no-deps --wheel-dir dist ../towpath")
            (wheel,) = (folder / "dist").glob("*.whl")
            project.run(f"pip install {wheel}")
            settings = folder / "mysite" / "settings.py"
            settings.write_text("import os\nfrom towpath.conf.settings import *\n" + settings.read_text() + SETTINGS)
            project.write("shop/__init__.py", "")
            project.write("shop/models.py", MODELS)
            project.manage("makemigrations shop")
            project.manage("migrate")
            project.manage("eventlog migrate")
            yield project
        for name in ("leaving", "leaving_new"):
            cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def stored(clickhouse: Client) -> tuple[int, int]:
    """How many rows, and how many events."""
    ((rows, events),) = clickhouse.query(
        "SELECT count(), uniqExact(outbox, outbox_id) FROM leaving.event_log"
    ).result_rows
    return int(rows), int(events)


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.timeout(600)
def test_a_project_leaves_towpath_by_the_page(project: Project, clickhouse: Client) -> None:
    stop_publishing, delete_classes, migrate, remove, uninstall = blocks("leaving.md")

    # Given events on their way, then nothing drops a table of them: not a migration without the classes
    project.publish(400)
    project.write("shop/models.py", WITHOUT_OUTBOXES)
    project.manage("makemigrations shop")
    refused = project.manage("migrate", exit_code=1)
    assert "would drop or rename shop_outbox" in refused
    assert "with 400 undelivered row(s). Nothing was changed." in refused
    (made,) = (project.folder / "shop" / "migrations").glob("0002*.py")
    made.unlink()
    project.write("shop/models.py", MODELS)
    # Nor Towpath's own, taken back
    refused = project.manage("migrate towpath zero", exit_code=1)
    assert "400 undelivered row(s). Nothing was changed." in refused
    assert "pipeline leave" in refused
    tables = set(project.query(OURS))
    assert SHOP | {"outbox_event", "pipeline_batch"} <= tables

    # When it is killed at one point after the other, and run again
    for point in ("batches_inserted", "cursor_committed", "loaded", "written", "acked"):
        project.manage("pipeline leave --json", exit_code=-9, TOWPATH_FAILPOINTS=f"{point}=kill")
        project.publish(10)
    project.apply(stop_publishing)

    # Then every event is stored, once
    assert stored(clickhouse) == (1350, 1350)
    answer = project.leave("--yes")
    assert answer["is_drained"]
    assert answer["removed"] == []
    assert answer["next"].startswith("delete shop.OutboxCustomer, shop.OutboxPayment, run makemigrations")
    assert "First delete shop.OutboxCustomer" in project.manage("pipeline leave --migrations", exit_code=1)

    # When the classes are gone, then migrate drops their tables, but not with an event in them again
    project.publish(1)
    project.write("shop/models.py", WITHOUT_OUTBOXES)
    project.apply(delete_classes)
    assert "1 undelivered row(s)" in project.manage("migrate", exit_code=1)
    project.write("shop/models.py", MODELS)
    project.leave()
    project.write("shop/models.py", WITHOUT_OUTBOXES)
    project.apply(migrate)
    assert set(project.query(OURS)) == tables - SHOP

    # When nobody says yes, then nothing is removed
    assert project.leave()["removed"] == []
    assert "Type leave" in project.manage("pipeline leave")
    assert set(project.query(OURS)) == tables - SHOP
    project.apply(remove)
    assert project.query(OURS) == []
    assert "pip uninstall towpath" in project.leave()["next"]
    assert stored(clickhouse) == (1353, 1353)

    # When the package is gone
    settings = project.folder / "mysite" / "settings.py"
    text = settings.read_text().replace("from towpath.conf.settings import *\n", "")
    text = text.replace('"towpath", "django_dramatiq", ', "").replace("MIDDLEWARE += ", "_ = ")
    settings.write_text(text)
    project.run(uninstall.text)
    project.run("python -c 'import towpath'", exit_code=1)

    # Then the project migrates, its old database and a new one, and has no more to make
    assert "No migrations to apply" in project.manage("migrate")
    project.manage("migrate", DATABASE="leaving_new")
    assert "No changes detected" in project.manage("makemigrations --check --dry-run")
    assert "towpath" not in "".join(path.read_text() for path in project.folder.glob("shop/migrations/0*.py"))


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.timeout(300)
def test_the_tables_are_not_removed_under_whoever_needs_them(project: Project) -> None:
    # Given a project without a class that would need the tables
    project.write("shop/models.py", WITHOUT_OUTBOXES)
    project.manage("makemigrations shop")
    project.manage("migrate")
    tables = project.query(OURS)

    # When a dispatcher works
    project.start("python manage.py pipeline run dispatcher")
    eventually(lambda: project.query("SELECT name FROM pipeline_shift") != [], seconds=60)

    # Then nothing is removed
    assert "A dispatcher is still running (shifts: " in project.manage("pipeline leave --yes", exit_code=1)
    assert project.query(OURS) == tables

    # Nor when something of another app would be taken back with it
    project.stop()
    (made,) = (project.folder / "shop" / "migrations").glob("0002*.py")
    made.write_text(made.read_text().replace("dependencies = [", "dependencies = [('towpath', '0001_initial'), "))
    assert "shop.0002" in project.manage("pipeline leave --yes", exit_code=1)
    assert project.query(OURS) == tables
