"""A real browser in front of the real web process and event store."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from django.contrib.auth.models import Permission
from playwright.sync_api import sync_playwright

from backend.users.models import User
from tests.browser import demo
from tests.browser.visitor import Visitor, start_browser, visitor
from tests.integration.conftest import (  # noqa: F401 - fixtures
    django_db_setup,
    event_log,
    everything_empty,
    quick_passwords,
    store,
    workers,
)
from tests.integration.workers import ForkedProcess, Workers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

    from tests.services import Services
    from towpath.eventlog.store import Store

#: Of the day that `ada` looks at.
EVENTS = 4_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Closed with each file: its loop of events would run in the tests of others, too."""
    # Playwright's calls are synchronous, in a loop of events of its own; Django takes that for asynchronous code.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"
    with sync_playwright() as playwright:
        found = start_browser(playwright)
        yield found
        found.close()
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@pytest.fixture(scope="module")
def web_url(services: Services, request: pytest.FixtureRequest) -> Iterator[str]:
    """Where the application answers, in all tests of a file: it keeps nothing of one for the next."""
    request.getfixturevalue("django_db_setup")
    with Workers(services, log_folder=services.folder / "log" / "browser", kind=ForkedProcess) as started:
        started.web(ENVIRONMENT="production")
        started.wait_until_ready()
        yield f"http://127.0.0.1:{services.web_port}"


@pytest.fixture
def reader() -> User:
    """Somebody who may read events and nothing else."""
    user = User.objects.create(email="ada@example.com", first_name="Ada", last_name="L", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_events"))
    return user


@pytest.fixture
def ada(web_url: str, browser: Browser, reader: User, store: Store) -> Visitor:  # noqa: F811 - the fixture
    """A reader, who looks at a day of events."""
    demo.store_day(store, datetime.now(UTC), count=EVENTS)
    return visitor(browser, reader, web_url=web_url)
