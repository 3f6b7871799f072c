"""Audits that end early: what they have found is printed, noted and recorded, and the continued audit names it, too."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connection
from pytest_django import Settings

from tests.integration.manage import here, status
from tests.integration.proving import EACH_STORE, STORES, Tampered, audited
from tests.integration.rows import write_events
from tests.integration.test_operating import refusing
from tests.integration.windows import deliver, sealed
from tests.services import Services
from towpath.conf.current import config
from towpath.flow.delivery import Delivery
from towpath.flow.verify import verify_receipts
from towpath.ledger.models import ContradictedWindow, Proof
from towpath.outbox.models import OutboxEvent
from towpath.proof import deep

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg2.extensions import connection as PostgresSession  # noqa: N812 - a class


@pytest.fixture(params=EACH_STORE)
def three(
    request: pytest.FixtureRequest, services: Services, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Tampered]:
    """Three verified windows of two rows each, of which the first two are changed. Each is a page of an audit."""
    monkeypatch.setattr(deep, "_PROOFS_PER_PAGE", 1)
    store: Tampered = STORES[request.param](services)
    settings.TOWPATH = replace(config(), event_store_url=store.url)
    for day in (1, 2, 3):
        write_events(['{"n": 1}', '{"n": 2}'], at=f"2026-03-0{day} 00:00:00+00")
        assert deliver(sealed(), store.store) is Delivery.ACKED
    assert verify_receipts(store.store, should_stop=lambda: False) == 0
    OutboxEvent.objects.all().delete()
    store.update("environment = 'x'", where="event_date_time < '2026-03-03 00:00:00'")
    yield store
    store.close()


@pytest.fixture(autouse=True)
def ctrl_c_interrupts() -> Iterator[None]:
    """A shell starts what it runs in the background with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def windows() -> list[str]:
    return [str(window) for window in Proof.objects.order_by("position").values_list("window_id", flat=True)]


def positions() -> list[int]:
    return list(Proof.objects.order_by("position").values_list("position", flat=True))


@contextmanager
def as_soon_as_both_are_noted(act: Callable[[], None]) -> Iterator[None]:
    """Do something in the middle of an audit: it has found both changed windows, and is about to wait for its pace."""
    wait = deep.Pace.wait
    acted: list[Callable[[], None]] = []

    def wait_after_acting(pace: deep.Pace, rows: int) -> None:
        if not acted and ContradictedWindow.objects.count() == 2:
            acted.append(act)
            act()
        wait(pace, rows)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(deep.Pace, "wait", wait_after_acting)
        yield
    assert acted


