"""The event store answers late, wrongly, or not at all."""

from __future__ import annotations

import pytest

from tests.faults.conftest import Run
from tests.faults.proxy import Fault, Kind
from tests.faults.reported import problems
from tests.waiting import always, eventually

_DRAIN_SECONDS = 40
#: MAX_OPEN_WINDOWS, and what two writers and recovery had sealed when that was reached.
_MOST_OPEN_WINDOWS = 16 + 3


@pytest.fixture(autouse=True)
def _steady_fleet(run: Run) -> None:
    run.fleet.steady()


@pytest.mark.parametrize("kind", [Kind.DROP_ANSWER, Kind.HOLD_ANSWER])
def test_an_insert_whose_answer_is_lost_is_not_repeated(run: Run, kind: Kind) -> None:
    """T9: the answer is dropped with the connection, or never comes."""
    run.fleet.store.fail(Fault(kind=kind, marker=run.store.insert, times=1))
    run.publish(100)

    run.judge_when_drained(seconds=_DRAIN_SECONDS)
    assert run.fleet.store.answers_lost == 1


@pytest.mark.parametrize("after_bytes", [0, 700, 9_000])
def test_an_insert_that_is_cut_on_its_way_is_repeated(run: Run, after_bytes: int) -> None:
    """T10: nothing, only the head, or a part of the rows arrives."""
    run.fleet.store.fail(Fault(kind=Kind.CUT, marker=run.store.insert_begins, times=1, after_bytes=after_bytes))
    run.publish(100, text="x" * 100)

    run.judge_when_drained(seconds=_DRAIN_SECONDS)
    assert run.fleet.store.struck == 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [4, pytest.param(120, marks=pytest.mark.slow)])
def test_a_store_that_is_down_costs_latency_only(run: Run, seconds: int) -> None:
    """T11: windows wait with a backoff, and their number is bounded, however long it takes."""
    run.fleet.store.fail(Fault(kind=Kind.REFUSE))
    writer = run.writer()
    always(lambda: _open_windows(run) <= _MOST_OPEN_WINDOWS, seconds=seconds, what="open windows are bounded")
    writer.stop()
    attempts = run.oracle.ask_postgres("SELECT coalesce(sum(attempts), 0) FROM pipeline_window WHERE acked_at IS NULL")
    # Each one's pause doubles to 30 s.
    assert int(attempts[0][0]) <= _MOST_OPEN_WINDOWS * (7 + seconds / 20)

    run.fleet.heal()

    run.judge_when_drained(seconds=_DRAIN_SECONDS + 30)


@pytest.mark.parametrize("kind", [Kind.BLACK_HOLE, Kind.SLOW])
def test_a_store_behind_a_bad_network_costs_latency_only(run: Run, kind: Kind) -> None:
    """T11, T12: connections hang, or crawl along, longer than the client's patience."""
    run.fleet.store.fail(Fault(kind=kind, bytes_per_second=2_000))
    run.publish(100)
    eventually(lambda: run.fleet.store.struck, seconds=20)
    eventually(lambda: _errors(run), seconds=20, what="an attempt has failed")

    run.fleet.heal()

    run.judge_when_drained(seconds=_DRAIN_SECONDS)


@pytest.mark.parametrize("seconds", [3.5, pytest.param(6, marks=pytest.mark.slow)])
def test_an_insert_that_arrives_after_its_replay_is_stored_once(run: Run, seconds: float) -> None:
    """T12: the client has given up (3 s) and the lease has ended (1.5 s) when the first insert reaches the server."""
    run.fleet.store.fail(Fault(kind=Kind.LATE, marker=run.store.insert, times=1, seconds=seconds))
    run.publish(100)

    run.judge_when_drained(seconds=_DRAIN_SECONDS)
    eventually(lambda: run.fleet.store.late_answered, seconds=seconds + 30, what="the late insert has been carried out")
    run.judge()


def _answer(status: str, *, code: int = 0, text: str = "", summary: str = "") -> bytes:
    headers = [f"HTTP/1.1 {status}", "Content-Type: text/plain; charset=UTF-8", "Connection: close"]
    headers += [f"X-ClickHouse-Exception-Code: {code}"] * bool(code)
    headers += [f"X-ClickHouse-Summary: {summary}"] * bool(summary)
    body = f"Code: {code}. DB::Exception: {text} (version 26.1.1.1)\n" if code else text
    return "\r\n".join([*headers, f"Content-Length: {len(body)}", "", body]).encode()


_ANSWERS = {
    "200 with an exception": _answer("200 OK", code=241, text="Memory limit (total) exceeded. (MEMORY_LIMIT_EXCEEDED)"),
    "200 of somebody else": _answer("200 OK", text="<html>Welcome to nginx!</html>"),
    "200 with fewer rows": _answer("200 OK", summary='{"read_rows":"7","written_rows":"7"}'),
    "503 of a load balancer": _answer("503 Service Unavailable", text="no server is available"),
    "503 of ClickHouse": _answer("503 Service Unavailable", code=203, text="No free connection"),
    "too many parts": _answer("500 Error", code=252, text="Too many parts (300). (TOO_MANY_PARTS)"),
    "no memory": _answer("500 Error", code=241, text="Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED)"),
    "disk full": _answer("500 Error", code=243, text="Cannot reserve 1.00 MiB. (NOT_ENOUGH_SPACE)"),
    "read only": _answer("500 Error", code=242, text="Table is in readonly mode. (TABLE_IS_READ_ONLY)"),
    "quorum unknown": _answer("500 Error", code=319, text="Unknown status (UNKNOWN_STATUS_OF_INSERT)"),
    "timeout": _answer("500 Error", code=159, text="Timeout exceeded (TIMEOUT_EXCEEDED)"),
    "shutting down": _answer("500 Error", code=236, text="Query was cancelled (ABORTED)"),
}
_FAST_ANSWERS = ("200 with an exception", "200 of somebody else", "200 with fewer rows", "too many parts", "disk full")


@pytest.mark.clickhouse(reason="the answers are those of ClickHouse's HTTP interface")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in _FAST_ANSWERS else pytest.mark.slow) for name in _ANSWERS]
)
def test_an_answer_that_is_no_success_is_not_taken_for_one(run: Run, name: str) -> None:
    """T13, T31: answers that the endpoint of the tests cannot be made to give are given by the proxy, again and again.

    The rows do not reach the store until a real answer is given, and `status` says why.
    """
    run.fleet.store.fail(Fault(kind=Kind.ANSWER, marker=run.store.insert, answer=_ANSWERS[name]))
    run.publish(100)
    run.create_users(5)
    eventually(lambda: run.fleet.store.struck >= 2, seconds=30, what="it has been tried twice")
    eventually(lambda: problems("open window"), seconds=10, what="status says so")
    assert run.oracle.stored(run.name) == 0

    run.fleet.heal()

    run.judge_when_drained(seconds=_DRAIN_SECONDS)


def _errors(run: Run) -> int:
    found = run.oracle.ask_postgres(
        "SELECT count(*) FROM pipeline_window WHERE acked_at IS NULL AND failed_at IS NOT NULL"
    )
    return int(found[0][0])


def _open_windows(run: Run) -> int:
    found = run.oracle.ask_postgres("SELECT count(*) FROM pipeline_window WHERE acked_at IS NULL")
    return int(found[0][0])
