"""The system checks: an outbox that would lose or change events is refused, with a way to fix it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.checks import CheckMessage, run_checks
from django.db import models
from django.test.utils import isolate_apps
from pytest_django import Settings

from backend.users.models import OutboxUser, OutboxUserChange
from tests.knobs import Knobs
from tests.unit.outboxes import Maybe, Paid, Renamed, frozen, lean, made, meta_of, user_key
from towpath.outbox.checks import check_outboxes, problems_between, problems_of
from towpath.outbox.fields import Xid8Field
from towpath.outbox.models import (
    MOST_ROW_BYTES,
    FrozenOutbox,
    LeanOutbox,
    Outbox,
    OutboxEvent,
    OutboxQuerySet,
    all_outboxes,
)


def test_the_outboxes_of_the_application_are_well() -> None:
    assert check_outboxes() == []
    assert [problem for one in (OutboxEvent, OutboxUser, OutboxUserChange) for problem in problems_of(one)] == []


def test_the_checks_run_with_those_of_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("towpath.outbox.checks.problems_of", lambda outbox: iter([CheckMessage(40, outbox.__name__)]))

    assert {problem.msg for problem in run_checks(tags=["models"])} >= {"OutboxEvent", "OutboxUser"}


def test_outboxes_that_are_well_are_not_complained_of() -> None:
    assert list(problems_of(lean())) == []
    assert list(problems_of(lean(user=user_key(on_delete=models.RESTRICT)))) == []
    assert list(problems_of(lean(user=user_key(on_delete=models.DO_NOTHING)))) == []
    assert list(problems_of(frozen(events=(Paid,), amount=models.BigIntegerField()))) == []
    assert list(problems_of(frozen(objects=Small.as_manager()))) == []
    assert list(problems_of(frozen(objects=Shown.from_queryset(OutboxQuerySet)()))) == []


class Shown(models.Manager[models.Model]):
    """As an application writes one to leave rows out of sight."""

    def get_queryset(self) -> models.QuerySet[models.Model]:
        return super().get_queryset().filter(id__lt=5)


class Small(OutboxQuerySet[Outbox]):
    """A queryset of an application's own, of the right kind."""

    def small(self) -> Small:
        return self.filter(id__lt=5)


def without_meta(base: Any) -> Callable[[], type[Outbox]]:
    return lambda: made(
        "OutboxBare",
        base,
        {
            "__module__": __name__,
            "Meta": type("Meta", (), {"app_label": "users"}),
            "user": user_key(),
            "event": Renamed,
            "event_date_time": "user__created_at",
            "event_context": {"email": "user__email"},
        },
    )


def child_of_a_table() -> type[Outbox]:
    body = {"__module__": __name__, "Meta": type("Meta", (), {"app_label": "users"})}
    return made("OutboxChild", frozen(), body)


