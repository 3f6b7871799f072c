"""The ledger: what is between dispatch and ack, and the receipts of what was delivered.

The tables are declared here and written with SQL in the modules beside, one for each, because what they promise rests
on single statements (compare-and-set, fencing) that the ORM cannot say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from django.contrib.postgres.fields import ArrayField
from django.db import DEFAULT_DB_ALIAS, models
from django.db.models import Q

from towpath.outbox.fields import AnyField, TableStorage, Xid8Field

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

M = TypeVar("M", bound=models.Model)

#: Small tables that change all the time: vacuumed after a few thousand changes, whatever their size.
_LEDGER_STORAGE = {
    "autovacuum_vacuum_scale_factor": 0,
    "autovacuum_vacuum_threshold": 2000,
    "autovacuum_vacuum_cost_delay": 0,
    "autovacuum_analyze_scale_factor": 0,
    "autovacuum_analyze_threshold": 5000,
}


class _OnDefault(models.Manager[M]):
    """Rows of the ledger. No router is asked where they are: a replica has not the newest ones, and takes none."""

    def get_queryset(self) -> models.QuerySet[M]:
        return super().get_queryset().using(DEFAULT_DB_ALIAS)


class SnapshotField(AnyField):
    """A transaction snapshot: which transactions were finished at a moment."""

    description = "PostgreSQL snapshot (pg_snapshot)"

    def db_type(self, connection: BaseDatabaseWrapper) -> str:  # noqa: ARG002 - Django's signature
        return "pg_snapshot"


class Cursor(models.Model):
    """How far one outbox has been dispatched: every row that `seen` shows is in a batch, or was.

    `cluster` is the system identifier of the PostgreSQL cluster whose transaction ids `seen` speaks of.

    While a large backlog is dispatched page by page, `target` is the snapshot that the pages run up to, and
    (`page_xid`, `page_id`) the last row of the page before. `is_rewound` is set after a restore, when `seen` means
    nothing any more: rows that an open batch or a dead letter holds are then left out.
    """

    pk = models.CompositePrimaryKey("outbox", "version")
    outbox = models.TextField()
    #: One more at each change, so that the newest is found past the dead (`towpath.ledger.versions`).
    version = models.BigIntegerField(db_default=0)
    cluster = models.TextField()
    seen = SnapshotField()
    target = SnapshotField(null=True)
    page_xid = Xid8Field(null=True)
    page_id = models.BigIntegerField(null=True)
    is_rewound = models.BooleanField(default=False)
    #: PostgreSQL's own number of the table, which it keeps when it is renamed.
    table_oid = models.BigIntegerField(null=True)
    dispatched_at = models.DateTimeField(null=True)

    objects = _OnDefault()

    class Meta:
        db_table = "pipeline_cursor"


class Window(models.Model):
    """A sealed window; once `acked_at` is set, its receipt."""

    id = models.UUIDField(primary_key=True)
    lease_token = models.UUIDField()
    lease_until = models.DateTimeField()
    attempts = models.IntegerField(default=1)
    #: How often it is cut in two before its first insert.
    cut_levels = models.SmallIntegerField(db_default=0)
    is_write_begun = models.BooleanField(db_default=False)
    #: Rows at fault, parted from those that came with them.
    is_isolated = models.BooleanField(db_default=False)
    #: When the event store first refused it without taking a row of it.
    refused_at = models.DateTimeField(null=True)
    #: When its last attempt failed; null until one has, and again from the ack on. Windows with one are the
    #: back-pressure: while too many wait, no more are sealed.
    failed_at = models.DateTimeField(null=True)
    #: Why it failed, for people: nothing is decided by it.
    last_error = models.TextField(db_default="")
    #: By what its batches were found: their messages, or a look into the ledger (`towpath.ledger.windows.Found`).
    found = models.TextField(db_default="message")
    #: By outbox, fixed at the seal. What became of each row is fixed at the ack: it was delivered, had vanished, was
    #: refused, or was isolated. For each outbox, these four add up to it.
    rows = models.JSONField()
    bytes = models.BigIntegerField()
    sealed_at = models.DateTimeField()
    acked_at = models.DateTimeField(null=True)
    #: Receipt: an error in spite of which the event store has the rows. What depends on its table may miss them.
    store_error = models.TextField(db_default="")
    #: Receipt: when the event store was found to hold exactly `delivered`.
    verified_at = models.DateTimeField(null=True)
    #: Receipt: how the event store contradicts it, or why it does not add up.
    contradiction = models.TextField(null=True)  # noqa: DJ001 - null: nothing contradicts it
    #: Receipt: why a person has closed its alarm; empty: nobody has.
    closed_reason = models.TextField(db_default="")
    #: Receipt: rows that were loaded, written and deleted, by outbox.
    delivered = models.JSONField(null=True)
    #: Receipt: rows that somebody else had deleted from their outbox before the load, by outbox. They are not stored.
    vanished = models.JSONField(null=True)
    #: Receipt: rows that became dead letters, by outbox.
    refused = models.JSONField(null=True)
    #: Receipt: rows that wait in windows of their own, by outbox. They count there.
    isolated = models.JSONField(null=True)
    #: Receipt: the first and the last moment at which its batches were dispatched.
    dispatched_from = models.DateTimeField()
    dispatched_to = models.DateTimeField()

    objects = _OnDefault()

    class Meta:
        db_table = "pipeline_window"
        indexes = (
            models.Index(fields=["lease_until"], name="window_open_lease", condition=Q(acked_at=None)),
            models.Index(fields=["acked_at"], name="window_acked"),
            models.Index(
                fields=["acked_at"],
                name="window_unverified",
                condition=Q(acked_at__isnull=False, verified_at=None),
            ),
            models.Index(
                fields=["acked_at"], name="window_vanished", condition=Q(vanished__isnull=False, closed_reason="")
            ),
            models.Index(fields=["acked_at"], name="window_store_error", condition=~Q(store_error="")),
        )
        constraints = (TableStorage(name="window_storage", parameters=_LEDGER_STORAGE),)


class Batch(models.Model):
    """The ids of one message. An outbox id is in at most one batch; a batch in at most one window, for good."""

    outbox = models.TextField()
    ids = ArrayField(models.BigIntegerField())
    rows = models.IntegerField()
    bytes = models.BigIntegerField()
    #: False of rows that a look found new, few enough to be taken whole.
    is_backlog = models.BooleanField(db_default=True)
    dispatched_at = models.DateTimeField()
    window = models.ForeignKey(Window, on_delete=models.PROTECT, null=True, related_name="batches")

    objects = _OnDefault()

    class Meta:
        db_table = "pipeline_batch"
        indexes = (models.Index(fields=["dispatched_at"], name="batch_unsealed", condition=Q(window=None)),)
        # Compressing the lists took half of what dispatch costs PostgreSQL, to save two bytes of WAL per id.
        constraints = (TableStorage(name="batch_storage", parameters=_LEDGER_STORAGE, uncompressed_columns=("ids",)),)


class Mark(models.Model):
    """The number from which on a scan has to look. Its newest version is the one that holds."""

    pk = models.CompositePrimaryKey("name", "version")
    name = models.TextField()
    version = models.BigIntegerField()
    value = models.BigIntegerField()

    objects = _OnDefault()

    class Meta:
        db_table = "pipeline_mark"
        constraints = (TableStorage(name="mark_storage", parameters=_LEDGER_STORAGE),)


class DeadLetter(models.Model):
    """A row that the event store refuses by itself. It stays in its outbox until somebody replays or drops it."""

    outbox = models.TextField()
    row_id = models.BigIntegerField()
    error = models.TextField()
    window_id = models.UUIDField()
    at = models.DateTimeField()

    objects = _OnDefault()

    class Meta:
        db_table = "pipeline_deadletter"
        constraints = (models.UniqueConstraint(fields=["outbox", "row_id"], name="deadletter_once"),)


class Shift(models.Model):
    """Who dispatches, and who recovers: the holder of the token. A newer shift takes it from an older one."""

    pk = models.CompositePrimaryKey("name", "version")
    name = models.TextField()
    #: As a cursor's.
    version = models.BigIntegerField(db_default=0)
    token = models.UUIDField()
    taken_at = models.DateTimeField()
    #: Written every few seconds while the shift works: what `status` and `doctor` judge it by.
    alive_at = models.DateTimeField()
    #: When and by what a shift of this name was interrupted last.
    interrupted_at = models.DateTimeField(null=True)
    last_error = models.TextField(db_default="")

    objects = _OnDefault()

    class Meta:
        db_table = "pipeline_shift"
