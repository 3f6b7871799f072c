"""The checks of a project's settings, and that they know every setting."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest
from django.apps import AppConfig, apps
from django.core.checks import INFO
from django.core.exceptions import ImproperlyConfigured
from django.db import connection, connections

from towpath import checks
from towpath.checks import check_database, check_settings, require_settings
from towpath.conf.dramatiq import broker

if TYPE_CHECKING:
    from pytest_django import DjangoDbBlocker, Settings

    from tests.knobs import Knobs


def problems() -> dict[str, str]:
    """What is found: the text and its hint, by id."""
    return {str(found.id): f"{found.msg} {found.hint}" for found in check_settings()}


def test_missing_settings_are_named_with_what_to_write(settings: Settings) -> None:
    del settings.TOWPATH
    del settings.DRAMATIQ_BROKER

    with pytest.raises(ImproperlyConfigured) as caught:
        require_settings()

    assert str(caught.value) == (
        "The settings lack TOWPATH, DRAMATIQ_BROKER: write `from towpath.conf.settings import *` at their top."
    )


def test_the_project_s_own_settings_are_well() -> None:
    require_settings()
    assert check_settings() == []


def test_values_that_a_project_has_changed_in_code_are_checked_as_the_environment_s(knobs: Knobs) -> None:
    knobs(store_timeout_seconds=60.0, wedged_seconds=60.0)

    assert problems() == {
        "pipeline.E020": "WEDGED_SECONDS must be more than STORE_TIMEOUT_SECONDS: an insert may take that long"
        " See docs/settings.md and docs/stores.md."
    }


@pytest.mark.parametrize(
    "path",
    [
        "periodiq.PeriodiqMiddleware",
        "dramatiq.middleware.retries.Retries",
        "django_dramatiq.middleware.DbConnectionsMiddleware",
        "towpath.lifecycle.PipelineLifecycle",
    ],
)
def test_a_broker_without_what_the_pipeline_needs_is_refused(settings: Settings, path: str) -> None:
    name = path.rpartition(".")[2]
    kept = [one for one in settings.DRAMATIQ_BROKER["MIDDLEWARE"] if name not in {_name(one), type(one).__name__}]
    settings.DRAMATIQ_BROKER = {**settings.DRAMATIQ_BROKER, "MIDDLEWARE": kept}

    assert list(problems()) == ["pipeline.E004"]
    assert f"DRAMATIQ_BROKER has no {path}: " in problems()["pipeline.E004"]
    assert "towpath.conf.settings" in problems()["pipeline.E004"]


def test_a_prefix_that_the_broker_does_not_have_is_refused(settings: Settings) -> None:
    settings.TOWPATH = replace(settings.TOWPATH, queue_prefix="shop")

    assert "towpath.conf.dramatiq.broker(TOWPATH)" in problems()["pipeline.E011"]

    settings.DRAMATIQ_BROKER = broker(settings.TOWPATH)
    assert problems() == {}


def _name(middleware: Any) -> str:
    return str(middleware).rpartition(".")[2]


def test_a_time_limit_is_warned_of(settings: Settings) -> None:
    middleware = [*settings.DRAMATIQ_BROKER["MIDDLEWARE"], "dramatiq.middleware.TimeLimit"]
    settings.DRAMATIQ_BROKER = {**settings.DRAMATIQ_BROKER, "MIDDLEWARE": middleware}

    assert "Remove it" in problems()["pipeline.W001"]


@pytest.mark.parametrize("app", ["towpath", "django_dramatiq"])
def test_an_app_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, app: str) -> None:
    monkeypatch.setattr("towpath.checks.apps.is_installed", lambda name: name != app)

    assert problems() == {"pipeline.E003": f"{app} is not in INSTALLED_APPS. Add it."}


def test_another_database_than_postgresql_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("towpath.checks.connection.vendor", "sqlite")

    assert "The default database is sqlite" in problems()["pipeline.E001"]
    assert "Use PostgreSQL 13 or later" in problems()["pipeline.E001"]


def test_a_server_that_does_not_answer_fails_no_check(
    monkeypatch: pytest.MonkeyPatch, django_db_blocker: DjangoDbBlocker
) -> None:
    """Django 6.1 asks the databases at every `check`, even where an image is built."""
    nowhere = {**connection.settings_dict, "HOST": "127.0.0.1", "PORT": "9", "USER": "", "PASSWORD": ""}
    monkeypatch.setattr(connections["default"], "settings_dict", nowhere)
    monkeypatch.setattr(connections["default"], "connection", None)

    with django_db_blocker.unblock():
        (found,) = check_database(databases=["default"])

    assert (found.id, found.level) == ("pipeline.I001", INFO)
    assert "check --database default" in str(found.hint)


@pytest.mark.parametrize(("pool", "most"), [(True, 4), ({"min_size": 2}, 2), ({"min_size": 2, "max_size": 5}, 5)])
def test_a_pool_smaller_than_a_process_needs_is_named(
    monkeypatch: pytest.MonkeyPatch, knobs: Knobs, *, pool: object, most: int
) -> None:
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", {"pool": pool})
    knobs(window_writers=4)

    assert f"a pool of {most} connections, but an aggregator uses up to 6" in problems()["pipeline.W003"]
    assert '{"max_size": 6}' in problems()["pipeline.W003"]


@pytest.mark.parametrize("pool", [None, {"max_size": 6}, {"min_size": 8}])
def test_no_pool_or_one_that_is_large_enough_is_well(
    monkeypatch: pytest.MonkeyPatch, knobs: Knobs, pool: object
) -> None:
    monkeypatch.setitem(connection.settings_dict, "OPTIONS", {"pool": pool})
    knobs(window_writers=4)

    assert problems() == {}


def test_times_without_zones_are_refused(settings: Settings) -> None:
    settings.USE_TZ = False

    assert "Set USE_TZ = True" in problems()["pipeline.E005"]


def test_a_database_without_autocommit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connection.settings_dict, "AUTOCOMMIT", False)

    assert "Remove AUTOCOMMIT" in problems()["pipeline.E006"]


class MigratesElsewhere:
    """A router that knows its own apps, and sends all others to another database."""

    def allow_migrate(self, database: str, app_label: str, **_hints: object) -> bool:
        return (database == "default") == (app_label != "towpath")


def test_a_router_that_makes_no_tables_in_default_is_refused(settings: Settings) -> None:
    settings.DATABASE_ROUTERS = [MigratesElsewhere()]

    text = problems()["pipeline.E007"]

    assert "towpath.OutboxEvent" in text
    assert "towpath.Window" in text
    assert "users.OutboxUser" not in text
    assert "allow_migrate()" in text


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"TENANT_APPS": ["django.contrib.auth", "towpath"]}, "towpath in TENANT_APPS"),
        ({"TENANT_APPS": ["towpath.apps.TowpathConfig"]}, "towpath in TENANT_APPS"),
        ({"TENANT_APPS": ["backend.users", "towpath"]}, "backend.users, towpath in TENANT_APPS"),
        (
            {"TENANT_TYPES": {"public": {"APPS": ["towpath"]}, "shop": {"APPS": ["backend.users"]}}},
            "backend.users in TENANT_APPS",
        ),
    ],
)
def test_an_outbox_in_the_schema_of_each_tenant_is_refused(
    settings: Settings, more: dict[str, Any], named: str
) -> None:
    for name, value in more.items():
        setattr(settings, name, value)

    assert problems()["pipeline.E008"].startswith(named)
    assert "SHARED_APPS" in problems()["pipeline.E008"]


def test_outboxes_in_the_shared_schema_are_well(settings: Settings) -> None:
    settings.TENANT_APPS = ["django.contrib.auth"]
    settings.SHARED_APPS = ["towpath", "backend.users"]

    assert problems() == {}


@pytest.mark.parametrize(
    ("broker", "is_told"),
    [
        ("dramatiq.brokers.rabbitmq.RabbitmqBroker", True),
        ("towpath.rabbitmq.broker.Broker", False),
        ("dramatiq.brokers.stub.StubBroker", False),  # in a project's tests
    ],
)
def test_a_broker_that_checks_nothing_is_told_of(settings: Settings, broker: str, *, is_told: bool) -> None:
    settings.DRAMATIQ_BROKER = {**settings.DRAMATIQ_BROKER, "BROKER": broker}

    assert ("pipeline.W002" in problems()) == is_told


@pytest.mark.parametrize("queue", ["towpath.aggregate", "towpath.aggregate_backlog", "towpath.dispatch"])
def test_an_actor_of_a_project_on_a_queue_of_the_pipeline_is_refused_by_name(queue: str) -> None:
    with pytest.raises(ValueError, match=rf"of_a_project: the queue '{queue}' is the pipeline's own") as refused:
        dramatiq.actor(queue_name=queue, actor_name="of_a_project")(lambda: None)

    assert "queue_name" in str(refused.value)
    assert "of_a_project" not in dramatiq.get_broker().actors


def test_an_actor_with_a_name_of_the_pipeline_s_is_named_by_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("")
    (tmp_path / "shop" / "tasks.py").write_text(
        'import dramatiq\n@dramatiq.actor(actor_name="towpath.verify")\ndef verify(token): ...\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import towpath.actors  # noqa: F401 - declares the actors

    installed = [*apps.get_app_configs(), AppConfig.create("shop")]
    monkeypatch.setattr(apps, "get_app_configs", lambda: installed)

    text = problems()["pipeline.E010"]
    assert "shop.tasks" in text
    assert "'towpath.verify'" in text
    assert "actor_name" in text


def test_no_two_checks_have_one_id() -> None:
    given = re.findall(r'id="(pipeline\.[EW]\d+)"', Path(checks.__file__).read_text())

    assert sorted(given) == sorted(set(given))
