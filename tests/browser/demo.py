"""A believable day of a small company: what people look at in screenshots, and search in the tests of the pages.

The same for the same end: nobody wants a picture that differs with each run.
"""

from __future__ import annotations

import json
import math
import random
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from tests.conformance.rows import copy_text
from towpath.eventlog.columns import added_columns
from towpath.eventlog.stores.memory import StoredRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from towpath.eventlog.store import EventStore

ROWS_PER_WINDOW = 1_000
#: A little less than a day: what is looked at a minute later is still within it.
_DAY = timedelta(hours=23, minutes=50)
#: When somebody tries passwords: hours before the end.
_ATTACK = 8.2, 7.4
_FORMATS, _CURRENCIES, _METHODS = ("csv", "csv", "parquet"), ("EUR", "EUR", "EUR", "USD", "CHF"), ("password", "sso")
_REASONS = ("bad_password", "bad_password", "unknown_user", "locked_out")
_COUNTRIES = ("de", "de", "fr", "nl", "ch", "us")
_NAMES = ("w", "k", "m", "ada", "grace", "lin", "zoe")

_BOUND = tuple(column.name for column in added_columns())

_Made = tuple[str, str, str, str, str, dict[str, Any]]


class _Day:
    """Makes one event after the other: type, actor, target, outcome, address, context."""

    def __init__(self, chooser: random.Random) -> None:
        self.choose = chooser
        self.invoice, self.user = 87_000, 19_000

    def invoice_paid(self) -> _Made:
        self.invoice += 1
        amount = self.choose.choice((990, 1990, 4900, 12_900, 20_000, 129_900))
        context: dict[str, Any] = {"amount_cents": amount, "currency": self.choose.choice(_CURRENCIES)}
        is_paid = self.choose.random() > 0.03
        if not is_paid:
            context["error"] = {"code": "card_declined", "retry_in_seconds": 3600}
        outcome = "success" if is_paid else "failure"
        return "invoice_paid", "job:billing", f"invoice:{self.invoice}", outcome, "", context

    def user_updated(self) -> _Made:
        actor, target = self._person(), self._person()
        if self.choose.random() < 0.04:
            changes: dict[str, Any] = {"is_staff": {"old": False, "new": True}}
        else:
            changes = {self.choose.choice(("email", "first_name", "country")): {"old": "***", "new": "***"}}
        return "user_updated", actor, target, "success", self._address(), {"changes": changes, "source": "admin"}

    def user_created(self) -> _Made:
        self.user += 1
        context = {
            "email": f"{self.choose.choice(_NAMES)}***@example.com",
            "first_name": "***",
            "country": self.choose.choice(_COUNTRIES),
            "newsletter": self.choose.random() < 0.4,
        }
        return "user_created", "user:12", f"user:{self.user}", "success", self._address(), context

    def login(self) -> _Made:
        session = f"session:{self.choose.randrange(16**4):04x}"
        return "login", self._person(), session, "success", self._address(), {"method": self.choose.choice(_METHODS)}

    def login_failed(self) -> _Made:
        context = {"reason": self.choose.choice(_REASONS), "attempt": self.choose.randint(1, 3)}
        return "login_failed", "", self._person(), "denied", self._address(), context

    def attack(self) -> _Made:
        context = {"reason": "bad_password", "attempt": self.choose.randint(4, 60)}
        return "login_failed", "", "user:1288", "denied", "203.0.113.7", context

    def report_viewed(self) -> _Made:
        report = self.choose.choice(("revenue", "churn", "sign_ups"))
        context = {
            "report": report,
            "filter": f"country:{self.choose.choice(_COUNTRIES)}",
            "milliseconds": self.choose.randint(20, 900),
        }
        return "report_viewed", self._person(), f"report:{report}", "success", self._address(), context

    def data_exported(self) -> _Made:
        context = {
            "report": "users",
            "format": self.choose.choice(_FORMATS),
            "rows": self.choose.randint(900, 60_000),
            "filter": f"country:{self.choose.choice(_COUNTRIES)}",
            "masked": self.choose.random() < 0.7,
            "request_bytes": 9_007_199_254_740_993,
            "columns": ["id", "email", "country", "created_at"],
        }
        return "data_exported", "user:7", "report:users", "success", self._address(), context

    def permission_granted(self) -> _Made:
        outcome = self.choose.choice(("success", "success", "success", "success", "denied"))
        context = {"permission": "users.export", "group": "analysts"}
        return "permission_granted", "user:7", self._person(), outcome, self._address(), context

    def _person(self) -> str:
        return f"user:{self.choose.choice((7, 12, 12, 12, 431, 88, 1288, self.choose.randint(100, 1900)))}"

    def _address(self) -> str:
        usual = ("198.51.100.23", "198.51.100.80", "192.0.2.14")
        return self.choose.choice((*usual, f"192.0.2.{self.choose.randint(20, 250)}"))


