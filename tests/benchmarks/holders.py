"""What can hold back vacuum: as long as one of these is there, no row that dies meanwhile is removed.

A session with an open snapshot and a prepared transaction hold back the vacuum of their own database, a replication
slot that of all databases of the server.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
import time
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg2
import psycopg2._psycopg
from psycopg2.extras import PhysicalReplicationConnection

from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME = "holds_back_vacuum"

#: PostgreSQL's time begins in 2000.
_EPOCH_SECONDS = 946_684_800


@contextlib.contextmanager
def session(database_url: str) -> Iterator[None]:
    """A forgotten session: a transaction that has read something, and waits."""
    with closing(psycopg2.connect(database_url, application_name=_NAME)) as holder, holder.cursor() as cursor:
        cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        cursor.execute("SELECT pg_current_xact_id(), count(*) FROM outbox_event")
        yield
        # The server notices a closed connection some time later.
        holder.rollback()


@contextlib.contextmanager
def prepared_transaction(database_url: str) -> Iterator[None]:
    """The first half of a two-phase commit, whose second half does not come. It survives its session."""
    with closing(psycopg2.connect(database_url)) as holder, holder.cursor() as cursor:
        holder.autocommit = True
        cursor.execute("BEGIN")
        cursor.execute("SELECT pg_current_xact_id()")
        cursor.execute(f"PREPARE TRANSACTION '{_NAME}'")
    try:
        yield
    finally:
        with closing(psycopg2.connect(database_url)) as holder, holder.cursor() as cursor:
            holder.autocommit = True
            cursor.execute(f"ROLLBACK PREPARED '{_NAME}'")


@contextlib.contextmanager
def replication_slot(superuser_url: str) -> Iterator[None]:
    """The slot of a standby that is gone: `hot_standby_feedback` had told the server what it was reading.

    Here, the standby is its last message. It needs no second server.
    """
    with closing(psycopg2.connect(superuser_url)) as administrator, administrator.cursor() as cursor:
        administrator.autocommit = True
        cursor.execute("SELECT pg_create_physical_replication_slot(%s)", [_NAME])
        try:
            with _connected_standby(superuser_url, slot=_NAME):
                pass
            yield
        finally:

            def is_free() -> bool:
                cursor.execute("SELECT NOT active FROM pg_replication_slots WHERE slot_name = %s", [_NAME])
                return cursor.fetchone() == (True,)

            eventually(is_free, seconds=10, what="the slot is free")
            cursor.execute("SELECT pg_drop_replication_slot(%s)", [_NAME])


@contextlib.contextmanager
def standby(superuser_url: str) -> Iterator[None]:
    """A standby without a slot, on which somebody reads. Here, it is its last message."""
    with _connected_standby(superuser_url, slot=None):
        yield


@contextlib.contextmanager
def _connected_standby(superuser_url: str, *, slot: str | None) -> Iterator[None]:
    """Connect as a standby does, say that it reads what is visible now, and leave at the end."""
    # The driver has no function for this message, but libpq has.
    libpq = ctypes.PyDLL(psycopg2._psycopg.__file__)
    put = libpq.PQputCopyData
    put.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    with (
        closing(
            psycopg2.connect(superuser_url, connection_factory=PhysicalReplicationConnection, application_name=_NAME)
        ) as walreceiver,
        walreceiver.cursor() as stream,
        closing(psycopg2.connect(superuser_url)) as administrator,
        administrator.cursor() as cursor,
    ):
        administrator.autocommit = True
        cursor.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint, pg_current_wal_lsn()")
        ((xmin, lsn),) = cursor.fetchall()
        stream.start_replication(slot_name=slot, start_lsn=lsn)
        now = int((time.time() - _EPOCH_SECONDS) * 1e6)
        feedback = b"h" + struct.pack("!qIIII", now, xmin & 0xFFFF_FFFF, xmin >> 32, 0, 0)
        if put(walreceiver.pgconn_ptr, feedback, len(feedback)) != 1 or libpq.PQflush(
            ctypes.c_void_p(walreceiver.pgconn_ptr)
        ):
            raise OSError("the feedback could not be sent")

        def is_held() -> bool:
            cursor.execute(
                "SELECT xmin FROM pg_replication_slots WHERE slot_name = %(name)s AND xmin IS NOT NULL"
                " UNION ALL SELECT backend_xmin FROM pg_stat_replication"
                " WHERE application_name = %(name)s AND backend_xmin IS NOT NULL",
                {"name": _NAME},
            )
            return cursor.rowcount == 1

        eventually(is_held, seconds=10, what="the standby holds back vacuum")
        yield
