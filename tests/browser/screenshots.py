"""`make screenshots`: the pictures of the documentation, from a real stack with a day of events.

    python -m tests.browser.screenshots [docs/images]

Look at each before it is committed: a picture that nobody has looked at shows whatever it likes.
"""

from __future__ import annotations

import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

from deploy.local.process import PROJECT
from deploy.local.stack import Stack
from tests.browser import console_pictures

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from backend.users.models import User
    from tests.browser.visitor import Visitor

EVENTS = 20_000
_ENVIRONMENT = {"ENVIRONMENT": "production"}


def main() -> int:
    """Write the pictures into the folder."""
    folder = Path(sys.argv[1]) if sys.argv[1:] else PROJECT / "docs" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as own, Stack(Path(own), aggregators=1, environment=_ENVIRONMENT) as stack:
        os.environ.update(stack.environment, LOG_LEVEL="WARNING", DJANGO_ALLOW_ASYNC_UNSAFE="true")
        import django

        django.setup()
        user = _fill()
        with sync_playwright() as playwright:
            from tests.browser.visitor import start_browser

            browser = start_browser(playwright)
            _take(browser, user, stack.environment["WEB_URL"], folder)
            console_pictures.take(browser, user, stack, folder)
            browser.close()
    return 0


def _fill() -> User:
    """A day of events that the pipeline has carried, verified and sealed, and somebody who may see everything."""
    from backend.users.models import User
    from tests.browser import demo
    from tests.waiting import eventually
    from towpath.conf.current import config
    from towpath.flow.verify import verify_receipts
    from towpath.outbox.models import OutboxEvent
    from towpath.proof.sealing import seal_all
    from towpath.wiring import event_store

    demo.publish_day(datetime.now(UTC), count=EVENTS)
    eventually(lambda: not OutboxEvent.objects.exists(), seconds=120, what="all is delivered")
    store = event_store(config())
    verify_receipts(store, should_stop=lambda: False)
    store.close()
    list(seal_all(key=""))
    return User.objects.create(
        email="ada@example.com", first_name="Ada", last_name="L", is_staff=True, is_superuser=True
    )


def _take(browser: Browser, user: User, web_url: str, folder: Path) -> None:
    from tests.browser.visitor import NARROW, WIDE, visitor

    for theme in ("light", "dark"):
        ada = visitor(browser, user, web_url=web_url, size=WIDE, theme="dark" if theme == "dark" else "light")
        ada.go("/events/?q=environment:production+-type:heartbeat")
        _open(ada, "report_viewed")
        ada.page.screenshot(path=folder / f"explorer-{theme}.png")
        if theme == "light":
            ada.go("/events/?q=outcome:denied&columns=type,target,outcome,ip,context.reason,summary")
            ada.page.keyboard.press("t")
            ada.page.screenshot(path=folder / "explorer-period.png")
            ada.go("/events/?q=outcome:failure+user:7")
            ada.page.screenshot(path=folder / "explorer-error.png")
    bob = visitor(browser, user, web_url=web_url, size=NARROW, theme="dark")
    bob.go("/events/")
    bob.page.screenshot(path=folder / "explorer-narrow.png")


def _open(ada: Visitor, event_type: str) -> None:
    """Open an event of this type, and wait for what is around it."""
    ada.page.locator(f"#rows .row[data-event-type={event_type}]").first.click()
    ada.page.locator("#drawer .chips .faint").first.wait_for()
    ada.page.mouse.move(0, 0)


if __name__ == "__main__":
    sys.exit(main())
