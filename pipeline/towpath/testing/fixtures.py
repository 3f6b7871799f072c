"""The kit as a pytest plugin: the fixtures `published` and `deliver`."""

from __future__ import annotations

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
def deliver(published: Published) -> Deliver:
    """`deliver()` carries the published events into a store in memory, and returns the events that it then holds."""
    from towpath.testing.delivering import Deliver  # noqa: PLC0415 - as said above

    return Deliver(published)
