"""Rows that the store refuses, rows that are very large, windows that are very large."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest

from tests.faults.conftest import Run, empty_everything
from tests.faults.fleet import family
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.local.process import Process

pytestmark = pytest.mark.timeout(300)

#: Refused rows wait for half a minute, several times; a slow machine takes as long again.
_DRAIN_SECONDS = 180
_MEBIBYTE = 1024 * 1024
_TWO_MONTHS = ("2020-01-31 23:59:59+00", "2020-02-01 00:00:00+00")


@pytest.fixture
def wedged(run: Run) -> Iterator[Run]:
    """Dead letters are wiped with their rows at the end."""
    yield run
    run.fleet.kill_all()
    empty_everything(run.oracle.store)


@pytest.mark.parametrize("size", [1000, pytest.param(30, marks=pytest.mark.slow)])
def test_one_row_that_the_store_refuses_harms_only_itself(wedged: Run, size: int) -> None:
    """T29: a time that no store takes. The window is halved down to the row; the others arrive."""
    run = wedged
    run.fleet.steady()
    run.publish(size, poison=1)

    verdict = run.judge_when_drained(seconds=_DRAIN_SECONDS)

    assert (verdict.stored, verdict.dead) == (size - 1, 1)


def test_windows_with_nothing_but_refused_rows_hold_up_nobody(wedged: Run) -> None:
    """T29: one after the other, more of them than MAX_OPEN_WINDOWS; then two people sign up."""
    run = wedged
    run.fleet.kill_all()
    knobs = {"MAX_OPEN_WINDOWS": "3"}
    run.fleet.ready(run.fleet.dispatcher(**knobs), run.fleet.aggregator(**knobs))
    for at_least in (1, 2, 3, 3):
        run.publish(2, poison=2)
        _wait_for_windows(run, at_least)

    run.create_users(2)

    eventually(lambda: run.oracle.ask_postgres("SELECT count(*) FROM outbox_user") == [(0,)], seconds=30)
    # A window that was refused only after these is at fault for certain when the store takes another row.
    refused = (
        "SELECT count(*) = 0 FROM pipeline_batch LEFT JOIN pipeline_window AS w ON w.id = window_id"
        " WHERE w.id IS NULL OR w.refused_at IS NULL"
    )
    eventually(lambda: run.oracle.ask_postgres(refused) == [(True,)], seconds=60, what="every bad window was refused")
    run.create_users(1)
    verdict = run.judge_when_drained(seconds=_DRAIN_SECONDS)
    assert (verdict.stored, verdict.dead) == (3, 8)
    run.fleet.kill_all()


@pytest.mark.slow
def test_an_aggregator_killed_while_it_halves_a_window_harms_only_the_refused_row(wedged: Run) -> None:
    """T29, T7: halves have been written, then the process dies; the next one halves at the same places."""
    run = wedged
    run.fleet.steady(has_aggregator=False)
    doomed = run.fleet.aggregator(FAILPOINTS="written=kill@1")
    run.fleet.ready(doomed)
    run.publish(200, poison=1)
    run.fleet.wait_until_dead(doomed)

    verdict = run.judge_when_drained(seconds=_DRAIN_SECONDS)

    assert (verdict.stored, verdict.dead) == (199, 1)


def test_a_window_above_its_bytes_is_split(run: Run) -> None:
    """T30: more than WINDOW_BYTES in one window's rows; and one row that is larger than that by itself."""
    run.fleet.kill_all()
    knobs = {"WINDOW_BYTES": str(_MEBIBYTE)}
    run.fleet.ready(run.fleet.dispatcher(**knobs), run.fleet.aggregator(**knobs))
    run.publish(40, text="x" * 100_000)
    run.publish(1, text="y" * 3 * _MEBIBYTE)

    run.judge_when_drained(seconds=_DRAIN_SECONDS)
    run.fleet.kill_all()


@pytest.mark.slow
def test_huge_rows_pass_one_by_one_without_filling_the_memory(run: Run) -> None:
    """T30: a row of 15 MiB (the largest that publish takes is EVENT_CONTEXT_MAX_BYTES), ten of them together."""
    run.fleet.kill_all()
    knobs = {"WINDOW_BYTES": str(8 * _MEBIBYTE), "STORE_TIMEOUT_SECONDS": "60"}
    aggregator = run.fleet.aggregator(**knobs)
    run.fleet.ready(run.fleet.dispatcher(**knobs), aggregator)
    for _ in range(10):
        run.publish(1, text="x" * 15 * _MEBIBYTE)
    peak = 0

    def is_drained() -> bool:
        nonlocal peak
        peak = max(peak, _rss(aggregator))
        return not run.oracle.undelivered()

    eventually(is_drained, seconds=200)
    run.judge_when_drained(seconds=_DRAIN_SECONDS)
    assert peak < 800 * _MEBIBYTE
    run.fleet.kill_all()


@pytest.mark.slow
@pytest.mark.parametrize("point", ["loaded", "written"])
def test_a_window_of_64_mebibytes_over_two_months_is_replayed_whole(run: Run, point: str) -> None:
    """T40: each row once, before and after the write."""
    _replay_over_two_months(run, point, rows=1000, text="z" * 65_536)


def test_a_window_over_two_months_is_replayed_whole(run: Run) -> None:
    """T40, small."""
    _replay_over_two_months(run, "written", rows=200, text="z" * 5_000)


def _replay_over_two_months(run: Run, point: str, *, rows: int, text: str) -> None:
    run.fleet.kill_all()
    knobs = {"WINDOW_BYTES": str(256 * _MEBIBYTE), "STORE_TIMEOUT_SECONDS": "60", "BATCH_IDS": str(rows)}
    doomed = run.fleet.aggregator(FAILPOINTS=f"{point}=kill@1", **knobs)
    run.fleet.ready(doomed)
    run.publish(rows, text=text, at=_TWO_MONTHS)
    run.fleet.ready(run.fleet.dispatcher(**knobs))
    run.fleet.wait_until_dead(doomed)

    verdict = run.judge_when_drained(seconds=_DRAIN_SECONDS)
    assert verdict.stored == rows
    run.fleet.kill_all()


def _wait_for_windows(run: Run, at_least: int) -> None:
    sql = "SELECT count(*) >= %s FROM pipeline_window"
    eventually(lambda: run.oracle.ask_postgres(sql, [at_least]) == [(True,)], seconds=20)


def _rss(process: Process) -> int:
    total = 0
    for part in family(process):
        try:
            total += int(part.memory_info().rss)
        except psutil.Error:
            continue
    return total