def interrupt() -> None:
    """Press Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


def recorded() -> dict[str, Any]:
    """What the newest event about an audit says."""
    event = OutboxEvent.objects.filter(event_type="log_audited").latest("id")
    found: dict[str, Any] = json.loads(event.event_context)
    return found


def named(audit: dict[str, Any]) -> list[str]:
    return [difference["window"] for difference in audit["differences"]]


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_what_was_found_before_a_stop_is_printed_noted_and_recorded(stop: signal.Signals) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with as_soon_as_both_are_noted(lambda: os.kill(os.getpid(), stop)):
        done = here("pipeline", "verify", "--deep", "--since", "2020-01-01")

    # Then both are named, and the person is told how to continue
    assert signal.getsignal(signal.SIGTERM) is before
    assert done.returncode == 1
    assert all(f"window {window}" in done.stdout for window in windows()[:2])
    assert "This audit is not complete." in done.stdout
    after = positions()[0]
    assert done.stderr == f"Stopped. Continue with --after {after}.\n"
    # And it is a problem, and an event
    assert status()["contradicted_proofs"] == 2
    assert recorded() | {"audited_by": ""} == {
        "windows": 1,
        "rows": 2,
        "seals": 0,
        "findings": 2,
        "is_complete": False,
        "after": 0,
        "position": after,
        "since": "2020-01-01T00:00:00+00:00",
        "until": "",
        "audited_by": "",
    }


def test_the_continued_audit_names_what_still_holds(three: Tampered) -> None:
    with as_soon_as_both_are_noted(interrupt):
        stopped = audited()
    assert (stopped["exit"], stopped["is_ok"], stopped["is_complete"]) == (1, False, False)
    assert (named(stopped), stopped["position"]) == (windows()[:2], positions()[0])

    # Even above every window
    for after in (stopped["position"], positions()[-1]):
        found = audited("--after", str(after))
        assert (found["exit"], found["is_complete"]) == (1, True)
        assert sorted(named(found)) == sorted(windows()[:2])
    assert recorded()["after"] == positions()[-1]

    # Of a period in which they were not dispatched, nothing is named
    assert audited("--after", str(positions()[-1]), "--until", "2020-01-01")["exit"] == 0
    assert status()["contradicted_proofs"] == 2

    # When they are as they were proven
    three.update(f"environment = '{config().environment}'", where="environment = 'x'")
    assert audited("--after", str(positions()[-1]))["exit"] == 0
    assert status()["contradicted_proofs"] == 0


def test_what_was_found_before_the_event_store_failed_is_printed_noted_and_recorded(three: Tampered) -> None:
    tables = ("event_log", "event_log_away")
    rename = "RENAME TABLE {} TO {}" if "clickhouse" in three.url else "ALTER TABLE {} RENAME TO {}"
    try:
        with as_soon_as_both_are_noted(lambda: three.execute(rename.format(*tables))):
            done = here("pipeline", "verify", "--deep", "--json")
    finally:
        three.execute(rename.format(*reversed(tables)))

    assert done.returncode == 1
    assert named(json.loads(done.stdout)) == windows()[:2]
    assert done.stderr.startswith("The event store does not answer")
    assert done.stderr.endswith(f"Continue with --after {positions()[1]}.\n")
    assert status()["contradicted_proofs"] == 2
    assert (recorded()["findings"], recorded()["is_complete"]) == (2, False)


@pytest.mark.usefixtures("three")
def test_when_postgresql_fails_the_person_is_told_how_to_continue(session: PostgresSession) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        ((backend,),) = cursor.fetchall()

    def end_the_session() -> None:
        with session.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", [backend])

    with as_soon_as_both_are_noted(end_the_session):
        done = here("pipeline", "verify", "--deep")
    connection.close()

    assert done.returncode == 1
    assert done.stderr.startswith("PostgreSQL does not answer")
    assert done.stderr.endswith(f". Continue with --after {positions()[1]}.\n")
    # And the continued run names what this one has found
    found = audited("--after", str(positions()[1]))
    assert (found["exit"], sorted(named(found))) == (1, sorted(windows()[:2]))


@pytest.mark.usefixtures("three")
def test_what_was_found_is_printed_even_if_the_role_may_not_publish_it() -> None:
    with refusing():
        with as_soon_as_both_are_noted(interrupt):
            stopped = here("pipeline", "verify", "--deep")
        whole = here("pipeline", "verify", "--deep")

    for done in (stopped, whole):
        assert done.returncode == 1
        assert all(f"window {window}" in done.stdout for window in windows()[:2])
        assert "there is no record of this audit" in done.stderr
        assert "may not" in done.stderr
    assert stopped.stderr.startswith(f"Stopped. Continue with --after {positions()[0]}. What is printed holds")


@pytest.mark.usefixtures("three")
def test_an_audit_that_is_stopped_without_findings_does_not_say_that_all_is_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stop(*_: object, **__: object) -> Iterator[deep.Difference]:
        raise KeyboardInterrupt

    monkeypatch.setattr(deep, "check", stop)

    done = here("pipeline", "verify", "--deep", "--after", "2")

    assert done.returncode == 1
    assert done.stdout.endswith("This audit is not complete.\nnothing contradicts the ledger so far\n")
    assert done.stderr == "Stopped. Continue with --after 2.\n"
