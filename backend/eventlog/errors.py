"""The outcomes of a failed write; how each is handled is decided once, in `pipeline.delivery`.

EventStoreError
|- StoreUnavailable   nothing was written; the same write may be tried again later
|- OutcomeUnknown     it may have been written, or may still be: read back before trying again
|- RowsRefused        nothing was written; the rows (or the table) are at fault, and trying again will not help
"""

from __future__ import annotations


class EventStoreError(Exception):
    """A write to the event store did not succeed."""


class StoreUnavailable(EventStoreError):  # noqa: N818 - named after the outcome, as in docs/guarantees.md
    """Nothing was written: the event store cannot take the rows now."""


class OutcomeUnknown(EventStoreError):  # noqa: N818
    """The event store's answer was lost: the rows may be written or not."""


class RowsRefused(EventStoreError):  # noqa: N818
    """Nothing was written: the event store refuses these rows."""
