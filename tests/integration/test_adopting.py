"""docs/adopting.md, word for word, on a fresh project."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from datetime import UTC, datetime, timedelta
from hashlib import md5
from typing import TYPE_CHECKING, Any

import pytest
from django import get_version
from django.db import connection
from django.db.backends.postgresql.psycopg_any import is_psycopg3

from deploy.local.process import PROJECT
from tests.clickhouse import database_of, url_of
from tests.integration.foreign_project import ForeignProject, blocks, variables_of
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from clickhouse_connect.driver.client import Client

    from tests.services import Services

#: What the project has already: a table of its own, and an insert in the request.
OLD_LOG = """
import os
import clickhouse_connect

def insert_into_old_log(event_type, event_date_time, event_context):
    client = clickhouse_connect.get_client(dsn=os.environ["OLD_LOG_URL"])
    client.insert(
        "old_event_log",
        [[event_type, event_date_time, event_context]],
        column_names=["event_type", "event_date_time", "event_context"],
    )
    client.close()
"""
CREATE_OLD_TABLE = """
CREATE TABLE mysite.old_event_log (event_type String, event_date_time DateTime64(3, 'UTC'), event_context String)
ENGINE = MergeTree ORDER BY event_date_time
"""
#: Prints the version of Django, and whether the driver is psycopg 3.
VERSIONS = """
from django import get_version
from django.db.backends.postgresql.psycopg_any import is_psycopg3
print(get_version(), is_psycopg3)
"""
#: README.md says so. Nothing is downloaded here, and nobody reads.
MOST_SECONDS_OF_THE_PAGE = 180
#: No service listens there.
NOWHERE = {"TOWPATH_RABBITMQ_URL": "amqp://127.0.0.1:9", "TOWPATH_EVENT_STORE_URL": "clickhouse://127.0.0.1:9/default"}


@pytest.fixture
def clickhouse(services: Services) -> Iterator[Client]:
    with database_of(services.clickhouse, "mysite") as client:
        client.command(CREATE_OLD_TABLE)
        yield client


@pytest.fixture
def project(services: Services, clickhouse: Client, tmp_path: Path) -> Iterator[ForeignProject]:
    assert clickhouse.ping()
    environment = {
        **variables_of(services, database="mysite"),
        "OLD_LOG_URL": url_of(services.clickhouse, database="mysite", scheme="http"),
        "TOWPATH_ENVIRONMENT": "adopted",
        # A host's own, which mean nothing to Towpath.
        "DEBUG": "django:*",
        "TRACING": "datadog",
        "METRICS_PORT": "tcp://10.0.0.1:80",
        "ENVIRONMENT": "theirs",
    }
    folder = tmp_path / "mysite"
    folder.mkdir()
    with connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE mysite")
        with ForeignProject(folder, environment) as project:
            (folder / "mysite" / "old_log.py").write_text(OLD_LOG)
            yield project
        cursor.execute("DROP DATABASE mysite WITH (FORCE)")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the first block of the page leaves: the tests of the other blocks begin with it."""
    folder = tmp_path_factory.mktemp("first") / "mysite"
    folder.mkdir()
    with ForeignProject(folder, {}) as project:
        project.apply(next(blocks("adopting.md")))
        return project.installed


def shell(project: ForeignProject, code: str) -> None:
    project.run(shlex.join(["python", "manage.py", "shell", "-c", f"from mysite.accounts import *\n{code}"]))


def stored(clickhouse: Client) -> list[tuple[Any, ...]]:
    rows = clickhouse.query(
        "SELECT outbox, event_type, environment, event_context, metadata_version FROM mysite.event_log"
        " WHERE event_type NOT IN ('log_read', 'ledger_sealed') ORDER BY event_context"
    )
    return [tuple(row) for row in rows.result_rows]


def rows_of(*names: str) -> list[tuple[Any, ...]]:
    return [("outbox_event", "account_opened", "adopted", f'{{"name":"{name}"}}', 1) for name in names]


def set_up(project: ForeignProject, installed: Path) -> None:
    """Install it, and change the settings as the page says."""
    shutil.copytree(installed, project.installed)
    for block in blocks("adopting.md"):
        if block.action in {"prepend", "append"}:
            project.apply(block)


