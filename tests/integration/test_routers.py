"""A router of the project's own sends reads to a replica: nothing of ours ever goes there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core import serializers
from django.db import connection, connections, transaction
from django.test import override_settings

from backend.users.models import OutboxUser, User
from tests.integration.windows import deliver, sealed
from tests.poison import take_limits_away
from towpath import Event, publish, publish_many
from towpath.conf.current import config
from towpath.eventlog.store import EventStore
from towpath.flow import deadletters
from towpath.flow.delivery import Delivery
from towpath.ledger.models import Window
from towpath.outbox.errors import NotInTransaction, OnlyInserts, OutboxError, WrongDatabase
from towpath.outbox.models import OutboxEvent, OutboxQuerySet, all_outboxes
from towpath.testing.published import Published
from towpath.watch.doctor import examine
from towpath.watch.status import read_status


class Paid(Event):
    amount: int


class ReadsFromReplica:
    """Django's documented router for a primary and its replicas."""

    def db_for_read(self, _model: object, **_hints: object) -> str:
        return "replica"

    def db_for_write(self, _model: object, **_hints: object) -> str:
        return "default"

    def allow_relation(self, *_args: object, **_hints: object) -> bool:
        return True


def _databases(name: str) -> Iterator[None]:
    connections.databases["replica"] = {**connections.databases["default"], "NAME": name}
    try:
        yield
    finally:
        connections["replica"].close()
        del connections["replica"]
        del connections.databases["replica"]


@pytest.fixture
def empty_replica() -> Iterator[None]:
    """A database without a single table: what is asked of it fails."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE replica")
    yield from _databases("replica")
    with connection.cursor() as cursor:
        cursor.execute("DROP DATABASE replica WITH (FORCE)")


@pytest.fixture
def primary_as_replica() -> Iterator[None]:
    """As on a staging machine: the alias of the replica is another connection to the same database."""
    yield from _databases(str(connection.settings_dict["NAME"]))


def new_user() -> User:
    return User.objects.using("default").create(email=f"{User.objects.using('default').count()}@example.com")


def save_stored_copy() -> None:
    """A copy of a row that was read from the replica's alias."""
    row = OutboxUser.objects.create(user=new_user())
    copy = OutboxUser.objects.get(pk=row.pk)
    OutboxUser._base_manager.filter(pk=row.pk).delete()
    copy.pk, copy._state.adding, copy._state.db = None, True, "replica"
    copy.save()


#: Every way to make one event, or two.
WAYS: list[Callable[[], object]] = [
    lambda: OutboxUser.objects.create(user=new_user()),
    lambda: OutboxUser._base_manager.create(user=new_user()),
    lambda: OutboxUser.objects.bulk_create([OutboxUser(user=new_user())]),
    lambda: OutboxUser.objects.bulk_create([OutboxUser(user=new_user())], batch_size=1),
    lambda: OutboxUser.objects.using("default").create(user=new_user()),
    lambda: OutboxUser(user=new_user()).save(),
    lambda: OutboxUser(user=new_user()).save(using="default"),
    lambda: OutboxUser(user_id=new_user().pk).save_base(force_insert=True, using="default"),
    save_stored_copy,
    lambda: publish(Paid(amount=1)),
    lambda: publish_many([Paid(amount=1)]),
]


@pytest.mark.usefixtures("empty_replica")
@pytest.mark.parametrize("make", WAYS)
@override_settings(DATABASE_ROUTERS=[ReadsFromReplica()])
def test_however_an_event_is_made_it_is_in_default(make: Callable[[], object]) -> None:
    with transaction.atomic():
        make()

    assert sum(model.objects.count() for model in all_outboxes().values()) == 1


@pytest.mark.usefixtures("primary_as_replica")
@pytest.mark.parametrize("make", WAYS)
@override_settings(DATABASE_ROUTERS=[ReadsFromReplica()])
def test_an_event_is_rolled_back_with_its_transaction_when_the_replica_is_the_primary(
    make: Callable[[], object],
) -> None:
    with transaction.atomic():
        make()
        transaction.set_rollback(True)

    assert sum(model.objects.count() for model in all_outboxes().values()) == 0


@pytest.mark.usefixtures("primary_as_replica")
def test_a_user_that_was_read_from_the_replica_has_its_event_in_default() -> None:
    """Without a router, Django would save a row where the object came from that it points to."""
    pk = new_user().pk
    user = User.objects.using("replica").get(pk=pk)
    with transaction.atomic():
        OutboxUser.objects.create(user=user)
        OutboxUser(user=user).save()
        transaction.set_rollback(True)

    assert OutboxUser.objects.count() == 0


ELSEWHERE: list[Callable[[], object]] = [
    lambda: OutboxUser.objects.using("replica").create(user_id=1),
    lambda: OutboxUser.objects.db_manager("replica").create(user_id=1),
    lambda: OutboxUser._base_manager.using("replica").bulk_create([OutboxUser(user_id=1)]),
    lambda: OutboxUser(user_id=1).save(using="replica"),
    lambda: OutboxUser(user_id=1).save_base(using="replica", force_insert=True),
    lambda: asyncio.run(OutboxUser.objects.using("replica").acreate(user_id=1)),
]


@pytest.mark.usefixtures("primary_as_replica")
@pytest.mark.parametrize("make", ELSEWHERE)
def test_a_row_for_another_database_is_refused_by_its_name(make: Callable[[], object]) -> None:
    with transaction.atomic(), transaction.atomic(using="replica"), pytest.raises(WrongDatabase, match="'replica'"):
        make()

    assert OutboxUser.objects.count() == 0


