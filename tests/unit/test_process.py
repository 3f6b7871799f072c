"""What a worker process makes once, and how it ends."""

from __future__ import annotations

import threading

from towpath.conf.config import Config
from towpath.process import Process

_WAIT_SECONDS = 30


def make_process() -> Process:
    return Process(Config(window_writers=2), enqueue=lambda _batches: None)


def test_threads_that_come_at_the_same_time_get_the_same_aggregator_and_store() -> None:
    process = make_process()
    together = threading.Barrier(8)
    made = []

    def make() -> None:
        together.wait(_WAIT_SECONDS)
        made.append((process.aggregator(), process.store()))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_WAIT_SECONDS)

    assert len(made) == 8
    assert len(set(made)) == 1
    assert len([*process.threads]) == 3
    process.stop()
    assert process.drain(timeout_seconds=_WAIT_SECONDS)


def test_a_process_ends_with_the_threads_that_it_has() -> None:
    process = make_process()
    process.aggregator()
    threads = [*process.threads]
    assert all(thread.is_alive() for thread in threads)

    process.stop()
    is_drained = process.drain(timeout_seconds=_WAIT_SECONDS)

    assert process.is_stopping
    assert is_drained
    assert not any(thread.is_alive() for thread in threads)


def test_a_process_that_has_made_nothing_ends_without_making_it() -> None:
    process = make_process()

    process.stop()

    assert process.drain(timeout_seconds=0)
    assert [*process.threads] == []
