"""Other values for the settings of Towpath, for the time of one test (a pytest plugin)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from pytest_django import Settings


class Knobs(Protocol):
    def __call__(self, **values: object) -> None:
        """Give fields of `Config` these values."""


@pytest.fixture
def knobs(settings: Settings) -> Knobs:
    """`knobs(window_rows=8)`: as if the project had set WINDOW_ROWS to 8."""

    def change(**values: object) -> None:
        settings.TOWPATH = replace(settings.TOWPATH, **values)

    return change
