"""Writers: they publish as the application does, and write down in the same transaction what they publish.

Whatever the transaction comes to, its events and the oracle's rows come to the same.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from django.db import DatabaseError, InterfaceError, connection, transaction

from backend.users.models import OutboxUser, User
from backend.users.use_cases import CreateUser, CreateUserRequest, UserCreated
from tests.poison import take_limits_away
from towpath import Event, publish, publish_many

if TYPE_CHECKING:
    from collections.abc import Sequence

_AWKWARD = (
    "plain",
    "Tab\there",
    "New\nline",
    "Back\\slash \\N",
    'Q"uote',
    "\N{SNOWMAN} \N{GRINNING FACE}",
    "\x01\x7f",
    "",
)
_MEBIBYTE = 1024 * 1024


class SomethingHappened(Event):
    """What the writers publish. The key comes first, where the oracle looks for it."""

    key: str
    text: str


def publish_events(run: str, texts: Sequence[str]) -> list[str]:
    """An event for each text into the general outbox, in the caller's transaction; their keys."""
    events = [SomethingHappened(key=_key(run), text=text) for text in texts]
    if len(events) == 1:
        publish(events[0])
    else:
        publish_many(events)
    keys = [event.key for event in events]
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO oracle_event (run, key, outbox, outbox_id, md5)"
            " SELECT %s, mine.key, 'outbox_event', o.id, mine.md5"
            " FROM unnest(%s::text[], %s::text[]) AS mine (key, md5)"
            " JOIN outbox_event AS o ON substring(o.event_context FROM 9 FOR length(mine.key)) = mine.key"
            " WHERE o.xid = pg_current_xact_id()",
            [run, keys, [_md5(event) for event in events]],
        )
        if cursor.rowcount != len(events):
            raise AssertionError(f"{cursor.rowcount} of {len(events)} events written down")
    return keys


def create_user(run: str, first_name: str = "Ada", last_name: str = "Lovelace") -> list[str]:
    """A user by the application's own use case, in the caller's transaction; the key of its event."""
    email = f"{_key(run)}@example.com"
    user = CreateUser().execute(CreateUserRequest(email=email, first_name=first_name, last_name=last_name)).result
    if user is None:
        raise AssertionError(f"no user for {email}")
    _note_users(run, [user], [OutboxUser.objects.get(user=user).pk])
    return [email]


def create_users(run: str, count: int) -> list[str]:
    """Users in bulk, in the caller's transaction; the keys of their events."""
    users = User.objects.bulk_create(
        User(email=f"{_key(run)}@example.com", first_name=f"User {n}", last_name="Bulk") for n in range(count)
    )
    rows = OutboxUser.objects.bulk_create(OutboxUser(user=user) for user in users)
    _note_users(run, users, [row.pk for row in rows])
    return [user.email for user in users]


def commit_events(
    run: str, count: int, *, text: str = "something", at: Sequence[str] = (), poison: int = 0
) -> list[str]:
    """`count` events in a transaction of their own. `at`: their times, by turns. `poison`: so many that no store takes.

    Times are set behind publish(): it would refuse the poison.
    """
    if poison:
        take_limits_away()
    with transaction.atomic(), connection.cursor() as cursor:
        keys = publish_events(run, [text] * count)
        if at:
            cursor.execute(
                "UPDATE outbox_event SET event_date_time = (%s::timestamptz[])[1 + id %% %s]"
                " WHERE xid = pg_current_xact_id()",
                [list(at), len(at)],
            )
        cursor.execute(
            "UPDATE outbox_event SET event_date_time = 'infinity' WHERE id IN"
            " (SELECT id FROM outbox_event WHERE xid = pg_current_xact_id() ORDER BY md5(id::text) LIMIT %s)",
            [poison],
        )
        return keys


def commit_users(run: str, count: int) -> list[str]:
    with transaction.atomic():
        return create_users(run, count)


