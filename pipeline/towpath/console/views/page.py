"""The page, and its live part: the same template, so that a refresh shows what a visit would."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from django.shortcuts import render

from towpath.conf.current import config
from towpath.console.flow import stages
from towpath.console.lines import HEIGHT, WIDTH, line
from towpath.console.models import OPERATE
from towpath.console.seen import MINUTES, NotSeen, Seen, look
from towpath.console.verdict import verdict
from towpath.console.views.access import for_viewers
from towpath.console.wording import UNKNOWN, count, seconds
from towpath.outbox.models import all_outboxes
from towpath.pages.frame import frame
from towpath.watch.thresholds import level_of_age, worst

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse

#: The page asks again after this long, and says that its numbers are old after several times as long.
EVERY_SECONDS = 5
_OLD_SECONDS = 15


@for_viewers
def page(request: HttpRequest) -> HttpResponse:
    """All of it."""
    return render(request, "towpath/console/page.html", frame(request, here="Pipeline") | _found(request))


@for_viewers
def live(request: HttpRequest) -> HttpResponse:
    """What changes, for a page that is open."""
    return render(request, "towpath/console/_live.html", _found(request))


def _found(request: HttpRequest) -> dict[str, Any]:
    context: dict[str, Any] = {
        "may_operate": request.user.has_perm(OPERATE),
        "every": EVERY_SECONDS,
        "management_url": _link(config().rabbitmq_management_url),
        "old": _OLD_SECONDS,
    }
    try:
        seen = look()
    except NotSeen as error:
        return context | {"not_seen": str(error)}
    return context | _shown(seen)


def _link(url: str) -> str:
    """The URL, if it is one that a page may lead to: a password in it is not for everybody who looks."""
    try:
        is_one = urlsplit(url).scheme in {"http", "https"} and "@" not in urlsplit(url).netloc
    except ValueError:
        return ""
    return url if is_one else ""


def _shown(seen: Seen) -> dict[str, Any]:
    now = datetime.now(UTC)
    figures, ledger = seen.status.figures, seen.status.figures.ledger
    found = verdict(seen.status)
    age = figures.oldest_age_seconds
    pauses = {pause.outbox: pause for pause in ledger.pauses}
    return {
        "seen": seen,
        "read_at": seen.read_at,
        "age_seconds": (now - seen.read_at).total_seconds(),
        "figures": figures,
        "ledger": ledger,
        "verdict": found,
        "age": age,
        "age_shown": seconds(age or 0.0) if age is not None or figures.is_age_known else UNKNOWN,
        "age_level": worst(level_of_age(age), "ok" if figures.is_age_known else "warn"),
        "stages": stages(seen, found),
        "lately": seen.status.lately,
        "waiting": count(figures.waiting) if figures.are_outboxes_read else UNKNOWN,
        "width": WIDTH,
        "height": HEIGHT,
        "stored_line": _line(seen, now, lambda minute: minute.stored_per_second, least_top=1),
        "typical_line": _line(seen, now, lambda minute: minute.typical_seconds, least_top=1),
        "age_line": _line(seen, now, lambda minute: minute.oldest_age_seconds or 0.0, least_top=5),
        "waiting_line": _line(seen, now, lambda minute: minute.pending + minute.in_flight, least_top=10),
        "outboxes": [
            (name, outbox, ledger.last_dispatches.get(name), pauses.get(name), level_of_age(outbox.oldest_age_seconds))
            for name, outbox in figures.outboxes.items()
        ],
        "unread_outboxes": [name for name in all_outboxes() if name not in figures.outboxes],
        "pause_of_all": pauses.get(""),
        "windows": ledger.open_windows.oldest,
        "more_windows": max(0, ledger.open_windows.total - len(ledger.open_windows.oldest)),
    }


def _line(seen: Seen, now: datetime, value: Any, *, least_top: float) -> Any:
    return line(seen.minutes, value, now=now, span_minutes=MINUTES, least_top=least_top)
