"""What the pipeline publishes about itself."""

from __future__ import annotations

from towpath.outbox.event import Event


class DeadLetterDropped(Event):
    """An event was deleted without having been stored."""

    outbox: str
    outbox_id: int
    error: str
    dropped_by: str


class OutboxDiscarded(Event):
    """The rows that the ledger had under the name of a removed outbox were given up."""

    outbox: str
    rows: int
    dead_letters: int
    discarded_by: str


class ReceiptMismatchClosed(Event):
    """A person decided that the event store stays as it is, although it does not match a receipt."""

    window: str
    difference: str
    reason: str
    closed_by: str


class LedgerSealed(Event):
    """A seal was made. Its digest stands for every event that was delivered before."""

    number: int
    digest: str
    windows: int
    rows: int


class WindowAccepted(Event):
    """A person accepted what the event store holds of a window, although its proof says something else."""

    window: str
    difference: str
    reason: str
    accepted_by: str


class UnprovenWindowsAccepted(Event):
    """A person accepted what the event store holds of windows that were never proven."""

    #: Of these, `stray` had no receipt.
    windows: int
    stray: int
    rows: int
    #: How many were accepted together, in several events.
    together: int
    since: str
    until: str
    reason: str
    accepted_by: str


class LogRead(Event):
    """A person read events, or what identifies them, with one of Towpath's own tools."""

    tool: str
    #: The number of rows that were shown.
    rows: int
    detail: str
    read_by: str


class LogAudited(Event):
    """A person compared the event log with its proofs."""

    version = 2

    windows: int
    rows: int
    seals: int
    findings: int
    #: False: it was stopped, or the event store failed.
    is_complete: bool
    #: The windows with proofs above `after`, up to `position`, that were dispatched in this period.
    after: int
    position: int
    since: str
    until: str
    audited_by: str


class LogMonthDropped(Event):
    """A month of the event log was dropped, because it was old enough."""

    month: str
    windows: int
    rows: int
    reason: str
    dropped_by: str


class EventsErased(Event):
    """Values of a person's events were masked. Whose events they were is hashed: it can be checked, but not read."""

    #: The query that found them, with an HMAC-SHA256 under EVENT_HASH_KEY in place of each value.
    query: str
    fields: list[str]
    windows: int
    rows: int
    undelivered: int
    reason: str
    erased_by: str


class DispatchPaused(Event):
    """A person paused dispatch of one outbox, or of all (an empty name). Events wait."""

    event_outcome = "success"

    outbox: str
    reason: str
    paused_by: str

    @property
    def event_target(self) -> str:
        return f"outbox:{self.outbox}" if self.outbox else "pipeline"


class DispatchResumed(Event):
    """A person resumed dispatch of one outbox, or of all (an empty name)."""

    event_outcome = "success"

    outbox: str
    resumed_by: str

    @property
    def event_target(self) -> str:
        return f"outbox:{self.outbox}" if self.outbox else "pipeline"


class CanarySent(Event):
    """The pipeline has published an event to see how long one takes. Nobody did anything."""

    canary: str

    @property
    def event_target(self) -> str:
        return f"canary:{self.canary}"


class RecoveryRun(Event):
    """A person ran recovery, which delivers what is stuck."""

    event_outcome = "success"

    windows: int
    stranded_rows: int
    run_by: str


class DeadLettersReplayed(Event):
    """A person sent dead letters through the pipeline again."""

    event_outcome = "success"

    rows: int
    #: The numbers of the dead letters.
    numbers: list[int]
    replayed_by: str


class PipelineActionFailed(Event):
    """A person tried an action on the pipeline, and it was not done."""

    event_outcome = "failure"

    action: str
    #: An outbox, or numbers of dead letters; empty for the pipeline.
    target: str
    reason: str
    tried_by: str


class PipelineActionRefused(Event):
    """A person tried an action on the pipeline that the account may not do."""

    event_outcome = "denied"

    action: str
    target: str
    reason: str
    tried_by: str
