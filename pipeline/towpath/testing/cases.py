"""The kit for Django's own test cases, which `manage.py test` runs."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from django.test import TransactionTestCase

    from towpath.testing.delivering import Deliver
    from towpath.testing.published import Published

    Case = TransactionTestCase
else:
    Case = object

# The rest is imported late: as a pytest plugin, the package is imported before Django's apps are ready.


class EventsMixin(Case):
    """For a `TestCase` or a `TransactionTestCase`, before it: `class SignUpTests(EventsMixin, TestCase)`.

    Events that `setUpTestData` publishes do not count as published in a test.
    """

    _ids_before: ClassVar[Mapping[str, int]]

    @classmethod
    def setUpClass(cls) -> None:
        from towpath.testing.published import last_ids  # noqa: PLC0415 - as said above

        super().setUpClass()
        cls._ids_before = last_ids()

    @functools.cached_property
    def published(self) -> Published:
        """The events published in this test, over all outboxes: `self.published.one(UserCreated, email=...)`."""
        from towpath.testing.published import Published  # noqa: PLC0415 - as said above

        return Published(self._ids_before)

    @functools.cached_property
    def deliver(self) -> Deliver:
        """`self.deliver()` carries what is published into a store in memory, and returns the events it holds then."""
        from towpath.testing.delivering import Deliver  # noqa: PLC0415 - as said above

        return Deliver(self.published)
