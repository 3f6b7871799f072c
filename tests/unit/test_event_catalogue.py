"""The registry of event types: what is checked in agrees with the code, and a published version never changes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from django.apps import apps
from django.core.management import CommandError, call_command

from backend.users.events import UserCreated
from towpath import Event
from towpath.outbox import registry
from towpath.outbox.event import Hashed, Sensitive


class Shipped(Event):
    """A parcel left the house.

    With whatever was in it.
    """

    order: int
    to: Hashed[str]
    note: Sensitive[str] | None = None
    title: str = "parcel"


class ShippedSinceMay(Event):
    """A parcel left the house."""

    event_type: ClassVar[str] = "shipped"
    version: ClassVar[int] = 2

    order: int
    to: Hashed[str]
    weight: float


class ShippedSilently(Event):
    """Reworded."""

    event_type: ClassVar[str] = "shipped"

    order: int
    to: Hashed[str]
    note: Sensitive[str] | None = None
    title: str = "parcel"


class ShippedInClear(Event):
    """A parcel left the house."""

    event_type: ClassVar[str] = "shipped"

    order: int
    to: str
    note: Sensitive[str] | None = None
    title: str = "parcel"


class Shop:
    """An application whose events can be exchanged, as an edit of its code does."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = folder / registry.FILE_NAME
        self._app = SimpleNamespace(path=str(folder), label="shop")
        self._monkeypatch = monkeypatch

    def has(self, *events: type[Event]) -> None:
        self._monkeypatch.setattr(registry, "installed_events", lambda: list(events))
        self._monkeypatch.setattr(registry, "_app_of", lambda _event: self._app)
        self._monkeypatch.setattr(registry, "apps", SimpleNamespace(get_app_configs=lambda: [self._app]))

    def registered(self) -> dict[str, dict[str, Any]]:
        content: dict[str, dict[str, Any]] = json.loads(self.file.read_text())
        return content


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    return Shop(tmp_path, monkeypatch)


def command(*arguments: str) -> tuple[int, str, str]:
    """Exit code, and what was printed."""
    out, err = io.StringIO(), io.StringIO()
    try:
        call_command("eventlog", "events", *arguments, stdout=out, stderr=err)
    except SystemExit as stop:
        return int(stop.code or 0), out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


def test_the_checked_in_registry_agrees_with_the_code() -> None:
    """When this fails, its text says which command puts it right."""
    assert registry.disagreements() == []


def test_every_event_of_the_installed_apps_is_registered_and_those_of_tests_are_not() -> None:
    types = [one.type for one in registry.catalogue()]

    assert types == [
        "canary_sent",
        "dead_letter_dropped",
        "dead_letters_replayed",
        "dispatch_paused",
        "dispatch_resumed",
        "event_opened",
        "events_access_refused",
        "events_erased",
        "events_export_ended",
        "events_exported",
        "events_page_read",
        "events_searched",
        "events_view_shared",
        "ledger_sealed",
        "log_audited",
        "log_month_dropped",
        "log_read",
        "outbox_discarded",
        "pipeline_action_failed",
        "pipeline_action_refused",
        "receipt_mismatch_closed",
        "recovery_run",
        "unproven_windows_accepted",
        "user_created",
        "user_deleted",
        "user_logged_in",
        "user_logged_out",
        "user_login_failed",
        "user_refused",
        "user_updated",
        "window_accepted",
    ]


def test_a_new_event_is_missing_until_the_command_has_written_it(shop: Shop) -> None:
    shop.has(Shipped)
    (problem,) = registry.disagreements()
    assert "Shipped ('shipped' version 1) is not in" in problem
    assert registry.COMMAND in problem

    assert command("--write") == (0, f"written: {shop.file}\n", "")

    assert registry.disagreements() == []
    assert list(shop.registered()["shipped"]["1"]["properties"]) == ["order", "to", "note", "title"]
    assert command("--write") == (0, "", "")


def test_changing_a_published_version_is_refused_with_what_to_write(shop: Shop) -> None:
    # Given a published version whose field is now stored in clear
    shop.has(Shipped)
    registry.update_files()
    before = shop.file.read_bytes()
    shop.has(ShippedInClear)

    # Then the check fails, and the command does not paper over it
    for option in ("--check", "--write"):
        code, _, problem = command(option)
        assert code == 1
        assert "ShippedInClear ('shipped' version 1) does not have the fields" in problem
        assert "write `version = 2`" in problem
        assert registry.COMMAND in problem
    assert shop.file.read_bytes() == before


def test_a_raised_version_is_added_and_the_old_one_is_kept(shop: Shop) -> None:
    shop.has(Shipped)
    registry.update_files()

    shop.has(ShippedSinceMay)
    assert len(registry.disagreements()) == 1
    registry.update_files()

    assert registry.disagreements() == []
    assert list(shop.registered()["shipped"]) == ["1", "2"]


