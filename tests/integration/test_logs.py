"""Logs: an event per stage, the request that caused it, and never a payload or a secret, whatever goes wrong."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import urllib3
from django.db import connection
from structlog.testing import capture_logs

from deploy.local.process import PROJECT
from tests.integration.event_log import EventLog
from tests.integration.invariants import assert_delivered_within
from tests.integration.manage import manage
from tests.integration.queues import queue_length
from tests.integration.rows import create_users, undelivered, write_events
from tests.integration.scraping import get
from tests.integration.stores import LosesInserts
from tests.integration.windows import age_batches, deliver, dispatched, expire_leases, recover, sealed
from tests.integration.workers import QUICK, Workers
from tests.services import ARE_GIVEN, Services
from tests.waiting import eventually
from towpath.eventlog.connect import connect
from towpath.eventlog.store import EventStore
from towpath.flow.delivery import Delivery
from towpath.ledger.models import DeadLetter, Window

WAIT_SECONDS = 60

#: In every payload and password of this test, and nowhere else in the world.
MARK = "swordfish6f1d0c9a52b84e7fb3a7c1d2e9f80a46"


def lines(folder: Path, process: str) -> list[dict[str, Any]]:
    """The lines of a process's whole output, each of which is JSON. (It may be writing the last one now.)"""
    text = (folder / f"{process}.log").read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


@pytest.fixture
def folder(services: Services, request: pytest.FixtureRequest) -> Path:
    """Where this test's processes log to."""
    name: str = request.node.name
    return services.folder / "log" / name[:80]


def post(services: Services, body: bytes | dict[str, str], **headers: str) -> int:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    url = f"http://127.0.0.1:{services.web_port}/api/users"
    headers = {"Content-Type": "application/json", **headers}
    return urllib3.PoolManager().request("POST", url, body=data, headers=headers).status


def test_each_stage_of_a_window_is_one_line_with_its_rows_and_seconds(
    workers: Workers, event_log: EventLog, services: Services, folder: Path
) -> None:
    workers.dispatcher(**QUICK)
    workers.aggregator(**QUICK)
    workers.web()
    workers.wait_until_ready()

    # When a request publishes an event
    ada = {"email": "ada@example.com", "first_name": "Ada", "last_name": "L"}
    assert post(services, ada, **{"X-Request-ID": "request-of-ada"}) == 201
    assert_delivered_within(event_log, committed=1, seconds=WAIT_SECONDS)

    # Then the stages of its window can be read, and the event log leads from them to the request
    window = str(Window.objects.get().id)
    by_event = eventually(lambda: _stages_of(folder, window), seconds=WAIT_SECONDS)
    for event in ("window_sealed", "window_loaded", "window_written", "window_acked"):
        (line,) = by_event[event]
        assert line["rows"] == 1
        assert 0 <= line["seconds"] < WAIT_SECONDS
    assert [event.window_id for event in event_log.events()] == [window]
    assert [who.request_id for who in event_log.who()] == ["request-of-ada"]
    dispatched = [line for line in lines(folder, "dispatcher") if line["event"] == "batches_dispatched"]
    assert [(line["rows"], line["batches"]) for line in dispatched] == [({"outbox_user": 1}, 1)]
    assert 0 <= dispatched[0]["seconds"] < WAIT_SECONDS


def _stages_of(folder: Path, window: str) -> dict[str, list[dict[str, Any]]]:
    by_event: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines(folder, "aggregator-1"):
        if line.get("window") == window:
            by_event[line["event"]].append(line)
    return by_event if "window_acked" in by_event else {}


def test_recovery_says_what_it_has_taken_up(store: EventStore) -> None:
    # Given a window that nobody delivers any more, and batches that nobody has sealed
    create_users(3)
    window = sealed()
    expire_leases()
    create_users(4, prefix="unsealed")
    dispatched(batch_ids=2)
    age_batches()

    with capture_logs() as logs:
        recover(store, should_stop=lambda: False)

    told = [line for line in logs if line["event"].endswith("_recovered")]
    assert [line["event"] for line in told] == ["batches_recovered", "window_recovered"]
    assert (told[0]["batches"], told[0]["rows"]) == (2, 4)
    assert (told[1]["window"], told[1]["attempt"]) == (str(window.id), 2)
    assert [line["rows"] for line in logs if line["event"] == "window_acked"] == [4, 3]


