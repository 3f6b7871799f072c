"""Where the stages are traced: nothing unless TRACING is on, and then `towpath.telemetry.spans`.

Off, nothing of OpenTelemetry is imported.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from django.conf import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from towpath.ledger.windows import SealedWindow

if settings.TOWPATH.tracing:
    from towpath.telemetry.spans import add_stage, of_window
else:

    @contextlib.contextmanager
    def of_window(window: SealedWindow) -> Iterator[None]:  # noqa: ARG001 - nothing
        """While inside, the window's span is the current one."""
        yield

    def add_stage(stage: str, *, seconds: float) -> None:
        """The current window's span gets a child that ends now."""


__all__ = ["add_stage", "of_window"]
