"""Windows without a proof, as of a log from before there were proofs: a person accepts all of a period together, and is
told how many. What contradicts a receipt or a proof is never among them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from pytest_django import Settings

from tests.integration.manage import here
from tests.integration.proving import EACH_STORE, STORES, Tampered, audited, columns
from tests.integration.rows import write_events
from tests.integration.windows import deliver, sealed
from tests.services import Services
from towpath.conf.current import config
from towpath.flow.delivery import Delivery
from towpath.flow.verify import verify_receipts
from towpath.ledger.models import Proof, Window
from towpath.outbox.models import OutboxEvent
from towpath.proof import unproven

OF_MARCH = ("--accept-unproven", "--since", "2026-03-01", "--until", "2026-04-01", "--reason", "upgraded")
OF_ALL = ("--accept-unproven", "--until", "2100-01-01", "--reason", "upgraded")


@pytest.fixture(params=EACH_STORE)
def old(request: pytest.FixtureRequest, services: Services, settings: Settings) -> Iterator[Tampered]:
    """Five verified windows without proofs. The receipts of two are gone, whose events are of March and of April."""
    store: Tampered = STORES[request.param](services)
    settings.TOWPATH = replace(config(), event_store_url=store.url)
    for number, time in enumerate(("2026-03-31 23:59", "2026-04-01 00:00", *["2026-04-02 00:00"] * 3)):
        write_events([f'{{"n": {number}}}', '{"n": 9}'], at=f"{time}+00")
        assert deliver(sealed(), store.store) is Delivery.ACKED
    assert verify_receipts(store.store, should_stop=lambda: False) == 0
    Proof.objects.all().delete()
    strays = Window.objects.order_by("number").values_list("id", flat=True)[:2]
    Window.objects.filter(id__in=list(strays)).delete()
    yield store
    store.close()


def accept(*arguments: str) -> dict[str, Any]:
    return audited(*arguments, "--yes")


def accepted_events() -> list[dict[str, object]]:
    found = OutboxEvent.objects.filter(event_type="unproven_windows_accepted").order_by("id")
    return [json.loads(event.event_context) for event in found]


def test_all_windows_without_a_proof_are_accepted_and_counted(old: Tampered, monkeypatch: pytest.MonkeyPatch) -> None:
    # Given more of them than are accepted in one commit
    monkeypatch.setattr(unproven, "_WINDOWS_PER_COMMIT", 2)
    before = audited()
    assert (before["exit"], before["unproven_windows"], len(before["differences"])) == (1, 3, 2)

    found = accept(*OF_ALL)

    # Then audits end well, each amendment says how many they were, and so do the events
    assert (found["exit"], found["accepted"]) == (0, 5)
    assert Proof.objects.filter(kind="accepted").count() == 5
    assert all(
        one["reason"].startswith("upgraded (accepted by ")
        and one["reason"].endswith(", one of 5 windows without a proof)")
        for one in audited()["amendments"]
    )
    events = accepted_events()
    assert [(one["windows"], one["stray"], one["rows"], one["together"]) for one in events] == [
        (2, 0, 4, 5),
        (2, 1, 4, 5),
        (1, 1, 2, 5),
    ]
    assert {one["until"] for one in events} == {"2100-01-01T00:00:00+00:00"}
    # And it does not license what comes later, in the store or in a receipt
    old.update("environment = 'x'", where="event_context = '{\"n\": 4}'")
    (window,) = Window.objects.order_by("number").values_list("id", flat=True)[:1]
    Window.objects.filter(id=window).update(bytes=1)
    assert sorted((one["kind"], one["window"] == str(window)) for one in audited()["differences"]) == [
        ("edited", False),
        ("receipt", True),
    ]


@pytest.mark.usefixtures("old")
def test_a_person_is_told_how_many_and_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    questions: list[str] = []

    def answer(question: str) -> str:
        questions.append(question)
        return "accept" if len(questions) > 1 else "yes"

    monkeypatch.setattr("builtins.input", answer)
    done = here("pipeline", "verify", "--deep", *OF_ALL)
    assert done.returncode == 1
    assert "Nothing was changed" in done.stderr
    assert not Proof.objects.exists()

    done = here("pipeline", "verify", "--deep", *OF_ALL)

    size = "5 window(s) without a proof, 10 row(s) (2 of the windows have no receipt)"
    assert questions == [f"Accept {size} as they are now? Type accept: "] * 2
    assert f"accepted: 5 of {size}" in done.stdout
    assert done.returncode == 0
    assert "Every window of this period has a proof" in here("pipeline", "verify", "--deep", *OF_ALL).stdout
    assert len(accepted_events()) == 1


def test_only_what_is_of_the_period_is_accepted(old: Tampered) -> None:
    # The receipts are of today
    found = accept(*OF_MARCH)

    assert (found["exit"], found["accepted"], found["unproven_windows"]) == (1, 1, 3)
    assert Proof.objects.get().month == datetime(2026, 3, 1, tzinfo=UTC).date()
    assert [one["month"] for one in found["differences"]] == ["2026-04"]
    # A stray with one event beyond the period is not of it
    stray = copy_of(old, '{"n": 1}')
    old.execute(_insert('{"n": 1}', stray, "'2026-04-01 12:00:00'"))
    found = accept("--accept-unproven", "--since", "2026-04-01", "--until", "2026-04-01T12:00", "--reason", "upgraded")
    assert found["accepted"] == 1
    assert {one["window"] for one in found["differences"]} == {str(stray)}
    today = datetime.now(UTC).date().isoformat()
    assert accept("--accept-unproven", "--since", today, "--reason", "upgraded")["accepted"] == 3


def test_what_contradicts_a_receipt_or_a_proof_is_not_accepted_with_the_others(old: Tampered) -> None:
    # Given a window that is proven and edited, and one that has lost a row since it was verified
    accept(*OF_MARCH)
    old.update("environment = 'x'", where="event_context = '{\"n\": 0}'")
    old.delete(where="event_context = '{\"n\": 3}'")
    short = Window.objects.order_by("number")[1].id

    done = here("pipeline", "verify", "--deep", *OF_ALL, "--yes")

    assert done.returncode == 1
    assert f"not accepted: window {short} does not match its receipt" in done.stdout
    assert "accepted: 3 of 3 window(s)" in done.stdout
    found = audited()
    assert found["unproven"] == [str(short)]
    assert [one["kind"] for one in found["differences"]] == ["edited"]
    assert not Proof.objects.filter(window_id=short).exists()
    # By its name, it is
    assert audited("--accept", str(short), "--reason", "lost")["unproven"] == []


@pytest.mark.usefixtures("old")
def test_a_list_of_windows_is_accepted_or_none_of_it(tmp_path: Path) -> None:
    windows = [*Window.objects.values_list("id", flat=True), *{one["window"] for one in audited()["differences"]}]
    names = tmp_path / "windows"
    names.write_text("\n".join([*map(str, windows), str(UUID(int=7))]))
    done = here("pipeline", "verify", "--deep", "--accept", f"@{names}", "--reason", "upgraded")
    assert done.returncode == 1
    assert f"has nothing of {UUID(int=7)}" in done.stderr
    assert not Proof.objects.exists()

    names.write_text("\n".join(map(str, windows)))
    found = audited("--accept", f"@{names}", "--reason", "upgraded")

    assert (found["exit"], found["accepted"]) == (0, 5)
    assert all(one["reason"].endswith(", one of 5 windows)") for one in found["amendments"])


def test_a_window_of_which_nothing_is_stored_is_accepted_as_empty(old: Tampered) -> None:
    # Given a window whose rows somebody has deleted before they were loaded
    write_events(["{}"], at="2026-04-02 00:00:00+00")
    window = sealed()
    OutboxEvent.objects.all().delete()
    assert deliver(window, old.store) is Delivery.ACKED
    assert verify_receipts(old.store, should_stop=lambda: False) == 0
    Proof.objects.all().delete()

    assert accept(*OF_ALL)["accepted"] == 6

    proof = Proof.objects.get(window_id=window.id)
    assert (proof.rows, proof.month, proof.outbox) == (0, None, "")
    assert audited()["exit"] == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--deep", "--accept-unproven", "--reason", "x"), "--accept-unproven needs a period"),
        (("--deep", "--accept-unproven", "--until", "2026-01-01"), "Say why"),
        (("--deep", "--accept", str(UUID(int=1))), "Say why"),
        (("--deep", "--yes"), "--yes needs --accept-unproven"),
        (("--deep", "--accept", str(UUID(int=1)), "--reason", "x", "--yes"), "--yes needs --accept-unproven"),
        (("--deep", "--reason", "x"), "--reason needs --accept or --accept-unproven"),
        (("--reason", "x"), "--reason needs --close, or --deep and --accept"),
        (("--accept-unproven", "--until", "2026-01-01", "--reason", "x"), "--accept-unproven needs --deep"),
        (("--deep", "--accept", str(UUID(int=1)), *OF_ALL), "not both"),
    ],
)
def test_wrong_usage_says_what_to_write(arguments: tuple[str, ...], problem: str) -> None:
    done = here("pipeline", "verify", *arguments)

    assert done.returncode == 2
    assert problem in done.stderr


@pytest.mark.parametrize(
    ("windows", "problem"),
    [
        ("@nowhere", "cannot read nowhere (No such file or directory)"),
        ("@pyproject.toml", "pyproject.toml must have window ids only"),
        ("x", "argument --accept: 'x' is not a window: write its id as `pipeline verify` shows it"),
    ],
)
def test_what_is_not_a_window_is_refused(windows: str, problem: str) -> None:
    done = here("pipeline", "verify", "--deep", "--accept", windows, "--reason", "x")

    assert done.returncode
    assert problem in done.stderr


def copy_of(old: Tampered, context: str) -> UUID:
    """A copy of a row in a window of its own; the window."""
    window = uuid4()
    old.execute(_insert(context, window, "event_date_time"))
    return window


def _insert(context: str, window: UUID, time: str) -> str:
    values = columns().replace("window_id", f"'{window}'").replace("event_date_time", time)
    return f"INSERT INTO event_log ({columns()}) SELECT {values} FROM event_log WHERE event_context = '{context}'"
