"""Who holds back vacuum: sessions, standbys, replication slots and prepared transactions, for people and machines.

Dead rows stay in tables and indexes as long as an older transaction may still see them. The rules are those of
PostgreSQL's `GetOldestNonRemovableTransactionId`: sessions and prepared transactions of this database, slots and
standbys of any database. Vacuum itself does not count, and neither does decoding for a logical slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from towpath import driver
from towpath.ledger.transaction_ages import read_ages

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from towpath.ledger.transaction_ages import Age

HolderKind = Literal["session", "standby", "slot", "prepared"]

#: Holders are named only if they have held back vacuum for longer than this.
LATE_SECONDS = 600.0
#: How many are named one by one, longest first.
_MOST_NAMED = 5

_RUNBOOK = "See docs/runbook.md, TowpathVacuumHeldBack"

#: `is_derived`: a snapshot is as old as the oldest transaction that ran when it was taken. While that transaction runs,
#: it does not tell how old the snapshot is.
_CANDIDATES = """
WITH running AS (
    SELECT backend_xid AS xid FROM pg_stat_activity WHERE backend_xid IS NOT NULL
    UNION ALL SELECT transaction FROM pg_prepared_xacts
),
held AS (
    SELECT CASE WHEN a.datid IS NULL THEN 'standby' ELSE 'session' END AS kind, a.pid::text AS name,
           a.application_name AS application, coalesce(a.usename::text, '') AS owner, coalesce(a.state, '') AS state,
           a.xact_start AS since, a.backend_xid AS xid, a.backend_xmin AS xmin
    FROM pg_stat_activity AS a LEFT JOIN pg_stat_replication AS r USING (pid)
    WHERE coalesce(a.backend_xid, a.backend_xmin) IS NOT NULL AND a.pid <> pg_backend_pid() AND a.leader_pid IS NULL
      AND (a.datname = current_database() OR a.datid IS NULL AND r.pid IS NOT NULL)
      AND coalesce(a.query, '') !~ '^START_REPLICATION.* LOGICAL '
      AND a.pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum)
    UNION ALL
    SELECT 'slot', s.slot_name::text, coalesce(a.application_name, ''), '',
           concat_ws(' ', s.slot_type, CASE WHEN s.active THEN 'active' END),
           -- A column of PostgreSQL 17 and later.
           CASE WHEN NOT s.active THEN (to_jsonb(s) ->> 'inactive_since')::timestamptz END,
           NULL, coalesce(s.xmin, CASE WHEN NOT s.active THEN s.catalog_xmin END)
    FROM pg_replication_slots AS s LEFT JOIN pg_stat_activity AS a ON a.pid = s.active_pid
    WHERE s.wal_status IS DISTINCT FROM 'lost'
    UNION ALL
    SELECT 'prepared', gid, '', owner::text, '', prepared, transaction, NULL
    FROM pg_prepared_xacts WHERE database = current_database()
)
SELECT kind, name, application, owner, state, extract(epoch FROM clock_timestamp() - since)::float8,
       xid IS NOT NULL, xid IS NULL AND xmin IN (SELECT running.xid FROM running), greatest(age(xid), age(xmin))
FROM held WHERE xid IS NOT NULL OR xmin IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class Holder:
    """What has held back vacuum for `transactions` transactions: a process by its number, a slot or a prepared
    transaction by its name.

    `is_measured` is False if no time is recorded, or this role may not see it: then vacuum has been held back for at
    least `seconds`.
    """

    kind: HolderKind
    name: str
    application: str
    owner: str
    #: What a session does; a slot's type, and whether it is in use. Empty if this role may not see it.
    state: str
    seconds: float
    is_measured: bool
    transactions: int


def find_holders() -> list[Holder]:
    """Return everything that holds back vacuum in this database now, longest first, however short."""
    with driver.cursor() as cursor:
        cursor.execute(_CANDIDATES)
        candidates = [_Candidate(*row) for row in cursor.fetchall()]
    ages = read_ages() if any(one.needs_ages for one in candidates) else ()
    return sorted((one.judged_by(ages) for one in candidates), key=lambda holder: -holder.seconds)


