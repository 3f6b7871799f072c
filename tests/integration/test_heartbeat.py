"""The heartbeat of real processes: alive while they wait for whatever is away, dead when they are wedged."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import dramatiq
import pytest

from deploy.local.process import PROJECT
from tests.integration.queues import declared_otherwise
from tests.integration.rows import create_users
from tests.integration.workers import QUICK, Workers
from tests.waiting import eventually
from towpath import actors
from towpath.conf.current import config
from towpath.conf.names import AGGREGATE
from towpath.lifecycle import threads_that_must_live
from towpath.probe import silence
from towpath.process import Process
from towpath.telemetry import heartbeat

WAIT_SECONDS = 60

#: Nobody listens on port 1.
EVERYTHING_DOWN = {
    "RABBITMQ_URL": "amqp://127.0.0.1:1",
    "EVENT_STORE_URL": "clickhouse://127.0.0.1:1/default",
    "DATABASE_URL": "postgresql://towpath@127.0.0.1:1/towpath",
}
#: An insert of these workers takes 3 s at most.
WEDGED_SOON = {**QUICK, "WEDGED_SECONDS": "4"}


def beats(folder: Path, role: str) -> float:
    """When the role's last heartbeat was; 0 without one."""
    try:
        return float(json.loads((folder / role).read_text())["at"])
    except FileNotFoundError:
        return 0.0


def wait_until_alive(folder: Path, role: str) -> None:
    """Return when a second heartbeat has followed the first."""
    first = eventually(lambda: beats(folder, role), seconds=WAIT_SECONDS, what=f"the {role} has a heartbeat")
    eventually(lambda: beats(folder, role) > first, seconds=WAIT_SECONDS, what=f"the {role} renews it")
    assert silence(folder, role) == ""


def wait_until_silent(folder: Path, role: str) -> None:
    """Return when the heartbeat has not been renewed for three times as long as it takes."""
    eventually(
        lambda: time.monotonic() - beats(folder, role) > 3 * heartbeat._EVERY_SECONDS,
        seconds=WAIT_SECONDS,
        what=f"the {role} is silent",
    )


def test_idle_and_busy_workers_have_a_heartbeat(workers: Workers, tmp_path: Path) -> None:
    workers.dispatcher(**QUICK, HEARTBEAT_DIR=str(tmp_path))
    workers.aggregator(**QUICK, HEARTBEAT_DIR=str(tmp_path))
    workers.wait_until_ready()
    create_users(100)

    wait_until_alive(tmp_path, "dispatcher")
    wait_until_alive(tmp_path, "aggregator")


@pytest.mark.parametrize(
    ("role", "down"),
    [
        ("aggregator", EVERYTHING_DOWN),
        ("dispatcher", EVERYTHING_DOWN),
        # It has its shifts then, which get nowhere.
        ("dispatcher", {name: url for name, url in EVERYTHING_DOWN.items() if name != "RABBITMQ_URL"}),
    ],
    ids=["aggregator", "dispatcher", "dispatcher with RabbitMQ"],
)
def test_workers_that_wait_for_services_that_are_down_are_alive(
    role: str, down: dict[str, str], workers: Workers, tmp_path: Path
) -> None:
    getattr(workers, role)(**WEDGED_SOON, **down, HEARTBEAT_DIR=str(tmp_path))

    wait_until_alive(tmp_path, role)
    began = beats(tmp_path, role)
    eventually(lambda: beats(tmp_path, role) > began + 6, seconds=WAIT_SECONDS, what="it runs for longer than that")
    assert silence(tmp_path, role) == ""


def test_an_aggregator_that_is_wedged_in_a_window_is_dead(workers: Workers, tmp_path: Path) -> None:
    workers.dispatcher(**QUICK)
    workers.aggregator(**WEDGED_SOON, HEARTBEAT_DIR=str(tmp_path), FAILPOINTS="loaded=sleep:600")
    workers.wait_until_ready()
    wait_until_alive(tmp_path, "aggregator")

    create_users(10)

    wait_until_silent(tmp_path, "aggregator")


def test_a_worker_is_dead_when_rabbitmq_refuses_it_its_queue_until_it_lets_it(workers: Workers, tmp_path: Path) -> None:
    """Unlike an outage, this does not end by itself."""
    with declared_otherwise(AGGREGATE):
        workers.aggregator(**{**WEDGED_SOON, "WEDGED_SECONDS": "8"}, HEARTBEAT_DIR=str(tmp_path))
        wait_until_alive(tmp_path, "aggregator")

        wait_until_silent(tmp_path, "aggregator")

    wait_until_alive(tmp_path, "aggregator")