@pytest.mark.parametrize(
    ("make", "identity", "text", "hint"),
    [
        (lambda: lean(user=user_key(on_delete=models.CASCADE)), 5, "'user' points to would delete", "models.PROTECT"),
        (lambda: frozen(who=user_key(on_delete=models.CASCADE)), 5, "'who' points to would delete", "models.PROTECT"),
        (lambda: lean(user=user_key(on_delete=models.SET_NULL, null=True), event=Maybe), 5, "would change", "PROTECT"),
        (lambda: lean(user=user_key(on_delete=models.SET(1))), 5, "would change undelivered events", "models.PROTECT"),
        (lambda: lean(user=user_key(db_constraint=False)), 5, "no constraint", "Remove db_constraint=False"),
        (lambda: lean(xid=models.BigIntegerField(null=True)), 3, "'xid'.*never be dispatched", "Remove 'xid'"),
        (lambda: lean(bound=models.JSONField(null=True, editable=False)), 3, "'bound'", "Remove 'bound'"),
        (lambda: lean(xid=Xid8Field()), 3, r"'xid'.*default is pg_current_xact_id\(\)", "Remove 'xid'"),
        (lambda: lean(xid=None, Meta=meta_of(LeanOutbox, indexes=())), 3, "'xid'", "Remove 'xid'"),
        (lambda: frozen(event_context=models.JSONField()), 3, "'event_context'", "Remove 'event_context'"),
        (lambda: frozen(Meta=meta_of(FrozenOutbox, managed=False)), 2, "not managed", "Remove `managed = False`"),
        (without_meta(LeanOutbox), 4, r"index on \(xid, id\)", r"class Meta\(LeanOutbox\.Meta\)"),
        (
            lambda: frozen(Meta=meta_of(FrozenOutbox, constraints=())),
            4,
            "storage parameters",
            r"class Meta\(FrozenOutbox\.Meta\)",
        ),
        (
            lambda: frozen(Meta=meta_of(FrozenOutbox, constraints=FrozenOutbox.Meta.constraints[:1])),
            4,
            "limits of its rows",
            r"class Meta\(FrozenOutbox\.Meta\)",
        ),
        (child_of_a_table, 1, "another table", "Subclass LeanOutbox or FrozenOutbox"),
        (lambda: lean(event=None), 6, "`event` is not an Event class", "Write `event"),
        (lambda: lean(event_date_time=None), 6, "`event_date_time` is not a path", "created_at"),
        (lambda: lean(event_date_time=models.DateTimeField()), 6, "`event_date_time` is not a path", "created_at"),
        (lambda: lean(event_context=None), 6, "`event_context` is missing", "Give the path"),
        (lambda: lean(event_context={}), 6, "differ in email", "a path for each field"),
        (lambda: lean(event_context={"email": "user__email", "age": "id"}), 6, "differ in age", "for nothing else"),
        (lambda: lean(event_context={"email": "user__mail"}), 6, "'user__mail' leads nowhere", "as for values"),
        (lambda: lean(event_context={"email": "user__email__x"}), 6, "'email' is not a foreign key", "as for values"),
        (lambda: lean(event_context={"email": "user__groups__name"}), 6, "'groups' may stand for several", "values"),
        (lambda: lean(event_context={"email": "user__email__lower"}), 6, "leads nowhere", "as for values"),
        (lambda: lean(event_context={"email": "user__created_at"}), 6, "is a DateTimeField", "FrozenOutbox"),
        (lambda: lean(event_date_time="user__birthday"), 6, "'user__birthday' leads nowhere", "as for values"),
        (lambda: lean(event_date_time="user__email"), 6, "event_date_time: .* is a Email", "DateTimeField"),
        (lambda: lean(event_date_time="user__last_login"), 6, "event_date_time: .* can be NULL", "Allow None"),
        (lambda: lean(event_date_time="user__updated_at"), 6, "auto_now", "auto_now_add"),
        (lambda: frozen(objects=models.Manager()), 8, "manager 'objects' can create rows outside", "OutboxQuerySet"),
        (lambda: lean(shown=Shown()), 8, "manager 'shown' can create rows outside", "OutboxQuerySet"),
        (
            lambda: lean(event_context={"email": models.F("user__email")}),
            6,
            r"F\(user__email\) is not a path",
            "values",
        ),
        (lambda: frozen(events=Paid), 7, "`events` is Paid, not a tuple", r"Write `events = \(Paid,\)`"),
        (lambda: frozen(events="Paid"), 7, "`events` is 'Paid', not a tuple", "with the comma"),
        (lambda: frozen(events=("paid",)), 7, "'paid', which is not an Event class", "Name the classes"),
        (lambda: frozen(events=(Paid,), currency=models.TextField()), 7, "currency: Paid has no such", "Give each"),
    ],
)
def test_an_outbox_that_would_lose_events_is_refused(
    make: Callable[[], type[Outbox]], identity: int, text: str, hint: str
) -> None:
    outbox = make()

    (problem,) = [problem for problem in problems_of(outbox) if problem.id == f"outbox.E{identity:03}"]

    assert problem.is_serious()
    assert problem.obj is outbox
    assert re.search(text, problem.msg), problem.msg
    assert re.search(hint, problem.hint or ""), problem.hint


@pytest.mark.parametrize(
    ("key", "is_refused"),
    [
        (partial(models.ForeignKey, on_delete=models.CASCADE), True),
        (partial(models.ForeignKey, on_delete=models.RESTRICT, related_name="+"), True),
        (partial(models.OneToOneField, on_delete=models.PROTECT), True),
        (models.ManyToManyField, True),
        (partial(models.ForeignKey, on_delete=models.DO_NOTHING, db_constraint=False), False),
        (partial(models.ManyToManyField, db_constraint=False), False),
    ],
)
@isolate_apps("backend.users")
def test_what_points_to_the_rows_of_an_outbox_is_refused(key: Any, is_refused: bool) -> None:
    outbox: Any = type("OutboxKept", (FrozenOutbox,), {"__module__": __name__, "Meta": meta_of(FrozenOutbox)})
    meta = type("Meta", (), {"app_label": "users"})
    type("Pointing", (models.Model,), {"__module__": __name__, "Meta": meta, "change": key(outbox)})

    found = [(problem.id, problem.msg) for problem in problems_of(outbox)]

    assert [id_ for id_, _ in found] == ["outbox.E010"] * is_refused
    assert all("points to its rows" in message for _, message in found)


@pytest.mark.parametrize("name", ['"crm"."outbox"', 'crm"."outbox', "outbox%s", "o" * 64, "é" * 32])
def test_a_name_that_catalogues_do_not_know_the_table_by_is_refused(name: str) -> None:
    def of(table: str) -> type[Outbox]:
        meta = meta_of(FrozenOutbox, db_table=table)
        return made("OutboxNamed", FrozenOutbox, {"__module__": __name__, "Meta": meta})

    assert [problem.id for problem in problems_of(of(name))] == ["outbox.E009"]
    assert not list(problems_of(of("Outbox 'é'.x")))


