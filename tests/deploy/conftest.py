"""A deployment on the run's services, in a database, a virtual host and an event store of its own."""

from __future__ import annotations

import uuid
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import urllib3

from tests.clickhouse import database_of
from tests.deploy.compose import new_env
from tests.deploy.deployment import Deployment
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from clickhouse_connect.driver.client import Client

    from tests.services import Services

#: What must happen may take on a machine that does much else.
_WAIT_SECONDS = 90


@pytest.fixture(scope="session")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a newcomer has in `.env`."""
    return new_env(tmp_path_factory.mktemp("env"))


@pytest.fixture(scope="session")
def clickhouse(services: Services) -> Iterator[Client]:
    """The event store, past the product's own code."""
    with database_of(services.clickhouse, "deployed") as client:
        yield client


@pytest.fixture(scope="session")
def migrated(
    services: Services, variables: dict[str, str], clickhouse: Client, tmp_path_factory: pytest.TempPathFactory
) -> Deployment:
    """A deployment whose roles, tables, rights and queues are as the one-shot `migrate` leaves them."""
    assert clickhouse
    deployment = Deployment(services, variables, tmp_path_factory.mktemp("deployment"))
    deployment.create_database()
    deployment.run("migrate")
    return deployment


@pytest.fixture
def deployment(migrated: Deployment, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """Processes of a migrated deployment; what the test leaves running is killed."""
    with closing(migrated.connect_as_superuser()) as connection, connection, connection.cursor() as cursor:
        # For a minute, `status` would report what interrupted the shifts of the test before.
        cursor.execute("DELETE FROM pipeline_shift")
    folder = migrated.services.folder / "log" / request.node.name[:80]
    with Deployment(migrated.services, migrated.variables, folder) as deployment:
        yield deployment


def stored_emails(clickhouse: Client, database: str = "deployed") -> list[str]:
    """The email addresses of the events in the store, sorted, as often as they are stored."""
    rows = clickhouse.query(
        f"SELECT JSONExtractString(event_context, 'email') AS email FROM {database}.event_log ORDER BY email"
    ).result_rows
    return [str(email) for (email,) in rows if email]


def signed_up(deployment: Deployment, email: str) -> bool:
    """True if the web answers, and has the user now."""
    try:
        return deployment.sign_up(email) in {201, 409}
    except urllib3.exceptions.HTTPError:
        return False


def wait_until_an_event_is_stored(deployment: Deployment, clickhouse: Client) -> None:
    """Return when somebody has signed up, and the event has come all the way."""
    email = f"{uuid.uuid4().hex}@example.com"
    eventually(lambda: signed_up(deployment, email), seconds=_WAIT_SECONDS, what="the web answers")
    eventually(lambda: email in stored_emails(clickhouse), seconds=_WAIT_SECONDS, what="the event is stored")
