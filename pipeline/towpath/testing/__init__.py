"""The testing kit for applications that publish events (docs/testing.md).

`EventsMixin` is for Django's own `TestCase` and `TransactionTestCase`; `pytest_plugins = ["towpath.testing"]` in the
project's uppermost conftest.py brings the same as fixtures. It asks for the test database and for no other service, and
leaves nothing behind in a test that is rolled back.
"""

from __future__ import annotations

from towpath.testing.cases import EventsMixin

__all__ = ["EventsMixin"]

#: pytest reads it in this module, too, and nobody else needs pytest.
pytest_plugins = ["towpath.testing.fixtures"]