@dataclass(frozen=True, slots=True)
class _Candidate:
    kind: HolderKind
    name: str
    application: str
    owner: str
    state: str
    #: Since its transaction began, or since the slot was last in use. None if not recorded, or not visible.
    seconds: float | None
    has_xid: bool
    is_derived: bool
    transactions: int

    @property
    def needs_ages(self) -> bool:
        """True if the seconds alone do not say how long it has held back vacuum."""
        if self.kind == "slot" or self.seconds is None:
            return True
        return not self.has_xid and self.seconds > LATE_SECONDS

    def judged_by(self, ages: Sequence[Age]) -> Holder:
        """Return it as a holder. Without a transaction id, a session's snapshot may be younger than its transaction."""
        older = [age.seconds for age in ages if age.transactions <= self.transactions]
        younger = [age.seconds for age in ages if age.transactions > self.transactions]
        at_least = 0.0 if self.is_derived or not older else max(older)
        if self.kind == "slot" or self.seconds is None:
            seconds, is_measured = max(self.seconds or 0.0, at_least), False
        else:
            seconds, is_measured = min([self.seconds, *(() if self.has_xid else younger)]), True
        return Holder(
            self.kind,
            self.name,
            self.application,
            self.owner,
            self.state,
            seconds,
            is_measured,
            self.transactions,
        )


def longest_seconds(holders: Sequence[Holder]) -> Mapping[str, float]:
    """Return how long each kind has held back vacuum, in seconds; 0 for a kind without a holder."""
    return {
        kind: max((holder.seconds for holder in holders if holder.kind == kind), default=0.0)
        for kind in get_args(HolderKind)
    }


def late_holders(holders: Sequence[Holder]) -> list[Holder]:
    """Return the holders that have held back vacuum for more than LATE_SECONDS."""
    return [holder for holder in holders if holder.seconds > LATE_SECONDS]


def problems(holders: Sequence[Holder]) -> Iterator[str]:
    """Yield a sentence for each holder that has held back vacuum for too long, and how to end it."""
    late = late_holders(holders)
    yield from (f"{_sentence(holder)}. {_RUNBOOK}" for holder in late[:_MOST_NAMED])
    if len(late) > _MOST_NAMED:
        yield f"{len(late) - _MOST_NAMED} more hold back vacuum. {_RUNBOOK}"


def unseen() -> str:
    """Return what this role may not see of other roles' transactions, and the remedy; empty if it sees everything."""
    with driver.cursor() as cursor:
        cursor.execute("SELECT current_user, pg_has_role('pg_read_all_stats', 'USAGE')")
        role, is_seeing = cursor.fetchone()
    if is_seeing:
        return ""
    return (
        f"the role {role} cannot see how long other roles' transactions have been open, so receipts give an estimate."
        f" To see it, run GRANT pg_read_all_stats TO {role}, which also shows the text of all queries"
    )


def _sentence(holder: Holder) -> str:
    match holder.kind:
        case "session":
            return _session(holder)
        case "standby":
            return (
                f"the standby {holder.application!r} (process {holder.name}) has held back vacuum for"
                f" {_how_long(holder)}: {_ON_THE_STANDBY}"
            )
        case "slot":
            return _slot(holder)
        case "prepared":
            return (
                f"the prepared transaction {holder.name!r} (user {holder.owner}) has held back vacuum for"
                f" {_how_long(holder)}: end it as its manager has decided, with `ROLLBACK PREPARED"
                f" {_literal(holder.name)}` or COMMIT PREPARED"
            )


_ON_THE_STANDBY = (
    "end the oldest query on the standby (pg_stat_activity.xact_start), or set hot_standby_feedback = off there"
)


def _session(holder: Holder) -> str:
    state = f", {holder.state}" if holder.state else ""
    wait = ", or wait for its query to finish" if holder.state == "active" else ""
    return (
        f"the session {holder.name} (application {holder.application!r}, user {holder.owner or 'unknown'}{state}) has"
        f" held back vacuum for {_how_long(holder)}: end it with `SELECT pg_terminate_backend({holder.name})`{wait}"
    )


def _slot(holder: Holder) -> str:
    who = f"the replication slot {holder.name!r}"
    if holder.state.endswith("active"):
        standby = f" of the standby {holder.application!r}" if holder.application else ""
        return f"{who}{standby} has held back vacuum for {_how_long(holder)}: {_ON_THE_STANDBY}"
    drop = f"or drop the slot if nothing needs it: `SELECT pg_drop_replication_slot({_literal(holder.name)})`"
    if holder.state == "logical":
        return (
            f"{who} (logical, not in use) has kept WAL and held back vacuum of the system catalogs for"
            f" {_how_long(holder)}: restart its reader, {drop}"
        )
    return f"{who} (not in use) has held back vacuum for {_how_long(holder)}: restart its standby, {drop}"


def _how_long(holder: Holder) -> str:
    or_more = "" if holder.is_measured else " or more"
    return f"{_duration(holder.seconds)}{or_more} ({holder.transactions:,} transactions)"


def _duration(seconds: float) -> str:
    hours = int(seconds // 3600)
    if hours < 2:  # noqa: PLR2004 - until then, minutes say more
        return f"{seconds // 60:.0f} min"
    return f"{hours} h" if hours < 72 else f"{hours // 24} days"  # noqa: PLR2004 - the same of hours


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
