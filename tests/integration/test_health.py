"""What the web process says about itself to machines and to people."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from django.test import Client

from backend.config import health
from backend.users.models import User
from pipeline.doctor import Finding
from tests.integration.scraping import get
from tests.integration.workers import Workers
from tests.services import Services

#: Nobody listens on port 1.
OTHERS_DOWN = {"RABBITMQ_URL": "amqp://127.0.0.1:1", "EVENT_STORE_URL": "clickhouse://127.0.0.1:1/default"}
POSTGRES_DOWN = {"DATABASE_URL": "postgresql://towpath:hunter2-hunter2@127.0.0.1:1/towpath"}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is remembered of the test before."""
    monkeypatch.setattr(health, "_examination", health._Examination())
    health._migrated.clear()
    yield
    health._migrated.clear()


def full(client: Client) -> tuple[int, dict[str, Any]]:
    response = client.get("/readyz?full=1")
    answer: dict[str, Any] = json.loads(response.content)
    return response.status_code, answer


def test_the_web_process_is_ready_while_rabbitmq_and_the_event_store_are_down(
    workers: Workers, services: Services
) -> None:
    workers.web(**OTHERS_DOWN)
    workers.wait_until_ready()
    url = f"http://127.0.0.1:{services.web_port}"

    assert get(f"{url}/healthz") == (200, "ok\n")
    assert get(f"{url}/readyz") == (200, "ready\n")
    assert get(f"{url}/metrics")[0] == 200

    status, text = get(f"{url}/readyz?full=1")
    found = {check["check"]: check["is_ok"] for check in json.loads(text)["checks"]}
    assert status == 503
    assert (found["PostgreSQL"], found["RabbitMQ"], found["event store"]) == (True, False, False)


def test_a_web_process_without_its_database_lives_but_is_not_ready(workers: Workers, services: Services) -> None:
    workers.web(**POSTGRES_DOWN)
    workers.wait_until_ready()
    url = f"http://127.0.0.1:{services.web_port}"

    assert get(f"{url}/healthz") == (200, "ok\n")
    status, text = get(f"{url}/readyz")
    assert (status, text.split(":")[0]) == (503, "PostgreSQL does not answer")
    assert get(f"{url}/metrics")[0] == 503
    status, text = get(f"{url}/readyz?full=1")
    assert status == 503
    assert not json.loads(text)["is_ok"]


def test_a_web_process_whose_migrations_are_missing_is_not_ready() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE django_migrations SET app = 'away' WHERE app = 'pipeline'"
            " AND name = (SELECT max(name) FROM django_migrations WHERE app = 'pipeline')"
        )
    try:
        response = Client().get("/readyz")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE django_migrations SET app = 'pipeline' WHERE app = 'away'")

    assert response.status_code == 503
    assert b"manage.py migrate" in response.content
    assert Client().get("/readyz").status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_machines_are_answered_by_whatever_name_they_call(path: str) -> None:
    assert Client().get(path, headers={"host": "10.1.2.3:8000"}).status_code == 200
    assert Client().get("/api/docs", headers={"host": "10.1.2.3:8000"}).status_code == 400


def test_the_details_of_a_full_examination_are_for_staff() -> None:
    anonymous, staff, user = Client(), Client(), Client()
    staff.force_login(User.objects.create_superuser("root@example.com", "secret", first_name="R", last_name="R"))
    user.force_login(User.objects.create(email="user@example.com", first_name="U", last_name="U"))

    assert all("detail" not in check for check in full(anonymous)[1]["checks"])
    assert all("detail" not in check for check in full(user)[1]["checks"])
    details = {check["check"]: check["detail"] for check in full(staff)[1]["checks"]}
    assert "no dispatch shift has ever run" in details["shifts"]


def test_a_full_examination_is_not_made_for_each_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    made = itertools.count()

    def examined() -> list[Finding]:
        return [Finding("so often", True, str(next(made)))]

    monkeypatch.setattr(health, "examine", examined)

    for _ in range(5):
        full(Client())

    assert next(made) == 1
