"""Outbox classes as an application might write them, made for one test and known to no registry."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.test.utils import isolate_apps

from backend.users.models import User
from towpath import Event
from towpath.outbox.models import FrozenOutbox, LeanOutbox, Outbox


class Renamed(Event):
    email: str


class Maybe(Event):
    email: str | None


class Paid(Event):
    amount: int


def user_key(**options: Any) -> Any:
    return models.ForeignKey(User, **{"on_delete": models.PROTECT, "related_name": "+", **options})


def lean(event: type[Event] | None = Renamed, **attributes: Any) -> type[Outbox]:
    """A lean outbox that is well, but for what is given."""
    meta = type("Meta", (LeanOutbox.Meta,), {"app_label": "users", "db_table": "outbox_lean"})
    body = {
        "__module__": __name__,
        "Meta": meta,
        "user": user_key(),
        "event": event,
        "event_date_time": "user__created_at",
        "event_context": {"email": "user__email"},
        **attributes,
    }
    return made("OutboxLean", LeanOutbox, body)


def frozen(**attributes: Any) -> type[Outbox]:
    """A frozen outbox that is well, but for what is given."""
    meta = type("Meta", (FrozenOutbox.Meta,), {"app_label": "users", "db_table": "outbox_frozen"})
    return made("OutboxFrozen", FrozenOutbox, {"__module__": __name__, "Meta": meta, **attributes})


@isolate_apps("backend.users")
def made(name: str, base: Any, body: dict[str, Any]) -> type[Outbox]:
    """A class that is not in the application."""
    return type(name, (base,), body)


def meta_of(base: Any, **options: Any) -> type:
    return type("Meta", (base.Meta,), {"app_label": "users", **options})
