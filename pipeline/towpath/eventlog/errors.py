"""The outcomes of a failed write; how each is handled is decided once, in `towpath.flow.delivery`.

None of them proves that nothing was written: the store may have kept the rows and failed in what depends on them (a
materialized view), or a proxy may have answered in its place. What is stored is known only from a read-back.

EventStoreError
|- StoreUnavailable   the event store takes no rows now, whichever they are
|- OutcomeUnknown     it did not answer, or the answer is not its own: the insert may still be running
|- WriteRefused       it answered that it does not take these rows
   |- RowsRefused     they are at fault, or the table is: trying them again will not help
   |- WriteTooLarge   they are too many at once: fewer may pass
"""

from __future__ import annotations


class EventStoreError(Exception):
    """A write to the event store did not succeed."""


class StoreUnavailable(EventStoreError):
    """The event store cannot take rows now."""


class OutcomeUnknown(EventStoreError):
    """The event store's answer was lost: the rows may be written or not."""


class WriteRefused(EventStoreError):
    """The event store does not take these rows: either `RowsRefused` or `WriteTooLarge`."""


class RowsRefused(WriteRefused):
    """The event store refuses these rows."""


class WriteTooLarge(WriteRefused):
    """The event store, or a proxy before it, refuses so many rows or bytes at once."""
