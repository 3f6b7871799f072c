"""Several things at the same time, in threads that give their database connections back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from django.db import connections

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")


def all_at_once(functions: Sequence[Callable[[], T]]) -> list[T]:
    """Run each in a thread of its own; their results in order. Raises what the first of them raised."""

    def run(function: Callable[[], T]) -> T:
        try:
            return function()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(max_workers=len(functions)) as pool:
        return list(pool.map(run, functions))
