"""What the console makes of the status: words, lines, the runbook; and the thresholds that alerts share with it."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
import yaml

from deploy.local.process import PROJECT
from towpath.console import runbook, wording
from towpath.console.flow import _STAGE_OF
from towpath.console.lines import HEIGHT, WIDTH, line
from towpath.console.verdict import trouble, verdict
from towpath.ledger.batches import BatchCounts
from towpath.ledger.history import Minute
from towpath.watch import thresholds
from towpath.watch.consumers import Consumers
from towpath.watch.figures import Figures, LedgerFigures, OutboxFigures
from towpath.watch.problems import Kind, Problem
from towpath.watch.standstill import late_events
from towpath.watch.status import Status

NOW = datetime(2026, 11, 27, 3, 0, tzinfo=UTC)


def minute(ago: float, *, stored: int = 60) -> Minute:
    return Minute(NOW - timedelta(minutes=ago), 60.0, stored, 0, 0, 0, 0, None, None)


def status(*problems: Problem, age: float | None = None) -> Status:
    outboxes = {"outbox_event": OutboxFigures(1 if age is not None else 0, 0, 0, age)}
    figures = Figures(outboxes, BatchCounts(), LedgerFigures(), is_ledger_read=True)
    return Status(figures, problems)


def seconds_of(alert: str) -> int:
    rules = yaml.safe_load((PROJECT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8"))
    (expression,) = [rule["expr"] for group in rules["groups"] for rule in group["rules"] if rule["alert"] == alert]
    return int(re.findall(r"> (\d+)", expression)[0])


@pytest.mark.parametrize(
    ("alert", "seconds"),
    [
        ("TowpathEventsLate", thresholds.EVENTS_LATE_SECONDS),
        ("TowpathEventsStuck", thresholds.EVENTS_STUCK_SECONDS),
        ("TowpathCanaryLate", thresholds.CANARY_LATE_SECONDS),
        ("TowpathSealsLate", thresholds.SEALS_LATE_SECONDS),
    ],
)
def test_alerts_and_status_have_the_same_thresholds(alert: str, seconds: int) -> None:
    assert seconds_of(alert) == seconds


@pytest.mark.parametrize(
    ("panel", "alerts"),
    [
        ("Oldest undelivered event", ["TowpathEventsLate", "TowpathEventsStuck"]),
        ("Canary, from commit to queryable", ["TowpathCanaryLate"]),
        ("Oldest unverified receipt", ["TowpathReceiptsUnverified"]),
        ("Oldest proof without a seal", ["TowpathSealsLate"]),
    ],
)
def test_the_dashboard_s_lines_are_the_thresholds_of_the_alerts(panel: str, alerts: list[str]) -> None:
    dashboard = json.loads((PROJECT / "deploy/grafana/dashboards/towpath.json").read_text(encoding="utf-8"))
    (drawn,) = [one["fieldConfig"]["defaults"] for one in dashboard["panels"] if one["title"] == panel]

    assert [step["value"] for step in drawn["thresholds"]["steps"]] == [None, *map(seconds_of, alerts)]
    assert drawn["custom"]["thresholdsStyle"] == {"mode": "dashed"}


def test_the_dashboard_s_panels_have_each_an_id_of_its_own() -> None:
    dashboard = json.loads((PROJECT / "deploy/grafana/dashboards/towpath.json").read_text(encoding="utf-8"))
    ids = [panel["id"] for panel in dashboard["panels"]]

    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_kind_of_problem_has_a_section(kind: Kind) -> None:
    assert runbook.section_of(Problem(kind, "something: do something")) is not None


def test_rows_that_a_role_may_not_see_have_the_section_that_says_how_to_let_it() -> None:
    found = runbook.section_of(Problem("role", "row level security on users may hide rows from the role towpath"))

    assert found is not None
    assert "BYPASSRLS" in found.html


def test_a_problem_that_names_a_section_gets_that_one() -> None:
    found = runbook.section_of(Problem("row", "2 row(s) were deleted: see docs/runbook.md, TowpathRowsVanished"))

    assert found is not None
    assert found.title == "TowpathRowsVanished"


def test_what_the_runbook_says_is_escaped_and_its_marks_are_elements() -> None:
    assert runbook.inline("`a<b` **now** <i> [there](#x) [page](scale.md)") == (
        '<code>a&lt;b</code> <strong>now</strong> &lt;i&gt; <a href="runbook#x">there</a> page'
    )
    assert "<script" not in "".join(section.html for section in runbook.sections().values())


def test_every_link_within_the_runbook_leads_somewhere() -> None:
    found = runbook.sections().values()
    anchors = {section.anchor for section in found}

    assert {link for section in found for link in re.findall(r'href="runbook#([^"]+)"', section.html)} <= anchors


def test_a_problem_is_cut_into_what_is_wrong_and_what_to_do() -> None:
    found = trouble(Problem("consumer", "nobody consumes `a: b` (c: d). Start an aggregator: `run`"))

    assert (found.what, found.next_step) == ("Nobody consumes `a: b` (c: d)", "Start an aggregator: `run`")


@pytest.mark.parametrize(
    ("kind", "text", "what"),
    [
        (
            "store",
            "the store is away (refused (code: 210. Net: no)): start it",
            "The store is away (refused (code: 210. Net: no))",
        ),
        ("store", "the store is away (refused (code: 2): start it", "The store is away (refused (code: 2)"),
        (
            "pause",
            "it was paused by ada (see (the ticket: 12): events wait",
            "It was paused by ada (see (the ticket: 12)",
        ),
        ("pause", "it was paused by ada (:-) and so: on): events wait", "It was paused by ada (:-) and so: on)"),
    ],
)
def test_what_somebody_else_says_is_not_cut(kind: Kind, text: str, what: str) -> None:
    found = trouble(Problem(kind, text))

    assert found.what == what
    assert found.next_step in {"Start it", "Events wait"}


def test_an_open_section_keeps_its_name_when_a_graver_problem_comes() -> None:
    problem = Problem("row", "2 dead letter(s): look")
    before = verdict(status(problem)).troubles[0]
    after = verdict(status(Problem("store", "the store is away: start it"), problem)).troubles[1]

    assert (before.what, before.keep) == (after.what, after.keep)
    assert len({one.keep for one in verdict(status(problem, problem)).troubles}) == 2


def test_every_kind_of_problem_colours_a_stage() -> None:
    # Those of consumers colour the stages whose consumer is missing.
    assert set(get_args(Kind)) - _STAGE_OF.keys() == {"consumer"}


def test_the_gravest_problem_is_the_verdict() -> None:
    found = verdict(status(Problem("vacuum", "vacuum: wait"), Problem("window", "refused: look"), age=5))

    assert (found.level, found.title) == ("bad", "Refused")
    assert [one.level for one in found.troubles] == ["bad", "warn"]


@pytest.mark.parametrize(
    ("age", "level", "title"),
    [
        (None, "ok", "All events are delivered"),
        (60, "ok", "Events are flowing"),
        (61, "warn", "Events are late"),
        (901, "bad", "Events are late"),
    ],
)
def test_without_another_problem_the_age_is_the_verdict(age: float | None, level: str, title: str) -> None:
    found = verdict(status(*(Problem("late", text) for text in late_events(age)), age=age))

    assert (found.level, found.title) == (level, title)


def test_an_age_of_weeks_is_not_in_hours() -> None:
    (text,) = late_events(23_220_000)

    assert "the oldest undelivered one is 268 days old" in text


def test_an_age_that_is_graver_than_the_problem_decides_the_colour() -> None:
    assert verdict(status(Problem("pause", "paused: resume"), age=901)).level == "bad"


def test_consumers_are_unknown_while_rabbitmq_does_not_say() -> None:
    found = Consumers(unread="RabbitMQ is not reachable")

    assert (found.of("aggregator"), found.messages) == (None, None)
    assert [*found.problems()] == [
        "RabbitMQ is not reachable. Meanwhile, events are delivered from the ledger, seconds later"
    ]


def test_a_line_ends_at_the_right_and_is_broken_where_nobody_measured() -> None:
    minutes = [minute(ago) for ago in (60, 59, 2, 1, 0)]

    found = line(minutes, lambda one: one.stored_per_second, now=NOW, span_minutes=120, least_top=1)

    assert found.path.count("M") == found.area.count("Z") == 2
    assert found.path.startswith(f"M{WIDTH / 2:g} ")
    assert f"L{WIDTH:g} " in found.path
    assert max(float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", found.path)) <= HEIGHT


def test_a_minute_in_which_nothing_happened_took_no_zero_seconds() -> None:
    minutes = [minute(ago) for ago in range(10, -1, -1)]

    found = line(minutes, lambda one: None if one in minutes[3:8] else 2.0, now=NOW, span_minutes=120, least_top=1)

    assert found.path.count("M") == 2
    assert set(re.findall(r"[ML][\d.]+ ([\d.]+)", found.path)) == {"2"}


def test_a_line_without_a_minute_is_none() -> None:
    assert not line([], lambda _: 1.0, now=NOW, span_minutes=120, least_top=1)


@pytest.mark.parametrize(
    ("length", "text"),
    [
        (None, wording.NONE),
        (-0.01, "0.0 s"),
        (0.84, "0.8 s"),
        (9.96, "10 s"),
        (64.2, "64 s"),
        (119.7, "2 min"),
        (150, "2 min"),
        (7300, "2.0 h"),
        (200_000, "2 days"),
    ],
)
def test_a_length_of_time_is_short(length: float | None, text: str) -> None:
    assert wording.seconds(length) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, wording.NONE), (0.0, "0/s"), (0.44, "0.4/s"), (1418.2, "1,418/s"), (1 / 60, "1/min"), (9.96, "10/s")],
)
def test_a_rate_is_short(number: float | None, text: str) -> None:
    assert wording.rate(number) == text
