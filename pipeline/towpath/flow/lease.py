"""Keeps the leases of the windows that this process is delivering, for as long as it delivers them.

Short leases make recovery quick. Because they are renewed, a slow store is not a reason to take a window away. If the
process dies or stops, so does the renewal.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

import structlog
from django.db import connection

from towpath.errors import described
from towpath.ledger.windows import renew

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

    from towpath.ledger.windows import SealedWindow

log = structlog.get_logger()

_held: dict[UUID, SealedWindow] = {}
_changed = threading.Condition()
_keeper: threading.Thread | None = None


@contextlib.contextmanager
def held(window: SealedWindow) -> Iterator[None]:
    """Renew the window's lease in the background while inside."""
    global _keeper  # noqa: PLW0603 - one thread for the process
    with _changed:
        _held[window.id] = window
        if _keeper is None or not _keeper.is_alive():
            _keeper = threading.Thread(target=_keep, name="lease-keeper", daemon=True)
            _keeper.start()
        _changed.notify()
    try:
        yield
    finally:
        with _changed:
            _held.pop(window.id, None)


def _keep() -> None:
    while True:
        with _changed:
            _changed.wait_for(lambda: _held)
            before = set(_held)
            lease_seconds = min(window.lease_seconds for window in _held.values())
        # A window that takes less than this, as nearly all do, costs no statement.
        time.sleep(lease_seconds / 3)
        with _changed:
            slow = [window for window_id, window in _held.items() if window_id in before]
        if slow:
            _keep_held(slow)


def _keep_held(windows: list[SealedWindow]) -> None:
    try:
        renew(windows)
    except Exception as error:  # noqa: BLE001 - this thread renews the leases of all other windows, too
        # No guarantee depends on it: the lease runs out, and the fence in `ack` keeps this process from doing harm.
        log.warning("leases_not_renewed", windows=len(windows), error=described(error))
        connection.close()
