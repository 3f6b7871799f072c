"""The live tail: it shows every event of the windows that are acked meanwhile, or says that some may be missing."""

from __future__ import annotations

import html
import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from django.test import Client

from tests.integration.readers import reader, signed_in, text
from tests.integration.rows import write_events
from tests.integration.windows import deliver, sealed
from towpath.eventlog.errors import EventStoreError, LimitReached, StoreUnavailable
from towpath.explorer import reading
from towpath.flow.delivery import Delivery
from towpath.flow.verify import verify_receipts
from towpath.ledger import finished, marks
from towpath.ledger.models import Window
from towpath.ledger.stuck import move_marks_and_look

if TYPE_CHECKING:
    from towpath.eventlog.store import Store
    from towpath.ledger.windows import SealedWindow

#: Only what this test writes: reading the log publishes events, too.
QUERY = "q=type:tested"
GAP = "Events may be missing here"


class Tail:
    """A page that is followed, as its script does it."""

    def __init__(self, client: Client, query: str = QUERY) -> None:
        self.client, self.query = client, query
        page = text(client.get(f"/events/?{query}"))
        (self.after,) = map(html.unescape, re.findall(r'data-after="([^"]+)"', page))

    @property
    def url(self) -> str:
        return f"/events/tail?{self.query}&after={quote(self.after)}"

    def look(self) -> str:
        answer = self.client.get(self.url)
        assert answer.status_code == 200, text(answer)
        self.after = answer.headers["Tail-After"]
        return text(answer)


@pytest.fixture
def client(store: Store) -> Client:
    del store  # everything is empty
    return signed_in(reader())


def window_of(*numbers: int) -> SealedWindow:
    """A sealed window of so many events, each with its number."""
    write_events([json.dumps({"number": number}) for number in numbers], at=f"{datetime.now(UTC)}")
    return sealed()


def ack(window: SealedWindow, store: Store) -> None:
    assert deliver(window, store) is Delivery.ACKED


def shown(answer: str) -> set[int]:
    return set(map(int, re.findall(r'<span class="k">number</span> (\d+)', answer)))


def test_every_event_of_many_windows_is_shown(client: Client, store: Store) -> None:
    tail, seen = Tail(client), set[int]()

    for start in range(0, 250, 50):
        ack(window_of(*range(start, start + 50)), store)
    answer = tail.look()
    seen |= shown(answer)
    ack(window_of(250), store)
    seen |= shown(tail.look())

    assert seen == set(range(251))
    assert GAP not in answer


def test_a_window_that_was_overtaken_is_shown(client: Client, store: Store) -> None:
    tail = Tail(client)
    overtaken = window_of(1)
    ack(window_of(2), store)
    assert shown(tail.look()) == {2}
    assert shown(tail.look()) == set()

    ack(overtaken, store)

    assert shown(tail.look()) == {1}


def test_a_window_that_thousands_have_overtaken_is_shown_even_if_it_is_verified_meanwhile(
    client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "PASSED", 3)
    overtaken = window_of(1)
    for number in range(2, 12):
        ack(window_of(number), store)
    move_marks_and_look([], unsealed_seconds=30)
    assert Window.objects.get(id=overtaken.id).is_late
    tail = Tail(client)
    tail.look()

    ack(overtaken, store)
    verify_receipts(store, should_stop=lambda: False)
    assert not Window.objects.get(id=overtaken.id).is_late

    assert 1 in shown(tail.look())


def test_what_came_between_the_page_and_its_first_look_is_shown(client: Client, store: Store) -> None:
    tail = Tail(client)
    ack(window_of(*range(3)), store)
    # However long it takes to press the key.
    Window.objects.update(acked_at=datetime.now(UTC))

    assert shown(tail.look()) == {0, 1, 2}


def test_how_many_events_an_answer_has_no_room_for_is_said(client: Client, store: Store) -> None:
    tail = Tail(client)
    ack(window_of(*range(reading.TAIL_ROWS)), store)
    assert GAP not in tail.look()

    ack(window_of(*range(reading.TAIL_ROWS - 3)), store)
    ack(window_of(*range(5)), store)
    answer = tail.look()

    assert answer.count('<tr class="row"') == reading.TAIL_ROWS
    assert answer.index('data-left-out="2"') > answer.rindex('<tr class="row"')


