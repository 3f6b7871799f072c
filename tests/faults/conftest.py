"""Tests that break things for real: each publishes events of its own and is judged by the oracle.

The event store is the local stack's, or PostgreSQL: `EVENT_STORE_URL=postgresql:// pytest tests/faults`.
"""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from django.db import connection

from tests.faults import writers
from tests.faults.fleet import Fleet
from tests.faults.oracle import Oracle, Verdict
from tests.faults.sampler import Sampler
from tests.faults.stores import StoreOfRun, store_of
from tests.integration.conftest import django_db_setup  # noqa: F401 - a fixture
from tests.integration.queues import purge_queues
from tests.tables import empty_tables
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_django.plugin import DjangoDbBlocker

    from tests.services import Services

_SAMPLE_EVERY_SECONDS = 0.25
#: What a test leaves undelivered is none of the next one's business; what it has finished comes to rest in this time.
_REST_SECONDS = 5


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if urlsplit(os.environ["EVENT_STORE_URL"]).scheme.startswith("clickhouse"):
        return
    for item in items:
        for marker in item.iter_markers("clickhouse"):
            # Only where the store is another one, which has nothing of the kind. The run with ClickHouse shows it.
            item.add_marker(pytest.mark.skip(reason=f"about ClickHouse: {marker.kwargs['reason']}"))


class Run:
    """One test's events, and the judgement over them."""

    def __init__(self, name: str, fleet: Fleet, oracle: Oracle, sampler: Sampler) -> None:
        self.name = name
        self.fleet = fleet
        self.oracle = oracle
        self.store = oracle.store
        self.sampler = sampler
        self.books = writers.Books()
        self._writers: list[writers.Writer] = []

    def publish(self, count: int, *, text: str = "something", at: Sequence[str] = (), poison: int = 0) -> None:
        """Commit this many events in one transaction; see `writers.commit_events`."""
        self.books.acknowledged.update(writers.commit_events(self.name, count, text=text, at=at, poison=poison))

    def create_users(self, count: int) -> None:
        self.books.acknowledged.update(writers.commit_users(self.name, count))

    def writer(self, number: int = 1, *, transactions_per_second: float = 50) -> writers.Writer:
        """A started writer; it is stopped with the test at the latest."""
        writer = writers.Writer(
            self.name, self.books, seed=f"{self.name}{number}", transactions_per_second=transactions_per_second
        )
        writer.start()
        self._writers.append(writer)
        return writer

    def stop_writers(self) -> None:
        for writer in self._writers:
            writer.stop()

    def wait_until_drained(self, *, seconds: float = 30) -> None:
        """I7: with the fault off, everything drains."""
        eventually(lambda: not self.oracle.undelivered(), seconds=seconds, what="everything is delivered")

    def judge(self) -> Verdict:
        """I1-I6: nothing lost, doubled, made up or altered, now and in every sample before."""
        verdict = self.oracle.verdict(self.name, acknowledged=self.books.acknowledged)
        assert not verdict.faults
        assert not self.sampler.broken
        assert self.sampler.samples, f"no sample of I5 and I6 could be taken: {self.sampler.last_failure}"
        return verdict

    def judge_when_drained(self, *, seconds: float = 30) -> Verdict:
        self.wait_until_drained(seconds=seconds)
        verdict = self.judge()
        assert verdict.committed == verdict.stored + verdict.dead > 0
        return verdict


@pytest.fixture(scope="session")
def oracle(django_db_setup: None, services: Services) -> Oracle:  # noqa: ARG001, F811 - migrated before
    oracle = Oracle(os.environ["DATABASE_URL"], store_of(services))
    oracle.create()
    return oracle


@pytest.fixture(scope="module")
def bare_fleet(
    services: Services,
    oracle: Oracle,
    django_db_blocker: DjangoDbBlocker,
    request: pytest.FixtureRequest,
) -> Iterator[Fleet]:
    """No worker yet, everything empty."""
    with (
        django_db_blocker.unblock(),
        Fleet(services, log_folder=services.folder / "log" / request.module.__name__.rpartition(".")[2]) as fleet,
    ):
        empty_everything(oracle.store)
        yield fleet
        fleet.kill_all()
        empty_everything(oracle.store)
        connection.close()


@pytest.fixture
def own_connection_closed() -> Iterator[None]:
    """PostgreSQL may have been restarted, or the tests' own connection cut."""
    yield
    connection.close()


@pytest.fixture
def run(bare_fleet: Fleet, oracle: Oracle) -> Iterator[Run]:
    """A run on a fleet that is at rest, sampled all the time. What the test before could not deliver is wiped."""
    try:
        eventually(lambda: not oracle.undelivered(), seconds=_REST_SECONDS)
    except AssertionError:
        bare_fleet.kill_all()
        empty_everything(oracle.store)
    name = f"r{uuid.uuid4().hex[:8]}-"
    with Sampler(oracle, name, every_seconds=_SAMPLE_EVERY_SECONDS) as sampler:
        run = Run(name, bare_fleet, oracle, sampler)
        yield run
        bare_fleet.heal()
        run.stop_writers()


def empty_everything(store: StoreOfRun) -> None:
    empty_tables("oracle_event")
    store.clear()
    purge_queues()
