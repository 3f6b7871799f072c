"""Alert rules, dashboard and documentation against the metrics that exist."""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import REGISTRY, Metric

from deploy.local.process import PROJECT
from tests.deploy.compose import FILE, ROLES
from towpath.telemetry import metrics, report

STAGES = ("publish", "dispatch", "accumulate", "seal", "load", "write", "ack", "recover", "verify")

#: Where gunicorn listens in a container (deploy/role).
WEB_PORT = 8000

#: The page that the code writes: tests/reference_pages.py.
METRICS = PROJECT / "docs" / "reference" / "metrics.md"
#: What Prometheus itself makes of a scrape.
OF_PROMETHEUS = {"up"}


def declared() -> dict[str, set[str]]:
    """Every series name that the pipeline can have, with its labels."""
    found = {gauge.name: {gauge.label} if gauge.label else set() for gauge in metrics.LEDGER_GAUGES}
    for metric in _counted():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}[metric.type]
        labels = {label for sample in metric.samples for label in sample.labels} or _labels(metric.name)
        for suffix in suffixes:
            found[metric.name + suffix] = labels
    return found


def _counted() -> list[Metric]:
    return [metric for metric in REGISTRY.collect() if metric.name.startswith("towpath_")]


def _labels(name: str) -> set[str]:
    """Of a metric that has no series yet."""
    for declaration in vars(metrics).values():
        if getattr(declaration, "_name", None) == name:
            return set(declaration._labelnames)
    return set()


def expressions() -> list[tuple[str, str]]:
    """(where, PromQL) of every alert rule and every panel."""
    found = [(rule["alert"], rule["expr"]) for rule in alerts()]
    for panel in panels():
        # Grafana puts a duration in the place of this variable.
        found += [
            (panel["title"], target["expr"].replace("$__rate_interval", "1m")) for target in panel.get("targets", [])
        ]
    return found


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load((PROJECT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    dashboard: dict[str, Any] = json.loads((PROJECT / "deploy/grafana/dashboards/towpath.json").read_text())
    found: list[dict[str, Any]] = dashboard["panels"]
    return found


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_rules_and_panels_use_metrics_and_labels_that_exist(where: str, expression: str) -> None:
    promql_parser.parse(expression)  # raises ValueError

    known = declared()
    names = set(re.findall(r"\b(?:towpath_\w+|up)\b", re.sub(r'"[^"]*"', "", expression)))
    assert names, where
    assert names <= known.keys() | OF_PROMETHEUS, where
    labels = {label for name in names for label in known.get(name, {"job", "instance"})} | {"le"}
    grouped = {label for by in re.findall(r"by \(([^)]*)\)", expression) for label in by.split(", ")}
    selected = set(re.findall(r"(\w+)=~?\"", expression))
    assert grouped | selected <= labels, where


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_every_alert_has_its_section_in_the_runbook(rule: dict[str, Any]) -> None:
    runbook = (PROJECT / "docs/runbook.md").read_text()

    assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
    assert f"\n## {rule['alert']}\n" in runbook
    assert rule["labels"]["severity"] in {"warning", "critical"}


def test_the_runbook_has_no_section_of_an_alert_that_does_not_exist() -> None:
    sections = re.findall(r"^## (Towpath\w+)$", (PROJECT / "docs/runbook.md").read_text(), re.MULTILINE)

    assert sorted(sections) == sorted(rule["alert"] for rule in alerts())


def test_every_role_is_scraped_and_missed_when_it_is_away() -> None:
    scraped = {config["job_name"] for config in scrape_configs()}
    (down,) = [rule["expr"] for rule in alerts() if rule["alert"] == "TowpathWorkerDown"]

    assert {f"towpath-{role}" for role in ROLES} <= scraped
    # Of the web process's metrics, the ledger's, `TowpathUnmeasured` says when they are missing.
    (jobs,) = re.findall(r'up\{job=~"([^"]+)"\} == 0', down)
    assert set(jobs.split("|")) == {f"towpath-{role}" for role in ROLES} - {"towpath-web"}


def test_the_roles_are_scraped_where_the_compose_file_makes_them_serve() -> None:
    composed = yaml.safe_load(FILE.read_text())
    ports = {role: int(composed["services"][role]["environment"].get("METRICS_PORT", WEB_PORT)) for role in ROLES}

    for config in scrape_configs():
        for found in config.get("dns_sd_configs", []):
            (name,) = found["names"]
            assert config["job_name"] == f"towpath-{name}"
            assert found["port"] == ports.pop(name)
    assert ports == {}


def scrape_configs() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((PROJECT / "deploy/prometheus/prometheus.yml").read_text())[
        "scrape_configs"
    ]
    return found


def test_no_alert_is_about_a_depth() -> None:
    depths = ("towpath_pending_rows", "towpath_in_flight_rows", "towpath_unsealed_batches", "towpath_open_windows")

    assert not [rule["alert"] for rule in alerts() for depth in depths if depth in rule["expr"]]


def test_the_dashboard_has_a_row_for_each_stage_in_the_order_of_the_flow() -> None:
    assert tuple(panel["title"] for panel in panels() if panel["type"] == "row") == STAGES


def test_a_panel_of_a_stage_s_metric_is_in_the_row_of_the_stage() -> None:
    """By the label `stage`, or because the metric has the name of the stage's work."""
    words = {
        "dispatch": "dispatched|pending|batches_total",
        "accumulate": "windows_total|rejected",
        "load": "loaded",
        "write": "inserts",
        "ack": "acked|window_rows",
        "recover": "recovered|leases_lost",
        "verify": "verified|mismatched",
    }
    row = ""
    for panel in panels():
        row = panel["title"] if panel["type"] == "row" else row
        for target in panel.get("targets", []):
            stages = set(re.findall(r'stage="(\w+)"', target["expr"]))
            stages |= {stage for stage, word in words.items() if re.search(rf"towpath_(?:{word})", target["expr"])}
            assert stages <= {row}, panel["title"]


def test_every_metric_is_on_the_dashboard() -> None:
    shown = " ".join(target["expr"] for panel in panels() for target in panel.get("targets", []))

    names = {gauge.name for gauge in metrics.LEDGER_GAUGES} | {metric.name for metric in _counted()}
    assert not [name for name in names if not re.search(rf"\b{name}(_total|_bucket|_sum|_count)?\b", shown)]


def test_every_metric_is_documented_and_nothing_else() -> None:
    text = METRICS.read_text()
    documented = set(re.findall(r"^\| `(towpath_\w+)", text, re.MULTILINE))

    exposed = {gauge.name for gauge in metrics.LEDGER_GAUGES}
    exposed |= {metric.name + ("_total" if metric.type == "counter" else "") for metric in _counted()}
    assert documented == exposed


LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}


@dataclass
class Logged:
    """What the product's source logs as one event: at which levels, with which fields."""

    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)


