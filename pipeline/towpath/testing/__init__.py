"""The testing kit: a pytest plugin for applications that publish events (docs/testing.md).

Switched on by `pytest_plugins = ["towpath.testing"]` in the project's uppermost conftest.py. It asks for the test
database and for no other service, and leaves nothing behind in a test that is rolled back.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from towpath.testing.delivering import Deliver
    from towpath.testing.published import Published

# Everything is imported late: pytest loads its plugins before Django's apps are ready.


@pytest.fixture
def published(db: None) -> Published:  # noqa: ARG001 - the database comes first
    """The events published in this test, over all outboxes: `published.one(UserCreated, email="ada@example.com")`."""
    from towpath.testing.published import Published  # noqa: PLC0415 - as said above

    return Published()


@pytest.fixture
def deliver(published: Published, monkeypatch: pytest.MonkeyPatch) -> Deliver:
    """`deliver()` carries what is published into a store in memory, and returns the events that it holds then."""
    from towpath.conf.current import config  # noqa: PLC0415 - as said above
    from towpath.eventlog.stores.memory import MemoryStore  # noqa: PLC0415 - as said above
    from towpath.testing.delivering import Deliver  # noqa: PLC0415 - as said above

    # The thread that renews leases would do so on a connection of its own, which sees nothing of the transaction.
    monkeypatch.setattr("towpath.flow.lease.held", contextlib.nullcontext)
    return Deliver(published, MemoryStore(own_columns=config().columns))