def test_a_dispatcher_that_is_wedged_in_a_shift_is_dead(workers: Workers, tmp_path: Path) -> None:
    workers.dispatcher(**WEDGED_SOON, HEARTBEAT_DIR=str(tmp_path), FAILPOINTS="cursor_committed=sleep:600")
    workers.wait_until_ready()
    wait_until_alive(tmp_path, "dispatcher")

    create_users(10)

    wait_until_silent(tmp_path, "dispatcher")


def test_the_scheduler_s_heartbeat_is_its_tick(workers: Workers, tmp_path: Path) -> None:
    scheduler = workers.scheduler(HEARTBEAT_DIR=str(tmp_path))

    eventually(lambda: beats(tmp_path, "scheduler"), seconds=WAIT_SECONDS)
    assert silence(tmp_path, "scheduler") == ""
    scheduler.kill()  # its first ticks come one after another
    at = beats(tmp_path, "scheduler")

    # Two ticks later, without another one, it would be dead
    beat = json.loads((tmp_path / "scheduler").read_text())
    (tmp_path / "scheduler").write_text(json.dumps({**beat, "at": at - 131}))
    assert "more than 130 s" in silence(tmp_path, "scheduler")


def test_a_scheduler_without_rabbitmq_ends_for_its_supervisor_to_start_it_again(
    workers: Workers, tmp_path: Path
) -> None:
    """Nobody needs a probe to find that out."""
    scheduler = workers.scheduler(HEARTBEAT_DIR=str(tmp_path), RABBITMQ_URL=EVERYTHING_DOWN["RABBITMQ_URL"])

    eventually(lambda: not scheduler.is_running, seconds=WAIT_SECONDS)
    assert scheduler.exit_code == 1


@pytest.mark.timing
def test_a_process_one_of_whose_threads_has_died_is_dead(tmp_path: Path) -> None:
    script = """
import sys, threading
from pathlib import Path
import django
django.setup()
from towpath.telemetry import heartbeat

writer = threading.Thread(target=sys.stdin.readline, name="writer")
writer.start()
heartbeat.start(
    "aggregator",
    folder=Path(sys.argv[1]),
    wedged_seconds=60,
    threads=lambda: [threading.main_thread(), writer],
)
threading.Event().wait()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stderr is not None
    try:
        wait_until_alive(tmp_path, "aggregator")

        process.stdin.write("end\n")
        process.stdin.flush()

        wait_until_silent(tmp_path, "aggregator")
    finally:
        process.kill()
        with process:
            told = [json.loads(line) for line in process.stderr]
    assert [(line["event"], line["reasons"]) for line in told] == [("process_wedged", ["thread writer is dead"])]


def test_the_threads_that_must_live_are_those_of_the_worker_and_its_writers(monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(config(), enqueue=lambda _: None)
    monkeypatch.setattr(actors, "process", process)
    worker = dramatiq.Worker(dramatiq.get_broker(), queues={"nobody-s"}, worker_threads=3)
    assert [*threads_that_must_live(worker, process)] == []
    worker.start()
    try:
        alive = [*threads_that_must_live(worker, process)]
        assert len(alive) == 3 + len(worker.consumers)
        assert all(thread.is_alive() for thread in alive)
        assert {*process.aggregator().writers} <= {*threads_that_must_live(worker, process)}
    finally:
        worker.stop()
    assert [*threads_that_must_live(worker, process)] == []
    assert not any(thread.is_alive() for thread in process.threads)


def test_a_heartbeat_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    heartbeat.beat("aggregator", folder=tmp_path / "file", within_seconds=1)

    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_thread_does_one_piece_of_work_at_a_time() -> None:
    with heartbeat.progress("first"):
        with pytest.raises(RuntimeError, match="second is nested in first"), heartbeat.progress("second"):
            """Not reached."""
        work = heartbeat._under_way[threading.get_ident()]
        moved_at = work.moved_at

        heartbeat.step()

        assert (work.name, work.moved_at > moved_at) == ("first", True)
    assert threading.get_ident() not in heartbeat._under_way