def test_other_words_in_a_docstring_are_no_change(shop: Shop) -> None:
    shop.has(Shipped)
    registry.update_files()

    shop.has(ShippedSilently)

    assert registry.disagreements() == []


def test_an_event_that_is_gone_stays_registered(shop: Shop) -> None:
    shop.has(Shipped)
    registry.update_files()

    shop.has()

    assert registry.disagreements() == []
    assert registry.update_files() == []
    assert list(shop.registered()) == ["shipped"]


def test_a_version_lower_than_the_registered_one_is_refused_unless_it_is_that_version_s(shop: Shop) -> None:
    """An old class may be kept for what still publishes it, with the old fields only."""
    shop.has(Shipped, ShippedSinceMay)
    registry.update_files()

    shop.has(Shipped)
    assert registry.disagreements() == []
    shop.has(ShippedInClear)
    assert "write `version = 3`" in registry.disagreements()[0]


def test_two_events_of_one_type_and_version_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_subclasses", lambda _event: iter([Shipped, ShippedInClear]))
    monkeypatch.setattr(registry, "_app_of", lambda _event: apps.get_app_config("users"))

    with pytest.raises(ValueError, match=r"Shipped and .*ShippedInClear are both 'shipped' version 1"):
        registry.installed_events()


def test_the_catalogue_is_listed_a_line_for_each() -> None:
    code, lines, _ = command()

    assert code == 0
    assert [line.split()[:3] for line in lines.splitlines()] == [
        ["event", "version", "outbox"],
        ["canary_sent", "1", "outbox_event"],
        ["dead_letter_dropped", "1", "outbox_event"],
        ["dead_letters_replayed", "1", "outbox_event"],
        ["dispatch_paused", "1", "outbox_event"],
        ["dispatch_resumed", "1", "outbox_event"],
        ["event_opened", "1", "outbox_event"],
        ["events_access_refused", "1", "outbox_event"],
        ["events_erased", "1", "outbox_event"],
        ["events_export_ended", "1", "outbox_event"],
        ["events_exported", "1", "outbox_event"],
        ["events_page_read", "1", "outbox_event"],
        ["events_searched", "1", "outbox_event"],
        ["events_view_shared", "1", "outbox_event"],
        ["ledger_sealed", "1", "outbox_event"],
        ["log_audited", "2", "outbox_event"],
        ["log_month_dropped", "1", "outbox_event"],
        ["log_read", "1", "outbox_event"],
        ["outbox_discarded", "1", "outbox_event"],
        ["pipeline_action_failed", "1", "outbox_event"],
        ["pipeline_action_refused", "1", "outbox_event"],
        ["receipt_mismatch_closed", "1", "outbox_event"],
        ["recovery_run", "1", "outbox_event"],
        ["unproven_windows_accepted", "1", "outbox_event"],
        ["user_created", "1", "outbox_user"],
        ["user_deleted", "1", "outbox_user_change"],
        ["user_logged_in", "1", "outbox_event"],
        ["user_logged_out", "1", "outbox_event"],
        ["user_login_failed", "1", "outbox_event"],
        ["user_refused", "1", "outbox_event"],
        ["user_updated", "1", "outbox_user_change"],
        ["window_accepted", "1", "outbox_event"],
    ]
    (created,) = [line for line in lines.splitlines() if line.startswith("user_created")]
    assert created.endswith("A user was created.")


def test_the_catalogue_as_json_has_the_schemas() -> None:
    (created,) = [one for one in json.loads(command("--json")[1]) if one["type"] == "user_created"]

    assert created == {
        "type": "user_created",
        "version": 1,
        "app": "users",
        "outbox": "outbox_user",
        "description": UserCreated.__doc__,
        "schema": json.loads(Path("backend/users/events.schema.json").read_text())["user_created"]["1"],
    }


def test_the_catalogue_as_markdown_has_a_section_with_the_fields_of_each(shop: Shop) -> None:
    shop.has(Shipped)

    page = command("--markdown")[1]

    assert "## shipped\n\nA parcel left the house.\n\nVersion 1, published into `outbox_event`.\n" in page
    assert "| `order` | integer |  |" in page
    assert "| `to` | string or null | hashed |" in page
    assert "| `title` | string |  |" in page


@pytest.mark.parametrize("content", ["<<<<<<< HEAD\n{}", "[]", '{"shipped": 1}', '{"shipped": {"first": {}}}', ""])
@pytest.mark.parametrize("option", ["--write", "--check"])
def test_a_damaged_file_is_named_and_left_alone(content: str, option: str, shop: Shop) -> None:
    shop.has(Shipped)
    shop.file.write_text(content)

    with pytest.raises(CommandError, match=r"events.schema.json is not a registry of events: resolve its merge"):
        command(option)

    assert shop.file.read_text() == content
