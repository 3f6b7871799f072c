"""A dispatcher works from its start, whether a scheduler ticks or not; `status` says that none does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.integration.manage import manage
from tests.integration.rows import execute, write_events
from tests.integration.windows import deliver, sealed
from tests.integration.workers import QUICK
from tests.waiting import eventually
from towpath.conf.current import config
from towpath.flow.delivery import Delivery
from towpath.flow.verify import verify_receipts
from towpath.ledger import sampling
from towpath.ledger.due import is_verification_due
from towpath.ledger.models import Seal, Window
from towpath.outbox.models import OutboxEvent
from towpath.proof import sealing
from towpath.proof.sample import check_sample_if_due

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.event_log import EventLog
    from tests.integration.workers import Workers
    from towpath.eventlog.store import ProvableStore

_WAIT_SECONDS = 30


def test_without_a_scheduler_events_are_delivered_and_status_misses_it(workers: Workers, event_log: EventLog) -> None:
    workers.idle_dispatcher(**QUICK)
    workers.aggregator(**QUICK)
    write_events(["{}"] * 3)
    eventually(lambda: len(event_log.events()) == 3, seconds=_WAIT_SECONDS, what="the events are stored without a tick")
    assert _problems() == []

    # As if that had been two minutes ago.
    execute("UPDATE pipeline_shift SET version = version + 1, taken_at = taken_at - interval '2 minutes'")
    write_events(["{}"] * 2)
    eventually(lambda: len(event_log.events()) == 5, seconds=_WAIT_SECONDS, what="dispatch continues")
    problems = _problems()

    assert len(problems) == 2
    for shift, problem in zip(("dispatch", "recover"), problems, strict=True):
        assert f"no tick for the {shift} shift has arrived" in problem
        assert "`manage.py pipeline run scheduler`" in problem
        assert problem.endswith("docs/runbook.md, TowpathSchedulerSilent")


@pytest.fixture
def proven(store: ProvableStore) -> None:
    """A window that is verified and sealed; nothing is due."""
    write_events(["{}"] * 3)
    assert deliver(sealed(), store) is Delivery.ACKED
    assert verify_receipts(store, should_stop=lambda: False) == 0
    assert list(sealing.seal_all(key=""))
    OutboxEvent.objects.all().delete()  # the event about it
    assert check_sample_if_due(store, should_stop=lambda: False) == 0
    assert not _is_due()


@pytest.mark.usefixtures("proven")
@pytest.mark.parametrize("what", ["seal", "sample", "purge"])
def test_without_a_scheduler_what_is_due_without_new_events_is_done(workers: Workers, what: str) -> None:
    done: Callable[[], bool]
    if what == "seal":
        Seal.objects.all().delete()
        execute("UPDATE pipeline_proof SET proven_at = proven_at - interval '62 minutes'")
        done = Seal.objects.exists
    elif what == "sample":
        execute("UPDATE pipeline_mark SET value = value - 1 WHERE name = 'sampled'")
        # Nothing is due within the first seconds of a night, when a tick could still come.
        eventually(_is_due, seconds=100, what="the sample has been due for longer than ticks take")
        done = _is_sampled
    else:
        days = config().receipt_days
        execute(
            f"UPDATE pipeline_window SET dispatched_from = dispatched_from - interval '{days} days 2 minutes',"
            f" acked_at = acked_at - interval '{days} days 2 minutes'"
        )
        done = _is_purged
    assert _is_due()

    workers.idle_dispatcher(**QUICK)

    eventually(done, seconds=_WAIT_SECONDS, what=f"the {what} is done without a tick")
    eventually(lambda: not _is_due(), seconds=_WAIT_SECONDS, what="nothing is due any more")


@pytest.mark.usefixtures("proven")
def test_a_seal_is_due_without_a_scheduler_when_the_clock_was_set_back_behind_a_proof() -> None:
    Seal.objects.all().delete()
    execute("UPDATE pipeline_proof SET proven_at = proven_at + interval '2 days'")
    assert _is_due()

    assert sealing.seal_if_due(key="") == 1

    assert not _is_due()


def _is_sampled() -> bool:
    return not sampling.is_sample_due()


def _is_purged() -> bool:
    return not Window.objects.filter(verified_at__isnull=False).exists()


def _is_due() -> bool:
    return is_verification_due(since_seconds=90, seal_after_seconds=3600, receipt_days=config().receipt_days)


def _problems() -> list[str]:
    answer = manage("pipeline", "status", "--json")
    problems: list[str] = json.loads(answer.stdout)["problems"]
    assert answer.returncode == bool(problems)
    return problems
