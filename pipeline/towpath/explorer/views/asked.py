"""What a request asks for: the state of the page, as of the moment when the page was made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from towpath.conf.current import config
from towpath.eventlog.values import nearest
from towpath.explorer.bars import moment
from towpath.explorer.state import Between, Problem, State, read
from towpath.pages.zones import as_utc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from django.http import HttpRequest


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks for. The parts of a page send the page's `now`, so that all of them show the same period."""

    state: State
    problems: Sequence[Problem]
    now: datetime

    @property
    def is_wrong(self) -> bool:
        """True if the search cannot run. Unknown columns do not prevent it."""
        return any(problem.field != "columns" for problem in self.problems)

    @property
    def bounds(self) -> Between:
        return self.state.bounds(self.now)

    @property
    def part_url(self) -> str:
        """The query part of the URLs of the page's parts."""
        return f"?{urlencode({**self.state.parameters(), 'now': as_utc(self.now)})}"


def asked(request: HttpRequest) -> Asked:
    """Return what the URL of the request asks for."""
    now = datetime.now(UTC)
    wrong: list[Problem] = []
    # The page itself sends no `now`.
    if text := request.GET.get("now", ""):
        try:
            now = moment(text).astimezone(UTC)
        except (ValueError, OverflowError):
            wrong.append(Problem("now", "now is not a time with an offset, such as 2026-11-25T21:00:00Z."))
    now = nearest(now)
    # A form sends one parameter for each column.
    parameters = request.GET.dict() | {"columns": ",".join(filter(None, request.GET.getlist("columns")))}
    state, problems = read(parameters, own=config().columns, now=now)
    return Asked(state, [*problems, *wrong], now)