@cache
def logged() -> dict[str, Logged]:
    """By the event's name; all of the source is read for it, once."""
    found: defaultdict[str, Logged] = defaultdict(Logged)
    for path in (PROJECT / "pipeline").rglob("*.py"):
        tree = ast.parse(path.read_text())
        # A level may be chosen before: see flow/shift.py.
        chosen = {
            node.targets[0].id: _levels(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            levels = chosen.get(node.func.id, set()) if isinstance(node.func, ast.Name) else _levels(node.func)
            for event in _events(node.args[0], path) if levels else ():
                found[event].levels |= levels
                found[event].fields |= {given.arg for given in node.keywords if given.arg not in {None, "exc_info"}}
    return found


def _levels(node: ast.expr) -> set[str]:
    """Of `log.info`, `context.info`, and of a choice between two such."""
    if isinstance(node, ast.IfExp):
        return _levels(node.body) | _levels(node.orelse)
    return {LEVELS[node.attr]} if isinstance(node, ast.Attribute) and node.attr in LEVELS else set()


def _events(node: ast.expr, path: Path) -> set[str]:
    if isinstance(node, ast.Subscript):  # _EVENTS[stage]
        assert path.name == "report.py"
        return set(report._EVENTS.values())
    names = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}
    return {name for name in names if re.fullmatch(r"[a-z]+(_[a-z]+)+", name)}


def documented_events() -> dict[str, list[str]]:
    """The cells after its name, of each row of the table of log events."""
    text = (PROJECT / "docs/operating.md").read_text()
    (table,) = re.findall(r"^\| event \| stage .*?\n(?=\n)", text, re.MULTILINE | re.DOTALL)
    rows = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in table.splitlines()[2:]]
    return {name.strip("`"): cells for name, *cells in rows}


def test_every_log_event_is_documented_and_nothing_else() -> None:
    assert documented_events().keys() == logged().keys()
    assert len(logged()) > 40


@pytest.mark.parametrize("event", sorted(documented_events()))
def test_a_log_event_is_documented_with_its_stage_its_levels_and_its_fields(event: str) -> None:
    stage, level, text = documented_events()[event]

    assert set(stage.split(", ")) <= {*STAGES, "start", "stop", "scrape", "any"}
    assert set(level.split(", ")) == logged()[event].levels
    assert {name for name in logged()[event].fields if f"`{name}`" not in text} == set()


def _closed_labels() -> dict[str, set[str]]:
    """The values of every label that is not an outbox, a shift or an actor, by metric."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for metric in _counted():
        for sample in metric.samples:
            for label, value in sample.labels.items():
                if label not in {"le", "outbox", "shift", "actor"}:
                    found[metric.name].add(value)
    return found


@pytest.mark.parametrize("metric", sorted(_closed_labels()))
def test_every_value_of_a_closed_label_is_documented_with_its_metric(metric: str) -> None:
    text = METRICS.read_text()
    (row,) = re.findall(rf"^\| `{metric}(?:_total)?` .*$", text, re.MULTILINE)

    assert {value for value in _closed_labels()[metric] if f"`{value}`" not in row} == set()


def test_every_label_is_documented_with_its_metric() -> None:
    text = METRICS.read_text()
    documented = {
        name: set(re.findall(r"`(\w+)`", labels))
        for name, labels in re.findall(r"^\| `(towpath_\w+)` \| [^|]* \|([^|]*)\|", text, re.MULTILINE)
    }

    for name, labels in declared().items():
        if name in documented:
            assert documented[name] == labels - {"le"}, name


def test_the_metrics_have_the_words_of_the_stages() -> None:
    """Prometheus's conventions: base units, and `_total` on counters only."""
    for name in declared():
        assert re.fullmatch(r"towpath_[a-z_]+", name)
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb)\b", name)
    for gauge in metrics.LEDGER_GAUGES:
        assert not gauge.name.endswith("_total")
