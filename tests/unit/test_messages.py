"""Which messages are the pipeline's own."""

from __future__ import annotations

import json
from typing import Any

import pytest

from towpath.rabbitmq.messages import MessageRejected, accept, largest_body, sent_options

ACTORS = {
    "towpath.aggregate": "towpath.aggregate",
    "towpath.aggregate_backlog": "towpath.aggregate_backlog",
    "towpath.dispatch_shift": "towpath.dispatch",
    "somebody_s": "default",
}
LARGEST = largest_body(batch_ids=1000)

LEDGER = "0123456789abcdef"
BATCH: dict[str, Any] = {
    "queue_name": "towpath.aggregate",
    "actor_name": "towpath.aggregate",
    "args": [],
    "kwargs": {"ledger": LEDGER, "batch": 1, "outbox": "outbox_user", "ids": [1, 2], "bytes": 10},
    "options": {},
    "message_id": "8c1f8d9e-2b43-4c4e-9d0a-1f3a0f6f2b11",
    "message_timestamp": 1764115200000,
}
TICK = {
    **BATCH,
    "queue_name": "towpath.dispatch",
    "actor_name": "towpath.dispatch_shift",
    "kwargs": {},
    "options": {"scheduled_at": "2026-11-26 00:46:14.456541+00:00"},
}


