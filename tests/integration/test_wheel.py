"""The wheel, in a project that has names of its own where ours might be."""

from __future__ import annotations

import json
import shutil
import zipfile
from typing import TYPE_CHECKING

import pytest
from django.db import connection

from tests.clickhouse import database_of
from tests.integration.foreign_project import ForeignProject, variables_of
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clickhouse_connect.driver.client import Client

    from tests.services import Services

_SETTINGS = """
INSTALLED_APPS += ["towpath", "django_dramatiq", "backend", "pipeline"]
PIPELINE = {}  # django-pipeline's
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": "wheel"}}
"""
_MODELS = """
from towpath import Event
from towpath.outbox.models import FrozenOutbox

class OrderPlaced(Event):
    number: int

class OutboxEvent(FrozenOutbox):
    events = (OrderPlaced,)
"""
_ACTORS = """
import dramatiq

@dramatiq.actor
def verify(): ...

@dramatiq.actor(queue_name="aggregate")
def aggregate(): ...
"""
_PUBLISH = """
from backend.models import OrderPlaced
from django.db import transaction
from towpath import publish
with transaction.atomic():
    publish(OrderPlaced(number=7))
"""


@pytest.fixture
def clickhouse(services: Services) -> Iterator[Client]:
    with database_of(services.clickhouse, "wheel") as client:
        yield client


@pytest.fixture
def project(services: Services, clickhouse: Client, tmp_path: Path) -> Iterator[ForeignProject]:
    assert clickhouse.ping()
    folder = tmp_path / "mysite"
    for package in ("backend", "backend/migrations", "pipeline"):
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").touch()
    (folder / "backend" / "models.py").write_text(_MODELS)
    (folder / "backend" / "actors.py").write_text(_ACTORS)
    with connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE wheel")
        with ForeignProject(folder, variables_of(services, database="wheel")) as project:
            settings = folder / "mysite" / "settings.py"
            settings.write_text("from towpath.conf.settings import *\n" + settings.read_text() + _SETTINGS)
            yield project
        cursor.execute("DROP DATABASE wheel WITH (FORCE)")


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.timeout(300)
def test_the_wheel_takes_no_name_but_its_own(project: ForeignProject, clickhouse: Client) -> None:
    # Given the wheel, in which there is one package
    project.run("pip wheel --no-deps --wheel-dir dist ../towpath")
    (wheel,) = (project.folder / "dist").glob("*.whl")
    files = zipfile.ZipFile(wheel).namelist()
    names = {name.partition("/")[0] for name in files}
    assert {name for name in names if not name.endswith(".dist-info")} == {"towpath"}
    assert {"pages/static/towpath/towpath.css", "explorer/templates/towpath/explorer/page.html"} <= {
        name.removeprefix("towpath/") for name in files
    }
    # And a project with packages `backend` and `pipeline`, actors `verify` and `aggregate`, a queue `aggregate`, and an
    # outbox class `OutboxEvent`
    project.run(f"pip install {wheel}")
    project.run("python manage.py makemigrations backend")
    project.run("python manage.py check")

    # When django-pipeline is in the place of its own `pipeline`
    shutil.rmtree(project.folder / "pipeline")
    project.run("python manage.py migrate")
    project.run("python manage.py eventlog migrate")
    project.start("python manage.py pipeline run dispatcher")
    project.start("python manage.py pipeline run aggregator")
    project.run(f"python manage.py shell -c '{_PUBLISH}'")

    # Then its event is delivered
    expected = [("backend_outboxevent", "order_placed", json.dumps({"number": 7}, separators=(",", ":")))]
    query = "SELECT outbox, event_type, event_context FROM wheel.event_log"
    eventually(
        lambda: project.are_all_running() and clickhouse.query(query).result_rows == expected,
        seconds=90,
    )
