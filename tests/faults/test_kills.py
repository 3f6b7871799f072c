"""Any process can be killed between any two stages: T1-T8."""

from __future__ import annotations

import pytest

from deploy.local.process import Process
from tests.faults.conftest import Run
from tests.faults.fleet import Fleet
from tests.faults.proxy import Fault, Kind
from tests.waiting import eventually

#: An INSERT into the event store, and nothing else that is sent to it.
INSERT = b"insert_deduplication_token"

#: Lease, one round of recovery, and the delivery itself, on a machine that does other things as well.
_RECOVERY_SECONDS = 25


@pytest.fixture
def dispatcher(bare_fleet: Fleet) -> Process:
    """The dispatcher of this module, which the kills of aggregators leave alone."""
    process = bare_fleet.dispatcher()
    bare_fleet.ready(process)
    return process


@pytest.mark.parametrize("point", ["batches_inserted", "cursor_committed", "published@1", "published@3"])
def test_a_dispatcher_killed_between_two_steps_loses_and_doubles_nothing(run: Run, point: str) -> None:
    """T1-T4: before and after the cursor's commit, before and after publish."""
    name, _, passage = point.partition("@")
    doomed = run.fleet.idle_dispatcher(FAILPOINTS=f"{name}=kill@{passage or 1}", BATCH_IDS="20")
    aggregator = run.fleet.aggregator()
    run.publish(100)
    run.create_users(30)

    _start_shifts()
    run.fleet.wait_until_dead(doomed)
    successor = run.fleet.idle_dispatcher(BATCH_IDS="20")  # takes up the shift of the killed one

    run.judge_when_drained(seconds=_RECOVERY_SECONDS)
    run.fleet.kill(successor)
    run.fleet.kill(aggregator)


@pytest.mark.parametrize("point", ["sealed", "loaded", "written", "acked", "message_acked"])
def test_an_aggregator_killed_between_two_stages_loses_and_doubles_nothing(
    run: Run, dispatcher: Process, point: str
) -> None:
    """T5-T8: after the seal, after the load, after the write, after the ack, after the message's ack.

    No other aggregator runs: what the killed one held is recovered by the dispatcher's shift alone.
    """
    doomed = run.fleet.aggregator(FAILPOINTS=f"{point}=kill@1")
    run.fleet.ready(doomed)
    run.publish(100)
    run.create_users(30)

    run.fleet.wait_until_dead(doomed)

    run.judge_when_drained(seconds=_RECOVERY_SECONDS)
    run.fleet.kill(dispatcher)


def test_an_aggregator_killed_after_its_insert_was_sent_loses_and_doubles_nothing(
    run: Run, dispatcher: Process
) -> None:
    """T6: the request is sent, its answer is on the way."""
    run.fleet.store.fail(Fault(kind=Kind.HOLD_ANSWER, marker=INSERT, times=1))
    doomed = run.fleet.aggregator(STORE_TIMEOUT_SECONDS="60")
    run.fleet.ready(doomed)
    run.publish(100)
    eventually(lambda: run.fleet.store.answers_lost, seconds=20, what="the store has answered the insert")

    run.fleet.kill(doomed)

    run.judge_when_drained(seconds=_RECOVERY_SECONDS)
    run.fleet.kill(dispatcher)


def _start_shifts() -> None:
    from pipeline.actors import dispatch_shift, recover_shift

    dispatch_shift.send()
    recover_shift.send()
