"""Whoever holds back vacuum: as long as one of these is there, no row that dies meanwhile is removed.

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
            _tell_as_standby(superuser_url)
            yield
        finally:

            def is_free() -> bool:
                cursor.execute("SELECT NOT active FROM pg_replication_slots WHERE slot_name = %s", [_NAME])
                return cursor.fetchone() == (True,)

            eventually(is_free, seconds=10, what="the slot is free")
            cursor.execute("SELECT pg_drop_replication_slot(%s)", [_NAME])


def _tell_as_standby(superuser_url: str) -> None:
    """Connect as a standby does, say that it reads what is visible now, and leave."""
    # The driver has no function for this message, but libpq has.
    libpq = ctypes.PyDLL(psycopg2._psycopg.__file__)
    put = libpq.PQputCopyData
    put.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int]
    with (
        closing(psycopg2.connect(superuser_url, connection_factory=PhysicalReplicationConnection)) as standby,
        standby.cursor() as stream,
        closing(psycopg2.connect(superuser_url)) as administrator,
        administrator.cursor() as cursor,
    ):
        administrator.autocommit = True
        cursor.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint, pg_current_wal_lsn()")
        ((xmin, lsn),) = cursor.fetchall()
        stream.start_replication(slot_name=_NAME, start_lsn=lsn)
        now = int((time.time() - _EPOCH_SECONDS) * 1e6)
        feedback = b"h" + struct.pack("!qIIII", now, xmin & 0xFFFF_FFFF, xmin >> 32, 0, 0)
        if put(standby.pgconn_ptr, feedback, len(feedback)) != 1 or libpq.PQflush(ctypes.c_void_p(standby.pgconn_ptr)):
            raise OSError("the feedback could not be sent")

        def is_held() -> bool:
            cursor.execute("SELECT xmin IS NOT NULL FROM pg_replication_slots WHERE slot_name = %s", [_NAME])
            return cursor.fetchone() == (True,)

        eventually(is_held, seconds=10, what="the slot holds back vacuum")