def test_a_delivery_that_fails_says_which_window_it_was_and_why(store: EventStore) -> None:
    # Given windows for a store that is away, that loses its answer, that refuses every row, and one that is lost
    away = connect("clickhouse://127.0.0.1:1/default", timeout_seconds=1)
    events = {}
    with capture_logs() as logs:
        for event, to, at, delivery in (
            ("window_postponed", away, "2026-11-24", Delivery.POSTPONED),
            ("window_outcome_unknown", LosesInserts(away), "2026-11-24", Delivery.POSTPONED),
            ("schema_refused", store, "infinity", Delivery.REFUSED),
        ):
            write_events(["{}"] * 20, at=at)
            events[event] = window = sealed()
            assert deliver(window, to) is delivery
        write_events(["{}"] * 20)
        events["window_lease_lost"] = window = sealed()
        with connection.cursor() as cursor:
            cursor.execute("UPDATE pipeline_window SET lease_token = gen_random_uuid()")
        assert deliver(window, store) is Delivery.LEASE_LOST

    # Then each has its line
    told = {line["event"]: line for line in logs if line["event"] in events}
    assert {event: line["window"] for event, line in told.items()} == {e: str(w.id) for e, w in events.items()}
    assert all((line["rows"], line["attempt"]) == (20, 1) for line in told.values())
    assert {event for event, line in told.items() if line.get("retry_in_seconds", 0) > 0} == {
        "window_postponed",
        "schema_refused",
    }
    assert all(line["error"] for event, line in told.items() if event != "window_lease_lost")
    assert {event for event, line in told.items() if line["log_level"] == "error"} == {"schema_refused"}


def test_what_is_logged_during_a_request_names_it(workers: Workers, services: Services, folder: Path) -> None:
    workers.web()
    workers.wait_until_ready()

    ada = {"email": "ada@example.com", "first_name": "refused", "last_name": "L"}
    with constraint_on_users("first_name <> 'refused'"):
        assert post(services, ada, **{"X-Request-ID": "request-of-ada"}) == 500

    told = eventually(lambda: [line for line in lines(folder, "web") if "exception" in line], seconds=WAIT_SECONDS)
    assert [line["request_id"] for line in told] == ["request-of-ada"] * len(told)


@pytest.mark.parametrize(
    ("is_terminal", "environment", "is_json"),
    [(True, {}, False), (False, {}, True), (True, {"LOG_JSON": "true"}, True), (False, {"LOG_JSON": "false"}, False)],
)
def test_logs_are_for_people_at_a_terminal_and_json_elsewhere(
    *, is_terminal: bool, environment: dict[str, str], is_json: bool
) -> None:
    script = "import backend.config.settings, structlog; structlog.get_logger().info('hello', to='you')"
    ours, theirs = pty.openpty() if is_terminal else os.pipe()
    subprocess.run(
        [sys.executable, "-c", script],
        cwd=PROJECT,
        env={**{name: value for name, value in os.environ.items() if name != "LOG_JSON"}, **environment},
        stderr=theirs,
        timeout=60,
        check=True,
    )
    line = os.read(ours, 10_000).decode()
    os.close(ours)
    os.close(theirs)

    assert "hello" in line
    assert line.startswith("{") == is_json


def test_every_line_of_every_role_is_json_from_the_first_to_the_last(
    workers: Workers, event_log: EventLog, folder: Path
) -> None:
    # Given every role, with all that the libraries say, and one more worker
    started = {
        "scheduler": workers.scheduler(LOG_LEVEL="DEBUG"),
        "dispatcher": workers.dispatcher(**QUICK, LOG_LEVEL="DEBUG"),
        "aggregator-1": workers.aggregator(**QUICK, LOG_LEVEL="DEBUG"),
        "aggregator-2": workers.aggregator(2, **QUICK, LOG_LEVEL="DEBUG"),
        "web": workers.web(LOG_LEVEL="DEBUG"),
    }
    workers.wait_until_ready()
    create_users(3)
    assert_delivered_within(event_log, committed=3, seconds=WAIT_SECONDS)
    eventually(lambda: "verify" in (folder / "scheduler.log").read_text(), seconds=WAIT_SECONDS)

    # When the worker process of one is killed, and the others are told to end
    (worker,) = [
        child
        for child in psutil.Process(started["aggregator-2"].pid).children()
        if "tracker" not in str(child.cmdline())
    ]
    worker.kill()
    eventually(lambda: not started["aggregator-2"].is_running, seconds=WAIT_SECONDS)
    for process in started.values():
        process.stop()

    # Then all that they have ever said is JSON, also what their masters say of the others
    said = {name: [line["event"] for line in lines(folder, name)] for name in started}
    for name in started:
        assert {"event", "level", "logger", "timestamp"} <= set.intersection(*map(set, lines(folder, name))), name
    assert said["scheduler"][0].startswith("Starting Periodiq")
    assert "Loading broker..." in said["dispatcher"]
    assert any("booting up" in event for event in said["dispatcher"])
    assert "worker_drained" in said["aggregator-1"]
    assert any("exited unexpectedly" in event for event in said["aggregator-2"])
    assert any("Starting gunicorn" in event for event in said["web"])
    assert any("Shutting down" in event for event in said["web"])


