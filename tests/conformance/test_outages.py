"""Every store's clock, threads and closing; and what it says when it is away, or its answers are lost."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from deploy.local.ports import Ports
from deploy.local.process import PROJECT
from tests.conformance.answers import Answer, Endpoint, Silence
from tests.conformance.rows import MOMENT, WINDOW, row, write
from tests.conformance.subjects import RemoteSubject, Subject
from tests.services import Services
from towpath.eventlog.errors import OutcomeUnknown, RowsRefused, StoreUnavailable, WriteTooLarge
from towpath.eventlog.proof import covered
from towpath.eventlog.store import Store
from towpath.eventlog.stores.memory import StoredRow

has_an_address = pytest.mark.only("clickhouse", "postgresql", reason="the others are in this process")
speaks_http = pytest.mark.only("clickhouse", reason="these are answers of ClickHouse's HTTP interface")


# --- Clock, threads, closing -----------------------------------------------------------------------------------------


def test_the_stores_clock_is_near_ours(store: Store) -> None:
    assert abs(store.now() - datetime.now(UTC)) < timedelta(seconds=10)


def test_threads_share_a_store(store: Store, subject: Subject) -> None:
    def write_ten(thread: int) -> None:
        for number in range(thread * 10, thread * 10 + 10):
            write(store, row(number), token=f"token {number}")
            assert ("outbox_event", number) in store.read_back(WINDOW)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write_ten, range(8)))

    assert subject.rows() == [row(number) for number in range(80)]


def test_threads_with_one_token_store_once(store: Store, subject: Subject) -> None:
    rows = [row(number) for number in range(100)]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: write(store, *rows), range(8)))

    assert subject.rows() == rows


def test_a_store_is_closed_twice_without_complaint(store: Store) -> None:
    store.close()
    store.close()


def test_a_closed_store_opens_again_when_it_is_used(store: Store, subject: Subject) -> None:
    store.close()

    write(store, row(1))

    assert subject.rows() == [row(1)]


# --- Outages ---------------------------------------------------------------------------------------------------------


@pytest.mark.timing
@pytest.mark.only("chdb", reason="only this engine lives in a process")
def test_an_embedded_store_that_another_process_has_open_says_so(store: Store, services: Services) -> None:
    assert list(store.problems()) == []
    url = f"chdb://{services.folder / 'embedded'}"
    ask = f"from towpath.eventlog.connect import connect; connect({url!r}, timeout_seconds=5).now()"

    done = subprocess.run([sys.executable, "-c", ask], cwd=PROJECT, capture_output=True, text=True, check=False)

    assert "StoreUnavailable" in done.stderr.splitlines()[-1]
    assert "one process" in done.stderr.splitlines()[-1]


@has_an_address
def test_a_store_that_is_down_is_unavailable_whatever_is_asked(
    subject: RemoteSubject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ports = Ports(tmp_path_factory.mktemp("ports") / "ports.json")
    store = subject.connect(ports.choose("clickhouse"), timeout_seconds=2, own_columns=())

    with pytest.raises(StoreUnavailable):
        write(store, row(1))
    with pytest.raises(StoreUnavailable):
        store.read_back(WINDOW)
    with pytest.raises(StoreUnavailable):
        store.counts([WINDOW])
    with pytest.raises(StoreUnavailable):
        next(store.stream("paid"))
    with pytest.raises(StoreUnavailable):
        store.window_digests([WINDOW], columns=covered())
    with pytest.raises(StoreUnavailable):
        store.row_digests(WINDOW, columns=covered())
    with pytest.raises(StoreUnavailable):
        store.body_digests({WINDOW: ["outbox_event"]})
    with pytest.raises(StoreUnavailable):
        store.months()
    with pytest.raises(StoreUnavailable):
        next(store.windows_of(MOMENT.date()))
    with pytest.raises(StoreUnavailable):
        store.now()
    with pytest.raises(StoreUnavailable):
        store.problems()
    ports.release()


@speaks_http
@pytest.mark.parametrize(("silence", "stored"), [("close", []), ("carry out and close", [row(1)]), ("hang", [])])
def test_a_lost_answer_leaves_the_outcome_unknown(
    store: Store, subject: RemoteSubject, silence: Silence, stored: list[StoredRow]
) -> None:
    assert list(store.problems()) == []
    with Endpoint(subject.port, inserts=silence) as endpoint:
        behind_endpoint = subject.connect(endpoint.port, timeout_seconds=1)

        with pytest.raises(OutcomeUnknown):
            write(behind_endpoint, row(1))

        behind_endpoint.close()
    assert subject.rows() == stored


@speaks_http
@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (241, WriteTooLarge),  # memory limit exceeded
        (243, StoreUnavailable),  # not enough space
        (159, OutcomeUnknown),  # timeout exceeded
        (27, RowsRefused),  # cannot parse input
    ],
)
@pytest.mark.parametrize("status", [500, 200])
def test_an_error_code_is_an_error_also_under_a_good_status(
    store: Store, subject: RemoteSubject, code: int, outcome: type[Exception], status: int
) -> None:
    """One code of each kind: which codes are of which is in tests/unit/test_clickhouse_errors.py."""
    body = f"Code: {code}. DB::Exception: something is wrong. (SOMETHING)\n".encode()
    answer = Answer(status, body, {"X-ClickHouse-Exception-Code": str(code)})
    assert list(store.problems()) == []
    with Endpoint(subject.port, inserts=answer) as endpoint:
        behind_endpoint = subject.connect(endpoint.port)

        with pytest.raises(outcome):
            write(behind_endpoint, row(1))

        behind_endpoint.close()


@speaks_http
@pytest.mark.parametrize("status", [403, 429, 502, 503, 504])
def test_an_answer_of_something_in_between_leaves_the_outcome_unknown(
    store: Store, subject: RemoteSubject, status: int
) -> None:
    assert list(store.problems()) == []
    with Endpoint(subject.port, inserts=Answer(status, b"no upstream")) as endpoint:
        behind_endpoint = subject.connect(endpoint.port)

        with pytest.raises(OutcomeUnknown):
            write(behind_endpoint, row(1))

        behind_endpoint.close()


@speaks_http
@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, b"<html>Please log in</html>"),
        Answer(200, b"", {"X-ClickHouse-Summary": "{}"}),
        Answer(200, b"", {"X-ClickHouse-Summary": '{"written_rows": "0"}'}),
    ],
    ids=["no summary", "empty summary", "no rows"],
)
def test_a_good_answer_that_does_not_say_what_was_written_leaves_the_outcome_unknown(
    store: Store, subject: RemoteSubject, answer: Answer
) -> None:
    assert list(store.problems()) == []
    with Endpoint(subject.port, inserts=answer) as endpoint:
        behind_endpoint = subject.connect(endpoint.port)

        with pytest.raises(OutcomeUnknown):
            write(behind_endpoint, row(1))

        behind_endpoint.close()


@speaks_http
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_events_do_not_follow_a_redirect(store: Store, subject: RemoteSubject, status: int) -> None:
    # Given a proxy that sends everybody to another server, which takes whatever it is given
    assert list(store.problems()) == []
    taken = Answer(200, b"", {"X-ClickHouse-Summary": '{"written_rows": "1"}'})
    with Endpoint(subject.port, inserts=taken) as elsewhere, Endpoint(subject.port, inserts="close") as proxy:
        location = f"http://127.0.0.1:{elsewhere.port}/?query=INSERT+INTO+event_log+"
        proxy.inserts = Answer(status, b"", {"Location": location})
        behind_proxy = subject.connect(proxy.port)

        with pytest.raises(OutcomeUnknown, match=str(status)):
            write(behind_proxy, row(1))

        behind_proxy.close()
