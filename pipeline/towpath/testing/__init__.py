"""The testing kit for applications that publish events (docs/testing.md).

`EventsMixin` is for Django's own `TestCase` and `TransactionTestCase`. With pytest, `pytest_plugins =
["towpath.testing"]` in the project's top-level conftest.py gives the same as fixtures. The kit needs the test database
and no other service, and leaves nothing behind in a test that is rolled back.
"""

from __future__ import annotations

from towpath.testing.cases import EventsMixin

__all__ = ["EventsMixin"]

#: pytest reads this here; nothing else needs pytest.
pytest_plugins = ["towpath.testing.fixtures"]