@pytest.mark.parametrize(("level", "hears_info", "hears_debug"), [("WARNING", False, False), ("INFO", True, False)])
def test_the_scheduler_s_log_has_the_level_of_the_settings(
    workers: Workers, folder: Path, *, level: str, hears_info: bool, hears_debug: bool
) -> None:
    """periodiq sets another one."""
    workers.scheduler(LOG_LEVEL=level)

    eventually(lambda: queue_length("towpath.dispatch") >= 3, seconds=WAIT_SECONDS)

    levels = {line["level"] for line in lines(folder, "scheduler")}
    assert ("info" in levels, "debug" in levels) == (hears_info, hears_debug)


def test_a_program_that_is_none_of_ours_is_wrong_usage() -> None:
    for arguments in ((), ("cook",)):
        done = subprocess.run(
            [sys.executable, "-m", "towpath.conf.launch", *arguments],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, "dramatiq or periodiq" in done.stderr) == (2, True)


def test_no_payload_and_no_secret_gets_into_any_output(workers: Workers, services: Services, folder: Path) -> None:
    # Given processes that say all they can, with the mark in their keys
    loud = {**QUICK, "LOG_LEVEL": "DEBUG", "SECRET_KEY": f"key-{MARK}", "EVENT_HASH_KEY": f"hash-{MARK}"}
    workers.dispatcher(**loud)
    workers.aggregator(**loud)
    workers.scheduler(**loud)
    workers.web(**loud)
    workers.wait_until_ready()

    # When payloads with the mark go every way: stored, taken, wrong, cut off, refused by a constraint of the database
    marked = {"email": f"{MARK}@example.com", "first_name": MARK, "last_name": MARK}
    assert post(services, marked) == 201
    assert post(services, marked) == 409
    assert post(services, {**marked, "email": f"{MARK} is not an address"}) == 422
    assert post(services, {**marked, "extra": MARK}) == 422
    assert post(services, json.dumps(marked).encode()[:-5]) == 400
    with constraint_on_users(f"first_name <> 'other{MARK}'"):
        assert post(services, {**marked, "email": f"o{MARK}@example.com", "first_name": f"other{MARK}"}) == 500
    eventually(lambda: not undelivered(), seconds=WAIT_SECONDS)

    # And are refused by the event store, whose errors quote what they refuse: a row, and all rows of a window
    write_events([json.dumps({"secret": MARK})] * 20)
    write_events([json.dumps({"secret": MARK})], at="infinity")
    eventually(lambda: DeadLetter.objects.count() == 1, seconds=WAIT_SECONDS)
    write_events([json.dumps({"secret": MARK})] * 20, at="infinity")
    eventually(
        lambda: Window.objects.filter(last_error__contains="accepted none of these rows").exists(),
        seconds=WAIT_SECONDS,
    )

    # And anyone who looks at the pipeline is told of them
    said = {"metrics": get(f"http://127.0.0.1:{services.web_port}/metrics")[1]}
    said["readyz"] = get(f"http://127.0.0.1:{services.web_port}/readyz?full=1")[1]
    for arguments in (
        ("status",),
        ("doctor",),
        ("verify",),
        ("deadletters", "list"),
        ("deadletters", "list", "--json"),
    ):
        done = manage("pipeline", *arguments)
        said[" ".join(arguments)] = done.stdout + done.stderr

    # Then nobody has said it, nor the passwords of the real services
    output = {path.name: path.read_text(errors="replace") for path in [*folder.glob("*.log"), *_logs_of(services)]}
    passwords = (urlsplit(os.environ[name]).password or MARK for name in ("DATABASE_URL", "RABBITMQ_URL"))
    assert leaks({**output, **said}, MARK, *passwords) == []
    # (They did say something.)
    assert "row_dead_lettered" in output["aggregator-1.log"]
    assert "dispatch_shift" in output["scheduler.log"]
    assert "accepted none of these rows" in said["status"]
    assert "IntegrityError" in output["web.log"]


