"""Every test of the suite runs once for each store. `only` names the stores that can show it, and why no others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.db import connection

from tests.conformance.bodies import EXACT
from tests.conformance.subjects import (
    AnyStore,
    ClickHouseSubject,
    EmbeddedSubject,
    MemorySubject,
    PostgreSQLSubject,
    Subject,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_django.plugin import DjangoDbBlocker

    from tests.services import Services

SUBJECTS: dict[str, Callable[[Services], Subject]] = {
    "memory": MemorySubject,
    "clickhouse": ClickHouseSubject,
    "chdb": EmbeddedSubject,
    "postgresql": PostgreSQLSubject,
}


#: The engine has the same statements however it is reached. `make test` reaches it embedded in these files, which show
#: the way there: values, errors, threads. `make faults` does so in all.
_OF_THE_WAY = frozenset({"test_digests.py", "test_outages.py", "test_reading.py"})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "subject" not in metafunc.fixturenames:
        return
    names: tuple[str, ...] = tuple(SUBJECTS)
    for marker in metafunc.definition.iter_markers("only"):
        assert marker.kwargs["reason"], "a test that leaves a store out says why"
        assert set(marker.args) <= SUBJECTS.keys()
        names = marker.args
    is_of_the_way = metafunc.definition.path.name in _OF_THE_WAY
    subjects = [
        pytest.param(name, marks=[pytest.mark.slow] if name == "chdb" and not is_of_the_way else []) for name in names
    ]
    metafunc.parametrize("subject", subjects, indirect=True)


@pytest.fixture(scope="session")
def django_db_setup(services: Services) -> None:
    """The real database; of it, migrating a store takes a lock only."""
    assert services.postgres.is_running


@pytest.fixture
def subject(
    request: pytest.FixtureRequest,
    services: Services,
    django_db_setup: None,  # noqa: ARG001 - runs first
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[Subject]:
    """A store without a table; for a test that takes `store`, too, one that is migrated and empty."""
    with django_db_blocker.unblock():
        subject = SUBJECTS[request.param](services)
        if "store" in request.fixturenames:
            subject.migrate()
        else:
            subject.clear()
        yield subject
        subject.close()
        connection.close()


@pytest.fixture
def store(subject: Subject) -> AnyStore:
    """The store, migrated and empty."""
    return subject.store


@pytest.fixture
def exact(store: AnyStore, subject: Subject) -> Iterator[AnyStore]:  # noqa: ARG001 - it is migrated
    """The store of a project without floats."""
    exact = subject.with_columns(EXACT)
    yield exact
    exact.close()
