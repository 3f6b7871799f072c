"""The page, the metrics and the dashboard show the same figures: of one definition, and not of three that are alike."""

from __future__ import annotations

import html
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client

from backend.users.models import User
from deploy.local.process import PROJECT
from tests.integration.rows import create_users, write_events
from tests.integration.windows import deliver, deliver_all, sealed
from towpath.console import seen, wording
from towpath.console.models import VIEW
from towpath.flow import canary
from towpath.flow.verify import verify_receipts
from towpath.ledger.models import DeadLetter
from towpath.telemetry.metrics import LEDGER_GAUGES
from towpath.watch.gauges import read_gauges

if TYPE_CHECKING:
    from towpath.eventlog.store import Store

#: What the page says in words only: beside the aggregators, or as a problem.
IN_WORDS = {
    "towpath_unsealed_batches",
    "towpath_expired_leases",
    "towpath_vacuum_held_seconds",
    "towpath_vanished_windows",
}


@pytest.fixture
def state(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A little of everything, and all of it long ago: a second more or less changes no text."""
    # What was seen in another test is fresh for two seconds, and is shown for longer where PostgreSQL is slow.
    monkeypatch.setattr(seen, "_last", None)
    monkeypatch.setattr(seen, "_SECONDS", 60.0)
    seen.look_anew()
    write_events(["{}"] * 20)
    write_events(["{}"] * 3, at="infinity")
    deliver_all(store)
    assert DeadLetter.objects.count() == 3
    create_users(4)
    deliver(sealed(), store)
    verify_receipts(store, should_stop=lambda: False)
    write_events(["{}"] * 7)
    deliver(sealed(), store)
    write_events(["{}"] * 5)
    sealed()
    write_events(["{}"] * 2)
    create_users(1, prefix="later")
    canary.send_if_due(every_seconds=60)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO pipeline_shift (name, token, taken_at, alive_at)
            SELECT name, gen_random_uuid(), now() - interval '50 h', now() - interval '100 h'
            FROM unnest(ARRAY['dispatch', 'recover']) AS name;
            UPDATE pipeline_window SET acked_at = acked_at - interval '30 h', dispatched_from = now() - interval '40 h'
            WHERE acked_at IS NOT NULL;
            UPDATE pipeline_proof SET proven_at = proven_at - interval '20 h';
            UPDATE pipeline_canary SET published_at = published_at - interval '105 min';
            UPDATE users SET created_at = '2026-01-01T00:00:00Z'
            """
        )


def page() -> list[tuple[str, str, str]]:
    """The page's numbers that are a metric: its name, of what, and the text."""
    viewer = User.objects.create(email="ada@example.com", first_name="Ada", last_name="L", is_staff=True)
    app, name = VIEW.split(".")
    viewer.user_permissions.add(Permission.objects.get(codename=name, content_type__app_label=app))
    client = Client()
    client.force_login(viewer, backend="django.contrib.auth.backends.ModelBackend")
    found = re.findall(
        r'data-metric="(\w+)" data-of="(\w*)">(.*?)</(?:td|dd|b)>',
        client.get("/pipeline/live").content.decode(),
        re.DOTALL,
    )
    return [(metric, of, html.unescape(re.sub(r"<[^>]+>", "", text)).strip()) for metric, of, text in found]


#: What the page says for the value 0 of an age.
NOTHING = {
    "towpath_oldest_age_seconds": wording.NONE,
    "towpath_unverified_age_seconds": "all verified",
    "towpath_unsealed_proofs_age_seconds": "all sealed",
}


def said(metric: str, value: float) -> str:
    """The metric's value as the page writes such."""
    if not value and metric in NOTHING:
        return NOTHING[metric]
    if metric.endswith("timestamp_seconds"):
        at = datetime.fromtimestamp(value, UTC)
        return f"{at.day} {at:%b, %H:%M:%S}"
    if metric.endswith("_seconds"):
        return f"{wording.seconds(value)}{' ago' if metric.startswith('towpath_shift') else ''}"
    return wording.count(value)


@pytest.mark.usefixtures("state")
def test_each_number_of_the_page_is_the_value_of_its_metric() -> None:
    # The page first: signing in is an event, too.
    shown = page()
    gauges = {gauge.name: values for gauge, values in read_gauges().items()}

    assert len(shown) == len({(metric, of) for metric, of, _ in shown}) > 20
    # Not all the same, and not all nothing.
    assert len({text for _, _, text in shown}) > 10
    for metric, of, text in shown:
        if of in gauges[metric]:
            assert text == said(metric, gauges[metric][of]), (metric, of)
        else:  # an outbox that was never dispatched
            assert text == wording.NONE, (metric, of)


@pytest.mark.usefixtures("state")
def test_every_gauge_is_on_the_page_and_whatever_is_on_the_page_is_on_the_dashboard() -> None:
    shown = {metric for metric, _, _ in page()}
    dashboard = json.loads((PROJECT / "deploy/grafana/dashboards/towpath.json").read_text(encoding="utf-8"))
    drawn = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", []))

    assert shown == {gauge.name for gauge in LEDGER_GAUGES} - IN_WORDS
    assert {metric for metric in shown if not re.search(rf"\b{metric}\b", drawn)} == set()