def rows(end: datetime, *, count: int, seed: int = 11) -> Iterator[StoredRow]:
    """`count` events of the 24 hours before `end`, the oldest first."""
    chooser = random.Random(seed)
    day = _Day(chooser)
    kinds: dict[Callable[[], _Made], float] = {
        day.user_updated: 36,
        day.invoice_paid: 26,
        day.login: 20,
        day.user_created: 9,
        day.report_viewed: 5.5,
        day.login_failed: 2.4,
        day.permission_granted: 0.5,
        day.data_exported: 0.25,
    }
    moments = sorted(_moment(end, chooser) for _ in range(count))
    for number, at in enumerate(moments, start=1):
        hours_before = (end - at) / timedelta(hours=1)
        is_attack = _ATTACK[1] < hours_before < _ATTACK[0] and chooser.random() < 0.45
        make = day.attack if is_attack else chooser.choices(list(kinds), list(kinds.values()))[0]
        event_type, actor, target, outcome, address, context = make()
        yield StoredRow(
            outbox="outbox_user" if event_type.startswith("user_") else "outbox_event",
            outbox_id=number,
            window_id=UUID(int=(seed << 64) + number // ROWS_PER_WINDOW),
            event_type=event_type,
            event_date_time=at,
            environment="production",
            metadata_version=1,
            event_context=json.dumps(context, separators=(",", ":")).encode(),
            added=(actor, f"{chooser.randrange(16**8):08x}" if address else "", address, target, outcome),
        )


def store_day(store: EventStore, end: datetime, *, count: int) -> None:
    """Write the day as the pipeline would: a window after the other."""
    day = list(rows(end, count=count))
    for start in range(0, len(day), ROWS_PER_WINDOW):
        window = day[start : start + ROWS_PER_WINDOW]
        store.write(copy_text(*window), row_count=len(window), token=f"demo-{start}")


def publish_day(end: datetime, *, count: int) -> None:
    """Put the day into the outbox, so that a running pipeline carries it: its ledger then knows of every event."""
    from django.db import transaction

    from towpath.outbox.models import OutboxEvent

    day = [
        OutboxEvent(
            event_type=row.event_type,
            event_date_time=row.event_date_time,
            event_context=row.event_context.decode(),
            metadata_version=1,
            bound={name: value for name, value in zip(_BOUND, row.added, strict=True) if value},
        )
        for row in rows(end, count=count)
    ]
    with transaction.atomic():
        OutboxEvent.objects.bulk_create(day, batch_size=ROWS_PER_WINDOW)


def _moment(end: datetime, chooser: random.Random) -> datetime:
    """More by day than by night: two thirds of the events fall into the working hours."""
    while True:
        at = end - chooser.random() * _DAY
        hour = at.hour + at.minute / 60
        if chooser.random() < 0.16 + 0.84 * math.exp(-(((hour - 13) / 4.6) ** 2)):
            return at