def test_a_manager_of_a_proxy_is_refused_as_that_of_its_outbox() -> None:
    meta = type("Meta", (), {"app_label": "users", "proxy": True})
    proxy = made("OutboxProxy", frozen(), {"__module__": __name__, "Meta": meta, "objects": models.Manager()})

    (problem,) = problems_of(proxy)

    assert problem.id == "outbox.E008"
    assert "OutboxProxy: its manager 'objects' can create rows outside" in problem.msg


def test_an_outbox_that_is_neither_lean_nor_frozen_is_refused() -> None:
    meta = meta_of(Outbox)
    outbox = made("OutboxOther", Outbox, {"__module__": __name__, "Meta": meta})

    (problem,) = problems_of(outbox)

    assert problem.id == "outbox.E001"
    assert "neither a LeanOutbox nor a FrozenOutbox" in problem.msg


def test_an_outbox_in_another_database_is_refused(settings: Settings) -> None:
    class Router:
        def db_for_write(self, _model: object, **_hints: object) -> str:
            return "archive"

    settings.DATABASE_ROUTERS = [Router()]

    (problem,) = problems_of(frozen())

    assert problem.id == "outbox.E002"
    assert "'archive'" in problem.msg


def test_an_outbox_of_what_is_in_another_database_is_refused(settings: Settings) -> None:
    class Router:
        def db_for_write(self, model: type[models.Model], **_hints: object) -> str | None:
            return "crm" if model._meta.label == "users.User" else None

    settings.DATABASE_ROUTERS = [Router()]

    (problem,) = problems_of(lean())

    assert problem.id == "outbox.E002"
    assert "'user' points to a table of the database 'crm'" in problem.msg


def test_two_outboxes_with_one_name_are_refused() -> None:
    (problem,) = problems_between([lean(), frozen(Meta=meta_of(FrozenOutbox, db_table="outbox_lean"))])

    assert problem.id == "outbox.E020"
    assert "users.OutboxLean and users.OutboxFrozen have the same name, 'outbox_lean'" in problem.msg
    assert "db_table" in (problem.hint or "")


def test_an_outbox_whose_events_are_no_tuple_does_not_end_the_checks() -> None:
    assert list(problems_between([frozen(events=Paid)])) == []


def test_an_event_that_two_outboxes_claim_is_refused() -> None:
    other = frozen(events=(Paid,), Meta=meta_of(FrozenOutbox, db_table="another"))

    (problem,) = problems_between([frozen(events=(Paid,)), other])

    assert problem.id == "outbox.E021"
    assert "Paid" in problem.msg
    assert "in one of them" in (problem.hint or "")


def test_two_events_of_one_type_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        raise ValueError("A and B are both 'paid' version 1: rename one")

    monkeypatch.setattr("towpath.outbox.checks.installed_events", twice)

    (problem,) = check_outboxes()

    assert problem.id == "outbox.E030"
    assert "both 'paid' version 1" in problem.msg
    assert problem.hint


def test_a_proxy_of_an_outbox_is_no_outbox_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    meta = type("Meta", (), {"app_label": "users", "proxy": True})
    proxy = made("ShownOutboxUser", OutboxUser, {"__module__": __name__, "Meta": meta})
    installed = SimpleNamespace(get_models=lambda: [OutboxUser, proxy])
    for module in ("checks", "models"):
        monkeypatch.setattr(f"towpath.outbox.{module}.apps", installed)

    assert check_outboxes() == []
    assert all_outboxes() == {"outbox_user": OutboxUser}


def test_outboxes_of_one_class_name_in_two_apps_have_constraints_of_different_names() -> None:
    body = {"__module__": __name__}
    names = [
        {one.name for one in made("OutboxChange", base, {**body, "Meta": _meta_in(base, app)})._meta.constraints}
        for app in ("users", "outbox")
        for base in (FrozenOutbox,)
    ]

    assert len(names[0] & names[1]) == 0
    assert all(len(one) == 2 for one in names)


def test_storage_parameters_are_the_same_whatever_their_name_was() -> None:
    """Tables whose migrations have the name of before need no new one."""
    storage = FrozenOutbox.Meta.constraints[0]
    _, arguments, values = storage.deconstruct()

    assert storage == type(storage)(*arguments, **{**values, "name": "outboxchange_storage"})
    assert storage != type(storage)(*arguments, **{**values, "parameters": {}})


def test_a_setting_that_exceeds_what_a_table_takes_is_refused(knobs: Knobs) -> None:
    knobs(event_context_max_bytes=MOST_ROW_BYTES + 1)

    (error,) = check_outboxes()
    assert (error.id, "67,108,864" in error.msg) == ("outbox.E031", True)


def _meta_in(base: Any, app_label: str) -> type:
    return type("Meta", (base.Meta,), {"app_label": app_label})