def reason(body: bytes | dict[str, Any], *, queue: str = "towpath.aggregate") -> str:
    """Why it is rejected; empty if it is not."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        accept(raw, queue=queue, actors=ACTORS, largest=LARGEST)
    except MessageRejected as rejected:
        return rejected.reason
    return ""


def test_what_the_dispatcher_and_the_scheduler_send_is_taken() -> None:
    assert accept(json.dumps(BATCH).encode(), queue="towpath.aggregate", actors=ACTORS, largest=LARGEST) == BATCH
    assert reason(TICK, queue="towpath.dispatch") == ""
    backlog = {**BATCH, "queue_name": "towpath.aggregate_backlog", "actor_name": "towpath.aggregate_backlog"}
    assert reason(backlog, queue="towpath.aggregate_backlog") == ""
    traced = {"trace": {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}
    assert reason({**BATCH, "options": traced}) == ""
    assert reason({**TICK, "options": {"scheduled_at": "2026-11-26 06:16:14+05:30"}}, queue="towpath.dispatch") == ""


def test_a_batch_of_as_many_and_as_long_ids_as_there_can_be_is_taken() -> None:
    most = {**BATCH["kwargs"], "ids": [2**63 - 1] * 1000}

    assert reason({**BATCH, "kwargs": most}) == ""


@pytest.mark.parametrize(
    "options",
    [
        *({name: value} for name in ("eta", "max_retries", "min_backoff", "max_backoff") for value in (0, 10**9, None)),
        {"eta": 4070908800000},
        {"retries": 0},
        {"traceback": "x"},
        {"requeue_timestamp": 1},
        {"on_retry_exhausted": "towpath.verify"},
        {"throws": []},
        {"pipe_target": {}},
        {"max_age": 1},
        {"time_limit": 1},
        {"broker_priority": 255},
        {"event_context": {"actor": "root"}},
        {"a": 1},
        {"scheduled_at": None},
        {"scheduled_at": "yesterday"},
        {"scheduled_at": "2026-99-99 00:00:00+00:00"},
        {"scheduled_at": "2026-11-26 00:00:00"},
        {"trace": "x"},
        {"trace": {"traceparent": 1}},
        {"trace": {"traceparent": "x" * 1000}},
        {"trace": {str(n): "" for n in range(100)}},
        None,
        [],
        "",
        0,
        True,
    ],
)
def test_options_that_we_do_not_send_are_rejected(options: object) -> None:
    assert reason({**BATCH, "options": options}) == "options"
    assert reason({**TICK, "options": options}, queue="towpath.dispatch") == "options"


@pytest.mark.parametrize(
    "change",
    [
        *({"batch": wrong} for wrong in ("1", None, True, [1], 0, -1)),
        *({"bytes": wrong} for wrong in ("1", None, False, [1], -1)),
        *({"outbox": wrong} for wrong in (None, 1, ["outbox_user"])),
        *({"ledger": wrong} for wrong in (None, 1, "", "0123456789ABCDEF", "0123456789abcdef0")),
        *({"ids": wrong} for wrong in (None, 1, "12", {"a": 1}, [None], ["1"], [True], [[1]], [-1])),
        {"rows": 1},
    ],
)
def test_arguments_of_another_kind_are_rejected(change: dict[str, Any]) -> None:
    assert reason({**BATCH, "kwargs": {**BATCH["kwargs"], **change}}) == "arguments"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"kwargs": None}, "arguments"),
        ({"kwargs": {}}, "arguments"),
        ({"args": [1]}, "arguments"),
        ({"args": {}}, "arguments"),
        ({"args": None}, "arguments"),
        ({"actor_name": "nobody"}, "actor"),
        ({"actor_name": "somebody_s"}, "actor"),
        ({"actor_name": "towpath.dispatch_shift"}, "actor"),
        ({"actor_name": "towpath.aggregate_backlog"}, "actor"),
        ({"actor_name": ["towpath.aggregate"]}, "actor"),
        ({"queue_name": "towpath.dispatch"}, "fields"),
        ({"queue_name": None}, "fields"),
        ({"message_id": 1}, "fields"),
        ({"message_id": "x" * 101}, "fields"),
        ({"message_id": "a\nb"}, "fields"),
        ({"message_timestamp": "now"}, "fields"),
        ({"message_timestamp": True}, "fields"),
        ({"more": 1}, "fields"),
    ],
)
def test_fields_of_another_kind_are_rejected(change: dict[str, Any], expected: str) -> None:
    assert reason({**BATCH, **change}) == expected


@pytest.mark.parametrize("field", BATCH)
def test_a_message_without_one_of_its_fields_is_rejected(field: str) -> None:
    assert reason({name: value for name, value in BATCH.items() if name != field}) == "fields"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"1",
        b'"text"',
        b"{",
        b"\x00\xff\xfe" * 100,
        json.dumps(BATCH).encode("utf-16"),
        b"\xef\xbb\xbf" + json.dumps(BATCH).encode(),
        json.dumps(BATCH).replace('"batch": 1', '"batch": 1, "batch": 2').encode(),
        json.dumps(BATCH).replace('"options": {}', '"options": {"eta": 1}, "options": {}').encode(),
        json.dumps(BATCH).replace('"batch": 1', '"batch": NaN').encode(),
        json.dumps(BATCH).replace('"batch": 1', '"batch": 1.0').encode(),
        json.dumps(BATCH).replace('"batch": 1', '"batch": 1e400').encode(),
        json.dumps(BATCH).replace('"batch": 1', f'"batch": {"9" * 5000}').encode(),
        json.dumps(BATCH).replace('"batch": 1', f'"batch": {"[" * 7000}').encode(),
        b"[" * 20_000,
        json.dumps(BATCH).replace('"ids": [1, 2]', f'"ids": {"[" * 3000}{"]" * 3000}').encode(),
    ],
)
def test_what_is_not_one_plain_json_object_is_rejected(body: bytes) -> None:
    assert reason(body) in {"json", "arguments"}


def test_a_number_that_postgresql_does_not_take_is_rejected() -> None:
    assert reason({**BATCH, "kwargs": {**BATCH["kwargs"], "batch": 2**63}}) == "arguments"
    assert reason({**BATCH, "kwargs": {**BATCH["kwargs"], "ids": [2**63]}}) == "arguments"


def test_what_is_too_large_is_rejected_unread() -> None:
    assert reason(b"x" * (LARGEST + 1)) == "size"


@pytest.mark.parametrize("queue", ["towpath.aggregate.DQ", "towpath.aggregate_backlog.DQ", "towpath.dispatch.DQ"])
def test_nothing_that_is_delayed_is_taken(queue: str) -> None:
    assert reason({**BATCH, "queue_name": queue}, queue=queue) == "delayed"


def test_only_options_of_ours_go_out() -> None:
    options = {"trace": {}, "sentry_headers": {"baggage": "x"}, "event_context": {}, "scheduled_at": "x"}

    assert sent_options(options) == {"trace": {}, "scheduled_at": "x"}
