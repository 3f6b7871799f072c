"""Figure 4: what an event costs the request that publishes it."""

from __future__ import annotations

import contextlib
import itertools
import time
import uuid
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest import mock

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from backend.users.models import OutboxUser, User
from backend.users.use_cases import CreateUser, CreateUserRequest, UserCreated
from tests.benchmarks.figure import Bound, Figure, Partner, in_turns, measured
from tests.benchmarks.partners import STORED_COLUMNS
from towpath import Event, publish, publish_many
from towpath.outbox.models import OutboxEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.benchmarks.lab import Lab

#: The sides take turns every so many calls, so that a busy moment of the machine meets all of them.
_CALLS_PER_TURN = 25

_numbers = itertools.count()


class Measured(Event):
    """An event of ordinary size."""

    text: str
    number: int


def publishing(lab: Lab) -> list[Figure]:
    """Times of a call, and of an event in a bulk."""
    return [*_create_user(lab), *_publish_many(lab)]


def _create_user(lab: Lab) -> list[Figure]:
    lab.clear()
    sides: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
        "without an event": _without_event,
        "with its outbox row": contextlib.nullcontext,
        "with a synchronous ClickHouse insert": lambda: _with_synchronous_insert(lab),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        with side():
            _create_one()  # connections made
    for _ in range(max(1, lab.sizes.repeats)):
        totals = dict.fromkeys(sides, 0.0)
        for _ in range(max(1, lab.sizes.publish_calls // _CALLS_PER_TURN)):
            for name, side in sides.items():
                with side():
                    began = time.perf_counter()
                    for _ in range(_CALLS_PER_TURN):
                        _create_one()
                    totals[name] += time.perf_counter() - began
        calls = max(1, lab.sizes.publish_calls // _CALLS_PER_TURN) * _CALLS_PER_TURN
        for name, total in totals.items():
            seconds[name].append(total / calls)
            lab.say(f"    CreateUser {name:<38} {total / calls * 1e3:8.3f} ms")
    # The sides are what they say: one event per call, and none where there should be none.
    assert OutboxUser.objects.count() * 3 == User.objects.count()
    with_row = [value * 1e3 for value in seconds["with its outbox row"]]
    without = [value * 1e3 for value in seconds["without an event"]]
    synchronous = [value * 1e3 for value in seconds["with a synchronous ClickHouse insert"]]
    return [
        measured(
            "publish: CreateUser",
            with_row,
            unit="ms",
            partner=Partner(name="without an event, ms", values=without),
            bound=Bound("at most", 1.15),
        ),
        measured(
            "publish: CreateUser with a synchronous insert",
            synchronous,
            unit="ms",
            partner=Partner(name="with its outbox row, ms", values=with_row),
            bound=Bound("at least", 5),
        ),
    ]


def _create_one() -> None:
    outcome = CreateUser().execute(
        CreateUserRequest(email=f"u{next(_numbers)}@example.com", first_name="Ada", last_name="Lovelace")
    )
    assert outcome.result is not None


def _with_insert(create: Callable[..., None]) -> contextlib.AbstractContextManager[object]:
    """`create` in place of the INSERT that publishes a user."""
    return mock.patch.object(OutboxUser.objects, "using", return_value=SimpleNamespace(create=create))


def _without_event() -> contextlib.AbstractContextManager[object]:
    """The same code path, minus the INSERT of the outbox row."""
    return _with_insert(lambda *, user: None)  # noqa: ARG005 - the name is create()'s


def _with_synchronous_insert(lab: Lab) -> contextlib.AbstractContextManager[object]:
    """The event goes into the store before the request is answered, in place of the outbox row."""

    def insert(*, user: User) -> None:
        context = UserCreated(email=user.email, first_name=user.first_name, last_name=user.last_name).model_dump_json()
        row = (
            "direct",
            user.id,
            uuid.uuid4(),
            "user_created",
            timezone.now(),
            settings.TOWPATH.environment,
            1,
            context,
        )
        lab.clickhouse.insert("event_log", [row], column_names=STORED_COLUMNS, settings={"async_insert": 0})

    return _with_insert(insert)


def _publish_many(lab: Lab) -> list[Figure]:
    many, single = lab.sizes.publish_many_events, lab.sizes.publish_calls

    def in_bulk() -> float:
        events = [Measured(text="x" * 40, number=n) for n in range(many)]
        began = time.perf_counter()
        with transaction.atomic():
            publish_many(events)
        return (time.perf_counter() - began) / many * 1e6

    def one_by_one() -> float:
        events = [Measured(text="x" * 40, number=n) for n in range(single)]
        began = time.perf_counter()
        for event in events:
            with transaction.atomic():
                publish(event)
        return (time.perf_counter() - began) / single * 1e6

    lab.clear()
    one_by_one(), in_bulk()  # both warm
    values = in_turns(
        {"one by one": one_by_one, f"publish_many({many:,})": in_bulk},
        repeats=lab.sizes.repeats,
        say=lab.say,
        unit="µs an event",
    )
    assert OutboxEvent.objects.count() == (lab.sizes.repeats + 1) * (many + single)
    bulk, alone = values[f"publish_many({many:,})"], values["one by one"]
    return [
        measured(f"publish: publish_many({many:,})", bulk, unit="µs an event"),
        measured(
            "publish: one by one, a transaction each",
            alone,
            unit="µs an event",
            partner=Partner(name="publish_many, µs", values=bulk),
            bound=Bound("at least", 20),
        ),
    ]
