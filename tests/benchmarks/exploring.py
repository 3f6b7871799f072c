"""The explorer over 10 million events: pages, bars, filters and an export, over HTTP as a browser asks for them."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import statistics
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from deploy.local.application import Application
from tests.benchmarks.figure import Bound, Figure, measured
from tests.benchmarks.many_events import COLUMNS, events
from tests.ports import any_free_port
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.lab import Lab

_BLOCK = 250_000
_ASKED = 30
#: Of the issue that asked for the explorer, in milliseconds: 95 of 100 answers come within it.
_DAY, _MONTH, _WORD = Bound("at most", 300), Bound("at most", 800), Bound("at most", 1000)
_EXPORT = Bound("at least", 50_000)
#: What a first page is of, and its query. A type's number says how rare it is: 51 is one event in half a million.
_SEARCHES = (
    ("everything", ""),
    ("a common type", "type:type_01"),
    ("a rare type", "type:type_51"),
    ("a word", "declined"),
)
_RANGES = (("1 h", "1h", _DAY), ("24 h", "24h", _DAY), ("30 d", "30d", _MONTH))
#: Name, path, bound.
_PAGES: tuple[tuple[str, str, Bound | None], ...] = (
    *(
        (f"first page of {what}, {words}", f"/events/?range={name}&q={query}", _WORD if what == "a word" else bound)
        for what, query in _SEARCHES
        for words, name, bound in _RANGES
    ),
    ("first page of one actor, 30 d", "/events/?range=30d&q=actor:%22user:999983%22", _MONTH),
    ("first page of a word that is nowhere, 30 d", "/events/?range=30d&q=absentword", _WORD),
    ("histogram, 1 h, the first answer", "/events/histogram?range=1h", _DAY),
    ("histogram, 24 h, the first answer", "/events/histogram?range=24h", _DAY),
    ("histogram, 30 d, the first answer", "/events/histogram?range=30d", _MONTH),
    ("filters, 24 h", "/events/facets?range=24h", None),
)


def exploring(lab: Lab) -> list[Figure]:
    """Each page is asked for many times by one visitor, with nothing else under way."""
    rows = lab.sizes.explored_events
    lab.clear()
    end = datetime.now(UTC).replace(microsecond=0)
    _fill(lab, rows, end)
    with _visitor(lab) as ask:
        figures = [figure for name, path, bound in _PAGES for figure in _page(lab, ask, name, path, bound)]
        page = ask("/events/?range=30d").body
        link = re.search(r'href="(/events/event/[^"]+)"', page)
        following = re.search(r'hx-get="(/events/rows[^"]+)"', page)
        if link is None or following is None:
            raise AssertionError("the first page has no events")
        deep = following[1].replace("&amp;", "&")
        middle = end - timedelta(days=15)
        deep = re.sub(r"before=[^&/]+", f"before={middle:%Y-%m-%dT%H:%M:%SZ}", deep)
        figures += _page(lab, ask, "a page in the middle of 30 d", deep, _DAY)
        figures += _page(lab, ask, "permalink", link[1], _DAY)
        figures += _export(lab, ask)
    return figures


@dataclass(frozen=True, slots=True)
class _Answer:
    seconds: float
    body: str


class _Visitor:
    """Somebody who is signed in, on one connection."""

    def __init__(self, port: int, session: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._headers = {"Cookie": f"sessionid={session}"}

    def reconnect(self) -> None:
        """Before a request that comes late: the server closes a connection that nobody uses."""
        self._connection.close()

    def __call__(self, path: str) -> _Answer:
        began = time.monotonic()
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        body = answer.read()
        seconds = time.monotonic() - began
        if answer.status != http.HTTPStatus.OK:
            raise AssertionError(f"{path} answers {answer.status}: {body[:200]!r}")
        return _Answer(seconds, body.decode())


def _fill(lab: Lab, rows: int, end: datetime) -> None:
    for start in range(0, rows, _BLOCK):
        select = events(start, min(_BLOCK, rows - start), rows, end=f"{end:%Y-%m-%d %H:%M:%S}")
        lab.clickhouse.command(
            f"INSERT INTO event_log ({COLUMNS}) SELECT {COLUMNS} FROM ({select})"
            " SETTINGS max_partitions_per_insert_block = 0"
        )
    lab.say(f"    {rows:,} events of 30 days are stored")


@contextlib.contextmanager
def _visitor(lab: Lab) -> Iterator[_Visitor]:
    """The web process, and somebody who may do everything in the explorer."""
    from django.contrib.auth.models import Permission
    from django.test import Client

    from backend.users.models import User

    port = any_free_port()
    web = Application(log_folder=lab.stack.log_folder / "explorer", environment=lab.environment).web(port)
    web.start()
    try:
        user = User.objects.create(email="ada@example.com", first_name="Ada", last_name="L")
        user.user_permissions.add(*Permission.objects.filter(content_type__app_label="towpath_explorer"))
        client = Client()
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        visitor = _Visitor(port, client.cookies["sessionid"].value)
        eventually(lambda: _is_ready(port), seconds=60)
        yield visitor
    finally:
        web.stop()


def _is_ready(port: int) -> bool:
    with contextlib.suppress(OSError):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/healthz")
        return connection.getresponse().status == http.HTTPStatus.OK
    return False


def _page(lab: Lab, ask: _Visitor, name: str, path: str, bound: Bound | None) -> list[Figure]:
    ask(path)
    answers = [ask(path) for _ in range(_ASKED)]
    times = sorted(1000 * answer.seconds for answer in answers)
    p50, p95 = statistics.median(times), times[int(0.95 * len(times))]
    line = f"    {name:<48} p50 {p50:6.0f}  p95 {p95:6.0f} ms"
    figures = [
        measured(f"explorer: {name}, p50", [p50], unit="ms"),
        measured(f"explorer: {name}, p95", [p95], unit="ms", bound=bound),
    ]
    if path.startswith("/events/histogram"):
        # An answer is cut when its time is over, and the page asks for the rest.
        complete = 100 * statistics.mean(json.loads(answer.body)["is_complete"] for answer in answers)
        line += f", {complete:.0f} % complete"
        figures.append(measured(f"explorer: {name}, complete answers", [complete], unit="%"))
    lab.say(line)
    return figures


def _export(lab: Lab, ask: _Visitor) -> list[Figure]:
    figures = []
    for form in ("csv", "ndjson"):
        ask.reconnect()
        answer = ask(f"/events/export?range=30d&format={form}")
        lines = answer.body.count("\n")
        rate = lines / answer.seconds
        lab.say(f"    export as {form}: {lines:,} lines, {rate:,.0f} rows/s")
        figures.append(measured(f"explorer: export as {form}", [rate], unit="rows/s", bound=_EXPORT))
    return figures