@pytest.mark.usefixtures("primary_as_replica")
def test_a_transaction_of_another_database_is_none() -> None:
    with transaction.atomic(using="replica"):
        for make in (*WAYS[:1], *WAYS[-2:]):
            with pytest.raises(NotInTransaction, match="'replica'"):
                make()

    assert not OutboxEvent.objects.exists()


@pytest.mark.usefixtures("empty_replica")
@override_settings(DATABASE_ROUTERS=[ReadsFromReplica()])
def test_delivery_status_dead_letters_doctor_and_kit_ask_default_alone(store: EventStore) -> None:
    published = Published()
    take_limits_away()
    with transaction.atomic():
        publish(Paid(amount=1))
        OutboxEvent.objects.create(
            event_type="tested", event_date_time="2026-01-01T00:00Z", event_context="{}", metadata_version=-1
        )
    assert len(published.all()) == 2

    assert deliver(sealed(), store) is Delivery.ACKED

    assert read_status().figures.dead_letters == 1
    assert Window.objects.count() == 1
    assert deadletters.room("outbox_event") == 999
    assert examine(config())
    deadletters.drop(deadletters.find(None), by="test")
    assert [row.event_type for row in OutboxEvent.objects.all()] == ["dead_letter_dropped"]


# --- What makes no event, or another -----------------------------------------------------------------------------


@pytest.mark.parametrize("is_in_transaction", [True, False])
@pytest.mark.parametrize("manager", ["objects", "_base_manager"])
@pytest.mark.parametrize(
    "ask",
    [
        lambda rows: rows.get_or_create(user_id=1),
        lambda rows: rows.update_or_create(user_id=1),
        lambda rows: rows.update(bound=None),
        lambda rows: rows.filter(user_id=1).update(bound=None),
        lambda rows: rows.bulk_update([OutboxUser(id=1)], ["bound"]),
        lambda rows: asyncio.run(rows.aget_or_create(user_id=1)),
        lambda rows: asyncio.run(rows.aupdate_or_create(user_id=1)),
        lambda rows: asyncio.run(rows.aupdate(bound=None)),
    ],
)
def test_what_would_make_no_event_or_change_one_is_refused(
    ask: Callable[[Any], object], manager: str, *, is_in_transaction: bool
) -> None:
    rows: Any = getattr(OutboxUser, manager)
    assert isinstance(rows.all(), OutboxQuerySet)

    if is_in_transaction:
        with transaction.atomic(), pytest.raises(OnlyInserts, match=r"OutboxUser: .*write OutboxUser\.objects\.create"):
            ask(rows)
    else:
        with pytest.raises(OnlyInserts):
            ask(rows)


def test_rows_in_bulk_that_may_be_left_out_are_refused() -> None:
    with transaction.atomic():
        rows = [OutboxUser(user=new_user())]
        with pytest.raises(OnlyInserts, match="leaves out events"):
            OutboxUser.objects.bulk_create(rows, ignore_conflicts=True)
        with pytest.raises(OnlyInserts, match="leaves out events"):
            OutboxUser.objects.bulk_create(rows, None, False, True, ["bound"], ["id"])


def test_a_stored_row_is_not_saved_again() -> None:
    with transaction.atomic():
        row = OutboxUser.objects.create(user=new_user())
        saves: list[Callable[[], None]] = [
            row.save,
            lambda: row.save(update_fields=["bound"]),
            lambda: OutboxUser.objects.get().save(),
        ]
        for save in saves:
            with pytest.raises(OnlyInserts, match="save"):
                save()


def test_a_fixture_adds_rows_and_changes_none() -> None:
    with transaction.atomic():
        first = OutboxUser.objects.create(user=new_user())
    fixture = serializers.serialize("json", [OutboxUser.objects.get()])
    (loaded,) = serializers.deserialize("json", fixture)

    with pytest.raises(OnlyInserts, match="OutboxUser: loading a row with the id of another"), transaction.atomic():
        loaded.save()

    OutboxUser.objects.all().delete()
    with transaction.atomic():
        loaded.save()
    row = OutboxUser.objects.get()
    assert row.pk == first.pk
    assert row.xid > json.loads(fixture)[0]["fields"].get("xid", 0)


def test_the_copy_of_a_row_is_an_event_of_this_transaction() -> None:
    with transaction.atomic():
        first = OutboxUser.objects.create(user=new_user())
    copy = OutboxUser.objects.get()
    copy.pk = None
    copy._state.adding = True
    with transaction.atomic():
        copy.save()
        OutboxUser.objects.bulk_create([OutboxUser(user_id=first.user_id, xid=7)])
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_current_xact_id()::text")
            own = int(cursor.fetchone()[0])

    assert [row.xid for row in OutboxUser.objects.order_by("id")][1:] == [own, own]


@pytest.mark.parametrize("manager", ["objects", "_base_manager"])
def test_the_asynchronous_ways_are_guarded_as_well(manager: str) -> None:
    rows: Any = getattr(OutboxUser, manager)
    for ask in (
        lambda: rows.acreate(user_id=1),
        lambda: rows.abulk_create([OutboxUser(user_id=1)]),
        lambda: OutboxUser(user_id=1).asave(),
    ):
        with pytest.raises(OutboxError, match="outside a transaction"):
            asyncio.run(ask())
