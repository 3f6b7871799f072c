"""What is stored is what was published: contexts byte for byte, columns, and times."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest
from django.db import connection, transaction

from backend.users.models import OutboxUser
from backend.users.use_cases import CreateUser, CreateUserRequest, UserCreated
from tests.integration.event_log import EventLog
from tests.integration.invariants import assert_delivered
from tests.integration.rows import write_events
from tests.integration.windows import (
    deliver,
    deliver_all,
    sealed,
)
from towpath import Event, publish
from towpath.eventlog.store import EventStore
from towpath.outbox.models import OutboxEvent

#: What breaks text formats: separators, escapes, control characters, what some decoders take for line ends or marks.
STRANGE = [
    "\t",
    "\n",
    "\r",
    "\r\n",
    "\\",
    "\\\\",
    "\\t",
    "\\n",
    "\\N",
    "\\.",
    "\\\n",
    "\\x41",
    "'",
    '"',
    "''",
    '\\"',
    "a\tb\nc\rd\\e",
    "\\N\t\\N\n\\.\n",
    "",
    " ",
    "NULL",
    "null",
    "\\",
    *(chr(code) for code in range(1, 0x20)),
    "\x7f",
    "\x80",
    "\x85",
    "\xa0",
    "\u2028",
    "\u2029",
    "\ufeff",
    "\ufffd",
    "\uffff",
    "\U0010ffff",
    "😀👩‍👩‍👧‍👦",
    "e\u0301 \ufdfd \u202e",
    "".join(chr(code) for code in range(1, 0x100)),
    "{{}}%s%(a)s{0}?",
    "/</script>&amp;",
    "\\u0000",
    "x" * 100_000,
]


class Noted(Event):
    text: str


def random_text(chance: random.Random) -> str:
    """Any text that PostgreSQL can hold: no NUL, no surrogates."""
    alphabets = [range(1, 0x80), range(0x80, 0x800), range(0x800, 0xD800), range(0xE000, 0x110000)]
    return "".join(chr(chance.choice(chance.choice(alphabets))) for _ in range(chance.randint(0, 150)))


def test_the_context_of_a_frozen_event_is_stored_byte_for_byte(store: EventStore, event_log: EventLog) -> None:
    ids = write_events(STRANGE)

    deliver_all(store)

    stored = {event.outbox_id: event.event_context for event in event_log.events()}
    for id_, text in zip(ids, STRANGE, strict=True):
        assert stored[id_] == text.encode(), ascii(text[:50])
    assert_delivered(event_log, committed=len(STRANGE))


def test_a_published_event_is_stored_as_pydantic_dumps_it(store: EventStore, event_log: EventLog) -> None:
    events = [Noted(text=text) for text in STRANGE]
    with transaction.atomic():
        for event in events:
            publish(event)

    deliver_all(store)

    assert [event.event_context for event in event_log.events()] == [
        event.model_dump_json().encode() for event in events
    ]
    assert {(event.event_type, event.environment, event.metadata_version) for event in event_log.events()} == {
        ("noted", "test", 1)
    }


def test_the_context_of_a_user_is_what_pydantic_dumps(store: EventStore, event_log: EventLog) -> None:
    """PostgreSQL puts the JSON together here: it must escape exactly as pydantic does."""
    # Given users with every strange name, and with random ones
    chance = random.Random(20260304)
    names = [text for text in STRANGE if len(text) <= 150 and "\x00" not in text]
    names += [chr(code) for code in range(1, 0x100)] + [random_text(chance) for _ in range(300)]
    published: dict[int, UserCreated] = {}
    for number, name in enumerate(names):
        fields = {"email": f"o'{number}+tag@example.com", "first_name": name, "last_name": name[::-1]}
        user = CreateUser().execute(CreateUserRequest(**fields)).result
        assert user is not None
        published[OutboxUser.objects.get(user=user).id] = UserCreated(**fields)

    deliver_all(store)

    for event in event_log.events():
        assert event.event_context == published[event.outbox_id].model_dump_json().encode()
    assert_delivered(event_log, committed=len(names))


def test_a_user_event_has_the_columns_of_the_brief(store: EventStore, event_log: EventLog) -> None:
    user = CreateUser().execute(CreateUserRequest(email="a@b.co", first_name="A", last_name="B")).result
    assert user is not None

    window = sealed()
    deliver(window, store)

    (event,) = event_log.events()
    assert (event.event_type, event.environment, event.metadata_version) == ("user_created", "test", 1)
    assert event.event_context == b'{"email":"a@b.co","first_name":"A","last_name":"B"}'
    assert event.event_date_time == user.created_at
    assert (event.outbox, event.window_id) == ("outbox_user", str(window.id))


@pytest.mark.parametrize(
    "moment",
    [
        "2026-03-04 05:06:07.000001+00",
        "2026-03-04 05:06:07.999999+00",
        "2026-03-04 05:06:07+00",
        "2026-03-04 05:06:07.1+02",
        "2026-03-04 05:06:07.123456-11:30",
        "1970-01-01 00:00:00+00",
        "1970-01-01 00:00:00.000001+00",
        "1969-12-31 23:59:59.999999+00",
        "1969-12-31 23:59:59+00",
        "1969-07-20 20:17:40.123456+00",
        "1900-01-01 00:00:00.000001+00",
        "1912-06-23 00:00:00.5+00",
        "2038-01-19 03:14:08.654321+00",
        "2100-02-28 23:59:59.999999+00",
        "2106-02-07 06:28:16.000001+00",
        "2261-12-31 23:59:59.999999+00",
    ],
)
def test_the_time_of_an_event_is_stored_to_the_microsecond(moment: str, store: EventStore, event_log: EventLog) -> None:
    write_events(["{}"], at=moment)
    published = OutboxEvent.objects.get().event_date_time

    deliver_all(store)

    assert event_log.events()[0].event_date_time == published


def test_a_session_time_zone_of_the_database_does_not_shift_times(store: EventStore, event_log: EventLog) -> None:
    write_events(["{}"], at="2026-07-01 12:00:00+00")
    window = sealed()
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user")
        role = connection.ops.quote_name(cursor.fetchone()[0])
        cursor.execute(f"ALTER ROLE {role} SET TimeZone = 'Asia/Kathmandu'")
    try:
        connection.close()
        deliver(window, store)
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER ROLE {role} RESET TimeZone")

    assert event_log.events()[0].event_date_time == datetime(2026, 7, 1, 12, tzinfo=UTC)