def _note_users(run: str, users: Sequence[User], outbox_ids: Sequence[int]) -> None:
    contexts = [UserCreated(email=user.email, first_name=user.first_name, last_name=user.last_name) for user in users]
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO oracle_event (run, key, outbox, outbox_id, md5)"
            " SELECT %s, key, 'outbox_user', id, md5 FROM unnest(%s, %s::bigint[], %s) AS mine (key, id, md5)",
            [run, [user.email for user in users], list(outbox_ids), [_md5(context) for context in contexts]],
        )


def _key(run: str) -> str:
    return f"{run}{uuid.uuid4().hex}"


def _md5(event: Event) -> str:
    return hashlib.md5(event.model_dump_json().encode(), usedforsecurity=False).hexdigest()


@dataclass(slots=True)
class Books:
    """What the writers were told by PostgreSQL. Shared by their threads."""

    acknowledged: set[str] = field(default_factory=set)
    #: The answer to the COMMIT was lost.
    maybe: set[str] = field(default_factory=set)
    rolled_back: int = 0
    failed: int = 0
    guard: threading.Lock = field(default_factory=threading.Lock)


class _RollBack(Exception):
    pass


class Writer(threading.Thread):
    """Random transactions at a rate, until told to stop: the same seed does the same things."""

    def __init__(
        self, run: str, books: Books, *, seed: str, transactions_per_second: float, big_every: int = 0
    ) -> None:
        super().__init__(name=f"writer-{seed}", daemon=True)
        self._run = run
        self._books = books
        self._random = random.Random(seed)
        self._pause_seconds = 1 / transactions_per_second
        self._big_every = big_every
        self._stopping = threading.Event()
        #: The error that ended the writer, if one did.
        self.error: BaseException | None = None

    def stop(self) -> None:
        self._stopping.set()
        self.join()
        if self.error is not None:
            raise self.error

    def run(self) -> None:
        try:
            for number in itertools.count():
                if self._stopping.wait(self._pause_seconds * self._random.uniform(0, 2)):
                    break
                self._one(number)
        except BaseException as error:  # noqa: BLE001 - raised by stop(), in the thread that judges
            self.error = error
        finally:
            connection.close()

    def _one(self, number: int) -> None:
        keys: list[str] = []
        is_committing = False
        try:
            with transaction.atomic():
                keys = self._work(number)
                is_committing = True
        except _RollBack:
            with self._books.guard:
                self._books.rolled_back += 1
        except (DatabaseError, InterfaceError):
            connection.close()
            with self._books.guard:
                # An error before the COMMIT was sent means that there was none.
                self._books.maybe.update(keys if is_committing else ())
                self._books.failed += not is_committing
            self._stopping.wait(0.2)
        else:
            with self._books.guard:
                self._books.acknowledged.update(keys)

    def _work(self, number: int) -> list[str]:
        dice = self._random.random()
        if self._big_every and number % self._big_every == self._big_every - 1:
            keys = publish_events(self._run, ["x" * self._random.randint(_MEBIBYTE, 3 * _MEBIBYTE)])
        elif dice < 0.35:
            keys = create_user(self._run, self._random.choice(_AWKWARD), self._random.choice(_AWKWARD))
        elif dice < 0.38:
            keys = create_users(self._run, self._random.randint(50, 300))
        elif dice < 0.41:
            keys = publish_events(self._run, ["bulk"] * self._random.randint(50, 300))
        else:
            keys = publish_events(self._run, [self._random.choice(_AWKWARD)] * self._random.randint(1, 5))
        if self._random.random() < 0.1:
            self._roll_back_to_savepoint()
        if self._random.random() < 0.1:
            # Others commit meanwhile: ids and transactions become visible out of order.
            time.sleep(self._random.uniform(0, 0.5))
        if self._random.random() < 0.1:
            raise _RollBack
        return keys

    def _roll_back_to_savepoint(self) -> None:
        with transaction.atomic():
            publish_events(self._run, ["never happened"])
            transaction.set_rollback(True)
        if transaction.get_rollback():
            # The session has ended in between. Django would roll the outer transaction back, too, without an error.
            raise InterfaceError("the savepoint could not be rolled back")
