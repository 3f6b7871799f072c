"""The console's pictures: a stack at work, whose last two hours are made up, and then one without an aggregator.

python -m tests.browser.console_pictures [docs/images]     (`make screenshots` takes them with the others)
"""

from __future__ import annotations

import math
import os
import random
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

from deploy.local.process import PROJECT
from deploy.local.stack import Stack

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from backend.users.models import User

#: Events in a second, while pictures are taken.
_EVENTS = 400
_MINUTES = 122


def take(browser: Browser, user: User, stack: Stack, folder: Path) -> None:
    """Write the console's pictures into the folder."""
    from tests.browser.visitor import NARROW, WIDE, visitor

    web_url = stack.environment["WEB_URL"]
    _draw_history()
    is_over = threading.Event()
    traffic = threading.Thread(target=_publish, args=(is_over,), daemon=True)
    traffic.start()
    is_over.wait(12)  # so that the rate of now is that of the traffic
    for name, theme, size in (("light", "light", WIDE), ("dark", "dark", WIDE), ("narrow", "dark", NARROW)):
        ada = visitor(browser, user, web_url=web_url, size=size, theme="dark" if theme == "dark" else "light")
        ada.page.goto(f"{web_url}/pipeline/")
        ada.page.screenshot(path=folder / f"console-{name}.png")
    eve = visitor(browser, user, web_url=web_url, size=WIDE)
    while not eve.page.locator(".verdict.bad").count():
        # It is started again, in a second or two.
        stack.kill("aggregator-1")
        eve.page.goto(f"{web_url}/pipeline/")
    eve.page.screenshot(path=folder / "console-broken.png")
    is_over.set()
    traffic.join()


def _draw_history() -> None:
    from django.db import connection

    chance = random.Random(7)
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM pipeline_history")
        # The present minute, too: else the pipeline notes it, with what little there was.
        for ago in range(_MINUTES):
            stored = 60 * (_EVENTS + 90 * math.sin(ago / 14) + chance.uniform(-25, 25))
            cursor.execute(
                """
                INSERT INTO pipeline_history
                SELECT date_trunc('minute', at), at, 60, 0, %s, %s, 80, 0, 2, %s, %s
                FROM (SELECT statement_timestamp() - make_interval(mins => %s) AS at) AS moment
                ON CONFLICT DO NOTHING
                """,
                [
                    round(stored),
                    round(chance.uniform(300, 500)),
                    chance.uniform(0.5, 1.3),
                    chance.uniform(0.25, 0.5),
                    ago,
                ],
            )


def _publish(is_over: threading.Event) -> None:
    from django.db import connection

    from tests.benchmarks.traffic import publish_events

    while not is_over.wait(1):
        publish_events(_EVENTS)
    connection.close()


def main() -> int:
    """Take only these."""
    folder = Path(sys.argv[1]) if sys.argv[1:] else PROJECT / "docs" / "images"
    own_environment = {"ENVIRONMENT": "production", "CANARY_SECONDS": "60"}
    with tempfile.TemporaryDirectory() as own, Stack(Path(own), aggregators=1, environment=own_environment) as stack:
        os.environ.update(stack.environment, LOG_LEVEL="WARNING", DJANGO_ALLOW_ASYNC_UNSAFE="true")
        import django

        django.setup()
        from backend.users.models import User

        user = User.objects.create(
            email="ada@example.com", first_name="Ada", last_name="L", is_staff=True, is_superuser=True
        )
        with sync_playwright() as playwright:
            from tests.browser.visitor import start_browser

            browser = start_browser(playwright)
            take(browser, user, stack, folder)
            browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
