"""Failpoints: places between two stages where a test can make the process die, stall or fail. Nothing when unset.

`FAILPOINTS="sealed=kill@3,written=sleep:2"`: at the third passage of `sealed` SIGKILL this process; at every passage
of `written` sleep two seconds. Actions: kill, raise, sleep:SECONDS, stop (SIGSTOP).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Literal, get_args

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

Failpoint = Literal[
    "batches_inserted",  # in the dispatcher's transaction, before it commits
    "cursor_committed",  # batches and cursor are in the ledger, no message is out
    "enqueued",  # a message is confirmed
    "sealed",  # the window is in the ledger, its messages are not acked
    "loaded",
    "written",  # the event store has answered, nothing is deleted
    "acked",  # rows and batches are deleted, the receipt is there
    "message_acked",
]


class FailpointReached(Exception):  # noqa: N818
    """Raised by a failpoint whose action is `raise`."""


@dataclass(frozen=True, slots=True)
class _Action:
    name: str
    argument: float
    passage: int | None


def _parse(text: str) -> dict[str, _Action]:
    actions: dict[str, _Action] = {}
    for part in filter(None, text.split(",")):
        try:
            point, what = part.split("=")
            what, _, passage = what.partition("@")
            name, _, argument = what.partition(":")
            action = _Action(name, float(argument or 0), int(passage) if passage else None)
        except ValueError as error:
            raise ImproperlyConfigured(f"FAILPOINTS: {part!r} is not NAME=ACTION[:SECONDS][@PASSAGE]") from error
        if point not in get_args(Failpoint) or name not in {"kill", "raise", "sleep", "stop"}:
            raise ImproperlyConfigured(f"FAILPOINTS: {part!r}: the points are {', '.join(get_args(Failpoint))}")
        actions[point] = action
    return actions


#: The signal stops the process, but not at once the thread that sent it: it must not get to the next stage meanwhile.
_STOP_TAKES_SECONDS = 0.2

_actions = _parse(settings.TOWPATH.failpoints)
_passages: Counter[str] = Counter()
_counting = threading.Lock()


def _reach(point: Failpoint) -> None:
    action = _actions.get(point)
    if action is None:
        return
    with _counting:
        _passages[point] += 1
        is_due = action.passage in {None, _passages[point]}
    if not is_due:
        return
    match action.name:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(_STOP_TAKES_SECONDS)
        case "sleep":
            time.sleep(action.argument)
        case _:
            raise FailpointReached(point)


def _pass(point: Failpoint) -> None:
    """Nothing."""


#: Called between two stages.
reach = _reach if _actions else _pass