def compare(project: ForeignProject, *, exit_code: int) -> dict[str, Any]:
    now = datetime.now(UTC)
    since, until = now - timedelta(days=1), now + timedelta(minutes=1)
    period = f"--since {since:%Y-%m-%dT%H:%M:%S} --until {until:%Y-%m-%dT%H:%M:%S}"
    command = f"python manage.py eventlog compare --with old_event_log {period} --json"
    printed = project.run(command, exit_code=exit_code)
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.timeout(600)
def test_a_fresh_project_adopts_towpath_by_the_page_and_compares_its_logs(
    project: ForeignProject, clickhouse: Client, record_testsuite_property: Callable[[str, object], None]
) -> None:
    # Given a project with the Django and the driver of these tests
    assert project.run(shlex.join(["python", "-c", VERSIONS])) == f"{get_version()} {is_psycopg3}\n"
    # And every block of the page applied to it, in order
    began = time.monotonic()
    for block in blocks("adopting.md"):
        if "pipeline run scheduler" in block.text:
            # By then the first event is in the log, as the page has it
            eventually(lambda: project.are_all_running() and stored(clickhouse) == rows_of("first"), seconds=60)
            assert "DEBUG" not in project.printed()
            project.stop()
        project.apply(block, environment=NOWHERE if "manage.py test" in block.text else None)
    assert project.are_all_running()
    seconds = time.monotonic() - began
    record_testsuite_property("seconds_of_the_page", round(seconds))
    assert seconds < MOST_SECONDS_OF_THE_PAGE
    shell(project, """insert_into_old_log("account_opened", timezone.now(), '{"name":"first"}')""")

    # When it publishes
    shell(project, "open_account('ada'); open_account('bob')")

    # Then the pipeline delivers to the real store
    expected = rows_of("ada", "bob", "first")
    eventually(lambda: project.are_all_running() and stored(clickhouse) == expected, seconds=180)
    # And the old log has the same events
    assert compare(project, exit_code=0)["missing"] == {"here": 0, "there": 0}

    # When one is only published, and another only inserted
    shell(project, "with transaction.atomic(): publish(AccountOpened(name='only here'))")
    shell(
        project,
        "event = AccountOpened(name='only there')\n"
        "insert_into_old_log(event.event_type, timezone.now(), event.model_dump_json())",
    )
    eventually(lambda: project.are_all_running() and len(stored(clickhouse)) == 4, seconds=60)

    # Then the comparison names both, each with its side
    found = compare(project, exit_code=1)
    assert sorted((one["side"], one["event_type"], one["md5"], one["rows"]) for one in found["differences"]) == [
        ("here", "account_opened", md5(b'{"name":"only here"}', usedforsecurity=False).hexdigest(), 1),
        ("there", "account_opened", md5(b'{"name":"only there"}', usedforsecurity=False).hexdigest(), 1),
    ]


def test_a_project_that_left_a_step_out_is_told_which(project: ForeignProject, installed: Path) -> None:
    # Given a project without the settings, and with the database of `startproject`
    settings = project.folder / "mysite" / "settings.py"
    _, _, apps, *_ = blocks("adopting.md")
    shutil.copytree(installed, project.installed)
    project.apply(apps)

    without_settings = project.run("python manage.py check", exit_code=1)
    settings.write_text("from towpath.conf.settings import *\n" + settings.read_text())
    with_sqlite = project.run("python manage.py migrate", exit_code=1)

    assert "write `from towpath.conf.settings import *` at their top" in without_settings
    assert "(pipeline.E001) The default database is sqlite" in with_sqlite
    assert "HINT: Use PostgreSQL 13 or later for the project's default database." in with_sqlite


def test_a_project_is_told_the_variables_by_the_names_that_it_sets(project: ForeignProject, installed: Path) -> None:
    """The sample's have no prefix."""
    set_up(project, installed)

    nothing_there = project.run("python manage.py eventlog migrate", exit_code=1, environment=NOWHERE)
    doctor = project.run("python manage.py pipeline doctor", exit_code=1, environment=NOWHERE)

    assert "Check TOWPATH_EVENT_STORE_URL." in nothing_there
    assert "start it, or correct TOWPATH_EVENT_STORE_URL" in doctor
    assert "start it, or correct TOWPATH_RABBITMQ_URL" in doctor


#: In a project that traces: the spans of one request.
SPANS = """
from django.test import Client
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
assert Client(HTTP_HOST="localhost").get("/admin/login/").status_code == 200
print([span.name for span in spans.get_finished_spans()])
"""


def test_the_requests_of_a_project_that_traces_have_spans(project: ForeignProject, installed: Path) -> None:
    set_up(project, installed)
    command = shlex.join(["python", "manage.py", "shell", "--no-imports", "-c", SPANS])

    traced = project.run(command, environment={"TOWPATH_TRACING": "true"})
    untraced = project.run(command)

    assert traced.splitlines()[-1] == "['GET admin/login/']"
    assert untraced.splitlines()[-1] == "[]"


def test_a_project_may_keep_its_event_log_beside_its_own_database(project: ForeignProject, installed: Path) -> None:
    set_up(project, installed)
    url = {"TOWPATH_EVENT_STORE_URL": "postgresql:///mysite_events"}

    with connection.cursor() as cursor:
        try:
            project.run("python manage.py eventlog migrate", environment=url)

            project.run("python manage.py eventlog status", environment=url)  # all applied, or it would fail
            cursor.execute("SELECT count(*) FROM pg_database WHERE datname = 'mysite_events'")
            assert cursor.fetchone() == (1,)
        finally:
            cursor.execute("DROP DATABASE IF EXISTS mysite_events WITH (FORCE)")


def test_the_readme_says_how_long_the_page_s_commands_take_at_most() -> None:
    assert f"run for {MOST_SECONDS_OF_THE_PAGE // 60} minutes at most" in (PROJECT / "README.md").read_text()


def test_the_page_names_the_comparison_and_every_block_has_its_mark() -> None:
    page = (PROJECT / "docs" / "adopting.md").read_text(encoding="utf-8")

    assert "python manage.py eventlog compare --with old_event_log --since" in page
    # All but that one are tried, the variables of a developer's machine, and what is asked of the event store.
    assert page.count("\n```") // 2 == len(list(blocks("adopting.md"))) + 3
