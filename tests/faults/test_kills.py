"""Any process can be killed between any two stages: T1-T8."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.faults.conftest import Run
from tests.faults.proxy import Fault, Kind
from tests.waiting import eventually

if TYPE_CHECKING:
    from towpath.telemetry.failpoints import Failpoint

#: Where to kill, and at which passage.
_DISPATCHER_POINTS: tuple[tuple[Failpoint, int], ...] = (
    ("batches_inserted", 1),
    ("cursor_committed", 1),
    ("enqueued", 1),
    ("enqueued", 3),
)
_AGGREGATOR_POINTS: tuple[Failpoint, ...] = ("sealed", "loaded", "written", "acked", "message_acked")
#: A successor starts, the lease ends, one round of recovery, the delivery; on a machine that does other things, too.
_RECOVERY_SECONDS = 40


def test_dispatchers_killed_one_after_the_other_at_each_step_lose_and_double_nothing(run: Run) -> None:
    """T1-T4: around the cursor's commit, before and after the messages. Each time the next takes the shift."""
    run.fleet.kill_all()
    doomed = [run.fleet.idle_dispatcher(FAILPOINTS=_kill(*point), BATCH_IDS="20") for point in _DISPATCHER_POINTS]
    run.fleet.aggregator()
    run.fleet.ready(*doomed)
    writer = run.writer(transactions_per_second=20)
    for process in doomed:
        run.fleet.wait_until_dead(process)

    run.fleet.idle_dispatcher(BATCH_IDS="20")
    writer.stop()

    run.judge_when_drained(seconds=_RECOVERY_SECONDS)


def test_aggregators_killed_at_each_stage_lose_and_double_nothing(run: Run) -> None:
    """T5-T8: after the seal, after the load, after the write, after the ack, after the message's ack.

    No other aggregator runs: what the killed ones held is recovered by the dispatcher's shift alone.
    """
    run.fleet.steady(has_aggregator=False)
    doomed = [run.fleet.aggregator(FAILPOINTS=_kill(point)) for point in _AGGREGATOR_POINTS]
    run.fleet.ready(*doomed)
    writer = run.writer(transactions_per_second=20)
    for process in doomed:
        run.fleet.wait_until_dead(process)
    writer.stop()

    run.judge_when_drained(seconds=_RECOVERY_SECONDS)


def test_an_aggregator_killed_after_its_insert_was_sent_loses_and_doubles_nothing(run: Run) -> None:
    """T6: the request is sent and executed, its answer is on the way."""
    run.fleet.steady(has_aggregator=False)
    run.fleet.store.fail(Fault(kind=Kind.HOLD_ANSWER, marker=run.store.insert, times=1))
    doomed = run.fleet.aggregator(STORE_TIMEOUT_SECONDS="60")
    run.fleet.ready(doomed)
    run.publish(100)
    eventually(lambda: run.fleet.store.answers_lost, seconds=20, what="the store has answered the insert")

    run.fleet.kill(doomed)

    run.judge_when_drained(seconds=_RECOVERY_SECONDS)


def _kill(point: Failpoint, passage: int = 1) -> str:
    return f"{point}=kill@{passage}"
