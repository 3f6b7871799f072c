"""Two people act on the same dead letters at the same time: one of them does it, and the other one is told."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from django.db import connection, connections, transaction

from tests.integration.dispatching import EVENT, Sent
from tests.integration.manage import here
from tests.integration.windows import deliver, dispatched, seal
from tests.waiting import eventually
from towpath.errors import OutboxInUse
from towpath.events import DeadLetterDropped, DeadLettersReplayed, PipelineActionFailed
from towpath.flow import deadletters, operating
from towpath.flow.deadletters import Done, Fate
from towpath.ledger.models import Batch, DeadLetter
from towpath.outbox.models import OutboxEvent
from towpath.testing.published import Published

if TYPE_CHECKING:
    from collections.abc import Sequence

    from towpath.eventlog.store import Store
    from towpath.ledger.deadletters import Letter


@pytest.fixture
def published() -> Published:
    """Outside of a transaction of the test's: two connections commit."""
    return Published()


@pytest.fixture
def found(letters: list[int]) -> list[Letter]:
    """Three dead letters, as both have read them."""
    return deadletters.find(letters)


def act(action: str, found: Sequence[Letter], *, by: str) -> Done:
    if action == "drop":
        return operating.drop(found, by=by)
    return operating.replay(found, by=by, batch_ids=1000, enqueue=lambda _batches: None)


def in_another_connection(action: str, found: Sequence[Letter]) -> Done:
    try:
        return act(action, found, by="eve")
    finally:
        connections.close_all()


def is_waiting_for_a_lock() -> bool:
    with connection.cursor() as cursor:
        # Not pg_stat_activity, which says the same until the transaction ends.
        cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
        return bool(cursor.fetchone()[0])


@pytest.mark.parametrize("second", ["replay", "drop"])
@pytest.mark.parametrize("first", ["replay", "drop"])
def test_of_two_that_act_at_the_same_time_one_has_the_letter(
    found: list[Letter], published: Published, first: str, second: str
) -> None:
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            mine = act(first, found[:2], by="ada")
            other = pool.submit(in_another_connection, second, found)
            eventually(is_waiting_for_a_lock, seconds=20)
        done = other.result(20)

    numbers = [letter.id for letter in found]
    fate = Fate.WAITS if first == "replay" else Fate.GONE
    assert ([letter.id for letter in mine.letters], mine.gone) == (numbers[:2], {})
    assert ([letter.id for letter in done.letters], done.gone) == (numbers[2:], {fate: numbers[:2]})
    assert not DeadLetter.objects.exists()

    # What is recorded is what each of them did
    by_action: dict[str, list[int]] = {"replay": [], "drop": []}
    by_action[first] += numbers[:2]
    by_action[second] += numbers[2:]
    replayed = [json.loads(event.event_context)["numbers"] for event in published.find(DeadLettersReplayed)]
    assert sorted(number for some in replayed for number in some) == by_action["replay"]
    dropped = [json.loads(event.event_context)["outbox_id"] for event in published.find(DeadLetterDropped)]
    assert sorted(dropped) == [letter.row_id for letter in found if letter.id in by_action["drop"]]
    target = " ".join(map(str, numbers[:2]))
    assert len(published.find(PipelineActionFailed, action=second, target=target, tried_by="eve")) == 1

    # No row of a batch is gone, and no dropped one is left
    in_batches = {row_id for ids in Batch.objects.values_list("ids", flat=True) for row_id in ids}
    rows = {letter.row_id for letter in found if letter.id in by_action["replay"]}
    assert in_batches == rows
    assert set(OutboxEvent.objects.filter(id__in=[one.row_id for one in found]).values_list("id", flat=True)) == rows


@pytest.mark.parametrize("action", ["replay", "drop"])
def test_one_that_waits_for_another_has_the_letters_when_that_one_fails(found: list[Letter], action: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        with transaction.atomic():
            act("drop", found, by="ada")
            other = pool.submit(in_another_connection, action, found)
            eventually(is_waiting_for_a_lock, seconds=20)
            transaction.set_rollback(True)
        done = other.result(20)

    assert (list(done.letters), done.gone) == (found, {})


def test_a_letter_that_was_refused_again_is_under_another_number(
    found: list[Letter], store: Store, published: Published
) -> None:
    again = Sent()
    operating.replay(found, by="ada", batch_ids=1000, enqueue=again)
    # The store takes other rows of the window, so that these are at fault.
    window = seal([*dispatched(), *(batch.id for batch in again.batches)])
    assert window is not None
    deliver(window, store)
    assert DeadLetter.objects.count() == len(found)

    done = act("drop", found, by="eve")

    assert (done.letters, list(done.gone)) == ([], [Fate.AGAIN])
    assert DeadLetter.objects.count() == len(found)
    assert published.find(DeadLetterDropped) == []


def test_a_letter_of_an_outbox_without_a_class_may_be_dropped_once(letters: list[int]) -> None:
    DeadLetter.objects.filter(id=letters[0]).update(outbox="outbox_removed")
    found = deadletters.find(letters[:1])

    assert act("drop", found, by="ada").gone == {}
    assert act("drop", found, by="eve").gone == {Fate.UNKNOWN: letters[:1]}


def test_a_letter_of_an_outbox_that_only_other_programs_know_is_not_dropped(
    letters: list[int], published: Published
) -> None:
    """Its row would stay, and one of these programs would store it."""
    DeadLetter.objects.filter(id=letters[0]).update(outbox="users")  # a table that no outbox class has

    with pytest.raises(OutboxInUse, match="its table exists"):
        act("drop", deadletters.find(letters), by="ada")

    assert DeadLetter.objects.count() == len(letters)
    assert published.find(DeadLetterDropped) == []


def test_a_message_names_ten_numbers() -> None:
    done = Done([], {Fate.GONE: range(1, 13)})

    assert done.missed == "No longer dead letters: 1 2 3 4 5 6 7 8 9 10 and 2 more (stored or dropped)"


@pytest.mark.parametrize("action", ["replay", "drop"])
def test_a_command_names_what_was_gone_when_it_was_confirmed(
    letters: list[int], monkeypatch: pytest.MonkeyPatch, published: Published, action: str
) -> None:
    """Somebody replays one while the command waits for an answer, or just after it has read them."""
    read = deadletters.find

    def find(ids: Sequence[int] | None) -> list[Letter]:
        found = read(ids)
        act("replay", found[:1], by="eve")
        return found

    monkeypatch.setattr(deadletters, "find", find)

    done = here("pipeline", "deadletters", action, "--all", "--yes", "--json")

    assert done.returncode == 1
    assert [one["id"] for one in json.loads(done.stdout)] == letters[1:]
    assert done.stderr.strip() == f"No longer dead letters: {letters[0]} (replayed, and not stored yet)"
    assert len(published.find(PipelineActionFailed, action=action, target=str(letters[0]))) == 1
    assert OutboxEvent.objects.filter(event_type="dead_letter_dropped").count() == (2 if action == "drop" else 0)
    assert EVENT in {batch.outbox for batch in Batch.objects.all()}
