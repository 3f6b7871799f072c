"""Somebody who is signed in, with a browser. What it complains of is remembered: none of it may be."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from axe_playwright_python.sync_playwright import Axe
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore

from deploy.local.errors import LocalStackError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright, Request

    from backend.users.models import User

#: The machine's own; no browser is fetched for the tests.
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDE, NARROW = (1440, 1000), (390, 844)
#: What keeps somebody from using a page.
_GRAVE = {"serious", "critical"}


@dataclass(slots=True)
class Visitor:
    """A page of a browser, and what has gone wrong on it."""

    page: Page
    web_url: str
    complaints: list[str] = field(default_factory=list)

    def go(self, path: str) -> None:
        """Open a page of the explorer's, and return when all of it is there."""
        self.page.goto(f"{self.web_url}{path}")
        self.wait()

    def wait(self) -> None:
        """Return when the page has its bars and its filters, as far as it has places for them."""
        self.page.locator("#main").wait_for()
        if self.page.locator("#histogram:not([data-off])").count():
            self.page.locator("#histogram[data-counted]").wait_for()
        if self.page.locator("#facets").count():
            self.page.locator("#facets.is-there").wait_for(state="attached")

    def listen(self) -> None:
        """Remember what the browser complains of from now on."""
        # A page that is left takes back what it has asked for.
        aborted = "net::ERR_ABORTED"

        def hear_console(message: ConsoleMessage) -> None:
            if message.type == "error":
                self.complaints.append(message.text)

        def hear_request(request: Request) -> None:
            if request.failure != aborted:
                self.complaints.append(f"{request.url}: {request.failure}")

        self.page.on("console", hear_console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", hear_request)

    def grave_barriers(self) -> list[str]:
        """What axe finds that would keep somebody from using the page."""
        violations: list[dict[str, Any]] = Axe().run(self.page).response["violations"]
        return [
            f"{one['id']}: {node['target']} {node['failureSummary']}"
            for one in violations
            if one["impact"] in _GRAVE
            for node in one["nodes"]
        ]


def start_browser(playwright: Playwright) -> Browser:
    """Chromium, which works as root in a container too. Raises LocalStackError if this machine has none."""
    path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if path is None:
        raise LocalStackError("The pages are tested in Chromium, which is missing here. Type: apt install chromium")
    return playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])


def visitor(
    browser: Browser,
    user: User,
    *,
    web_url: str,
    size: tuple[int, int] = WIDE,
    theme: Literal["light", "dark"] = "light",
    time_zone: str = "Europe/Berlin",
) -> Visitor:
    """The user in front of a window of this size."""
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=theme,
        timezone_id=time_zone,
        reduced_motion="reduce",
        device_scale_factor=1 if size == WIDE else 2,
    )
    context.set_default_timeout(15_000)
    context.add_cookies([{"name": "sessionid", "value": _session(user), "url": web_url}])
    found = Visitor(context.new_page(), web_url)
    # Code that writes inline would only be told in the console; this hears of every report.
    found.page.add_init_script(
        "addEventListener('securitypolicyviolation', (event) => console.error(`CSP ${event.violatedDirective}`))"
    )
    found.listen()
    return found


def _session(user: User) -> str:
    """The key of a session of the user's. To sign in would be an event in the log that is looked at."""
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()
    return str(session.session_key)
