"""Failpoints: places between two stages where a test can kill the process, or make it stall or fail.

They do nothing unless armed (FAILPOINTS). `sealed=kill@3,written=sleep:2` kills this process (SIGKILL) at the third
passage of `sealed`, and sleeps two seconds at every passage of `written`. Actions: kill, raise, sleep:SECONDS, stop
(SIGSTOP).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Literal, get_args

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


class FailpointReached(Exception):
    """Raised by a failpoint whose action is `raise`."""


@dataclass(frozen=True, slots=True)
class _Action:
    name: str
    argument: float
    passage: int | None


_actions: dict[str, _Action] = {}
_passages: Counter[str] = Counter()
_counting = threading.Lock()

#: The signal stops the process, but not immediately the thread that sent it, which must not reach the next stage.
_STOP_TAKES_SECONDS = 0.2


def arm(text: str) -> None:
    """Take these actions from now on. Raises ImproperlyConfigured when one cannot be read."""
    _actions.clear()
    _actions.update(_parse(text))


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


def reach(point: Failpoint) -> None:
    """Called between two stages."""
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
