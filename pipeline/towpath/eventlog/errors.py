"""The outcomes of a failed write. `towpath.flow.delivery` alone decides how each is handled.

None of them proves that nothing was written: the store may have kept the rows and failed in something that depends on
them (a materialized view), or a proxy may have answered in its place. Only a read-back tells what is stored.

EventStoreError
|- StoreUnavailable   the event store takes no rows now, whichever they are
|  |- LimitReached     a limit of its user ended a statement that reads: asking for less may work
|- OutcomeUnknown     it did not answer, or the answer is not its own: the insert may still be running
|- WriteRefused       it answered that it does not take these rows
   |- RowsRefused     they are at fault, or the table is: another attempt will not help
   |- WriteTooLarge   they are too many together: fewer may work
"""

from __future__ import annotations


class EventStoreError(Exception):
    """A write to the event store did not succeed."""


class StoreUnavailable(EventStoreError):
    """The event store cannot take rows now."""


class LimitReached(StoreUnavailable):
    """A limit of the event store's user ended a statement: of time, rows, bytes or memory."""


class OutcomeUnknown(EventStoreError):
    """The event store's answer was lost: the rows may or may not be written."""


class WriteRefused(EventStoreError):
    """The event store does not take these rows: either `RowsRefused` or `WriteTooLarge`."""


class RowsRefused(WriteRefused):
    """The event store refuses these rows."""


class WriteTooLarge(WriteRefused):
    """The event store, or a proxy in front of it, refuses this many rows or bytes in one request."""