def test_however_many_events_come_in_seconds_none_is_missing_that_an_answer_had(
    client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "TAIL_ROWS", 20)
    ack(window_of(*range(100, 150)), store)
    tail = Tail(client)
    seen, answers = list[int](), ""

    for start in range(0, 60, 15):
        ack(window_of(*range(start, start + 15)), store)
        answer = tail.look()
        seen += sorted(shown(answer))
        answers += answer

    assert seen == [*range(60)]
    assert GAP not in answers


def test_of_more_windows_than_a_place_remembers_some_come_twice_and_none_is_lost(
    client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finished, "MOST_SEEN", 2)
    tail = Tail(client)
    for number in range(4):
        ack(window_of(number), store)
    Window.objects.update(acked_at=datetime.now(UTC))

    assert shown(tail.look()) == {0, 1, 2, 3}
    ack(window_of(4), store)
    again = shown(tail.look())

    assert 4 in again
    assert len(again) == 3


def test_events_that_cannot_be_counted_in_time_may_be_missing(
    client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "TAIL_ROWS", 1)

    def histogram(*_: object, **__: object) -> None:
        raise LimitReached("too much")

    monkeypatch.setattr("towpath.explorer.scope.ScopedStore.histogram", histogram)
    tail = Tail(client)
    ack(window_of(1, 2), store)
    answer = tail.look()

    assert (GAP in answer, "data-left-out" in answer) == (True, False)


def test_a_period_that_has_an_end_is_not_left(client: Client, store: Store) -> None:
    tail = Tail(client, f"{QUERY}&since=2026-01-01&until=2026-01-02")
    ack(window_of(1), store)
    assert shown(tail.look()) == set()

    write_events([json.dumps({"number": 2})], at="2026-01-01 12:00:00+00")
    ack(sealed(), store)
    assert shown(tail.look()) == {2}


def test_live_leads_from_a_period_that_is_over_to_the_time_up_to_now(client: Client) -> None:
    def leads_to(query: str) -> list[str]:
        found = re.findall(r'data-live-url="([^"]*)"', text(client.get(f"/events/?{query}")))
        return [html.unescape(each) for each in found]

    assert leads_to("q=type:a&since=2026-01-01&until=2026-01-02") == ["?q=type%3Aa#live"]
    assert leads_to("q=type:a") == leads_to("since=2026-01-01&until=2099-01-02") == []


def test_more_windows_than_a_look_has_are_said_to_be_missing(
    client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finished, "MOST_WINDOWS", 3)
    monkeypatch.setattr("towpath.explorer.views.tail.MOST_WINDOWS", 3)
    tail = Tail(client)
    for number in range(2):
        ack(window_of(number), store)
    assert GAP not in tail.look()

    for number in range(2, 5):
        ack(window_of(number), store)

    assert GAP in tail.look()


def test_a_path_is_shown_as_in_the_table(client: Client, store: Store) -> None:
    query = f"{QUERY}&columns=context.last"
    tail = Tail(client, query)
    write_events([json.dumps({"long": "x" * 2_000, "last": "found"})], at=f"{datetime.now(UTC)}")
    ack(sealed(), store)

    assert '<span class="value">found</span>' in tail.look()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (LimitReached("too much"), "Finding new events takes too long."),
        (StoreUnavailable("away"), "The event store does not answer."),
    ],
)
def test_why_nothing_can_be_shown_is_said(
    error: EventStoreError, says: str, client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    tail = Tail(client)
    ack(window_of(1), store)

    def search(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("towpath.explorer.scope.ScopedStore.search", search)
        answer = client.get(tail.url)
    assert (answer.status_code, "Tail-After" in answer.headers) == (503, False)
    assert text(answer).startswith(says)

    # Asked again for the same, it is there.
    assert shown(tail.look()) == {1}


@pytest.mark.parametrize(
    "after",
    [
        "",
        "now",
        "2026-11-27T20:00:00Z",
        "2026-11-27T20:00:00,1",
        "0001-01-01T00:00:00Z,1",
        f"2026-11-27T20:00:00Z,{2**63}",
        "2026-11-27T20:00:00Z,1;x",
        f"2026-11-27T20:00:00Z,1;{','.join('1' for _ in range(finished.MOST_SEEN + 1))}",
    ],
)
def test_what_is_not_the_place_of_a_tail_is_refused(after: str, client: Client) -> None:
    assert client.get("/events/tail", {"after": after}).status_code == 400
