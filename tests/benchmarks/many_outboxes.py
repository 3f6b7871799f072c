"""Forty-nine more outbox tables, as an application with many kinds of events has them. Only here, never migrated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.apps import apps
from django.db import connection

from towpath.outbox.models import FrozenOutbox, OutboxEvent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from towpath.outbox.models import Outbox

_MORE = 49


def fifty_outboxes() -> dict[str, type[Outbox]]:
    """The general outbox and the others, by name; their tables are made in the database in use."""
    models: list[type[FrozenOutbox]] = [OutboxEvent, *_more()]
    with connection.schema_editor() as editor:
        for model in models[1:]:
            editor.create_model(model)
    return {model.outbox_name(): model for model in models}


def forget_them() -> None:
    """So that the figures after this one see the product's outboxes only."""
    for n in range(_MORE):
        apps.all_models["towpath"].pop(f"benchoutbox{n:02}", None)
    apps.clear_cache()


def _more() -> Iterator[type[FrozenOutbox]]:
    for n in range(_MORE):
        meta = type("Meta", (FrozenOutbox.Meta,), {"db_table": f"bench_outbox_{n:02}", "app_label": "towpath"})
        model: type[FrozenOutbox] = type(f"BenchOutbox{n:02}", (FrozenOutbox,), {"Meta": meta, "__module__": __name__})
        yield model
