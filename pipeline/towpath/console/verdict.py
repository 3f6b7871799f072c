"""The state in words, and what to do next: the first thing on the page, and at three in the morning the only one read.

It is made only of the problems of `pipeline status`. A problem's sentence says what is wrong first, and what to do
after a colon or a full stop. So it is cut there, and not written again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from towpath.console.runbook import Section, section_of
from towpath.watch.thresholds import Level, level_of_age, worst

if TYPE_CHECKING:
    from collections.abc import Sequence

    from towpath.watch.problems import Kind, Problem
    from towpath.watch.status import Status

#: Events flow despite these, or wait because a person wants them to.
_CAN_WAIT: frozenset[Kind] = frozenset({"pause", "vacuum", "row", "proof", "late"})
#: Where a sentence's second half begins: not inside backticks or parentheses, which stay whole.
_PARTS = re.compile(r"(?P<whole>`[^`]*`|\([^()]*\))|(?P<end>: |\. )")


@dataclass(frozen=True, slots=True)
class Trouble:
    """A problem in two halves, with the section of the runbook that is about it."""

    kind: Kind
    level: Level
    what: str
    next_step: str
    section: Section | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state in one sentence. `troubles` are the reasons; the first one is that sentence."""

    level: Level
    title: str
    troubles: Sequence[Trouble]


def verdict(status: Status) -> Verdict:
    """Return what a person should read first."""
    troubles = [trouble(problem) for problem in status.found]
    troubles.sort(key=lambda one: one.level != "bad")
    if troubles:
        level = worst(*(one.level for one in troubles), level_of_age(status.figures.oldest_age_seconds))
        return Verdict(level, troubles[0].what, troubles)
    return Verdict("ok", "Events are flowing" if status.figures.waiting else "All events are delivered", ())


def trouble(problem: Problem) -> Trouble:
    """Return a problem of `status`, cut in two."""
    for part in _PARTS.finditer(problem.text):
        if part["end"]:
            what, next_step = problem.text[: part.start()], problem.text[part.end() :]
            break
    else:
        what, next_step = problem.text, ""
    level: Level = "warn" if problem.kind in _CAN_WAIT else "bad"
    return Trouble(problem.kind, level, _capital(what), _capital(next_step), section_of(problem))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