@pytest.mark.parametrize(
    "urls",
    [
        {
            "DATABASE_URL": f"postgresql://towpath:{MARK}@127.0.0.1:1/towpath",
            "RABBITMQ_URL": f"amqp://towpath:{MARK}@127.0.0.1:1",
            "EVENT_STORE_URL": f"clickhouse://default:{MARK}@127.0.0.1:1/default",
        },
        {
            "DATABASE_URL": f"postgresql://towpath:{MARK}@127.0.0.1:POSTGRES/towpath",
            "RABBITMQ_URL": f"amqp://towpath:{MARK}@127.0.0.1:RABBITMQ",
        },
        {
            "DATABASE_URL": f"postgresql://towpath:{MARK}/slash@127.0.0.1:1/towpath",
            "RABBITMQ_URL": f"amqp://towpath:{MARK}/slash@127.0.0.1:1",
            "EVENT_STORE_URL": f"clickhouse://default:{MARK}/slash@127.0.0.1:1/default",
        },
        {
            "DATABASE_URL": f"mysql://towpath:{MARK}@127.0.0.1:1/towpath",
            "EVENT_STORE_URL": f"unknown://default:{MARK}@127.0.0.1:1/default",
        },
    ],
    ids=["nobody listens", "refused", "no address", "no scheme of ours"],
)
def test_the_password_of_a_url_that_leads_nowhere_is_not_printed(urls: dict[str, str], services: Services) -> None:
    ports = {"POSTGRES": str(services.postgres.port), "RABBITMQ": str(services.rabbitmq.amqp_port)}
    for word, port in ports.items():
        urls = {name: url.replace(word, port) for name, url in urls.items()}

    done = manage("pipeline", "doctor", LOG_LEVEL="DEBUG", **urls)

    assert done.returncode != 0
    assert leaks({"stdout": done.stdout, "stderr": done.stderr}, MARK) == []
    assert [name for name in urls if name not in done.stdout + done.stderr] == []


def leaks(output: Mapping[str, str], *secrets: str) -> list[str]:
    """The lines that say a secret."""
    return [
        f"{name}: {line[:2000]}"
        for name, text in output.items()
        for line in text.splitlines()
        if any(secret in line for secret in secrets)
    ]


def _logs_of(services: Services) -> list[Path]:
    """Those of the run's own services."""
    return [] if ARE_GIVEN else [service.program.log for service in services.all]


@contextlib.contextmanager
def constraint_on_users(condition: str) -> Iterator[None]:
    """A CHECK on the users table, for a while."""
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE users ADD CONSTRAINT of_a_test CHECK ({condition})")
    yield
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE users DROP CONSTRAINT of_a_test")


def test_a_traceback_shows_no_local_variable_and_no_row(tmp_path: Path) -> None:
    """Even for a person at a terminal, where tracebacks may be in colours and with all variables."""
    script = tmp_path / "fails.py"
    script.write_text(
        """
import sys
import structlog
from towpath.conf.logs import configure_logging

configure_logging(json=False, level="INFO", secrets=["postgresql://u:" + sys.argv[1] + "url@h/d"])
log = structlog.get_logger()

def fail(payload):
    raise ValueError("bad\\nDETAIL:  Failing row contains (" + payload + ")\\nCONTEXT:  COPY t, line 1: " + payload)

try:
    fail(sys.argv[1])
except ValueError:
    log.exception("failed")
log.info("connected", to=sys.argv[1] + "url")
"""
    )

    done = _run(script)

    assert "ValueError: bad" in done.stderr
    assert "connected" in done.stderr
    assert MARK not in done.stdout + done.stderr


def test_what_python_says_itself_is_json_without_the_row(tmp_path: Path) -> None:
    """A thread that dies, and a warning."""
    script = tmp_path / "dies.py"
    script.write_text(
        """
import sys, threading, warnings
from towpath.conf.logs import configure_logging

configure_logging(json=True, level="INFO", secrets=[sys.argv[1] + "key"])

def fail():
    raise ValueError("bad\\nDETAIL:  Failing row contains (" + sys.argv[1] + ")")

thread = threading.Thread(target=fail, name="writer")
thread.start()
thread.join()
warnings.warn("mind " + sys.argv[1] + "key")
"""
    )

    done = _run(script)

    died, warned = (json.loads(line) for line in done.stderr.splitlines())
    assert (died["event"], died["thread"], died["level"]) == ("thread_died", "writer", "error")
    assert "ValueError: bad" in died["exception"]
    assert "UserWarning: mind ***" in warned["event"]
    assert MARK not in done.stdout + done.stderr


def _run(script: Path) -> subprocess.CompletedProcess[str]:
    """A program of its own, with the mark as its argument."""
    return subprocess.run(
        [sys.executable, str(script), MARK],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
