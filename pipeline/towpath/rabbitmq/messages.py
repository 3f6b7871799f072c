"""What the pipeline's own messages look like, and so what every other one is.

Anybody who may send messages to RabbitMQ can put one into a queue, and dramatiq acts on what is in it: it delays,
retries and calls. So each delivery is judged here before dramatiq sees it. Pure: no I/O, and no content of a message in
what it says.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from towpath.conf.names import AGGREGATE, AGGREGATE_BACKLOG, DISPATCH_SHIFT, RECOVER_SHIFT, VERIFY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from towpath.telemetry.metrics import RejectReason

#: What dramatiq appends to the name of a queue for its delayed messages.
DELAYED = ".DQ"

_FIELDS = {"queue_name", "actor_name", "args", "kwargs", "options", "message_id", "message_timestamp"}
#: What the scheduler and a traced dispatcher add. Everything else would be an instruction to dramatiq.
_OPTIONS = {"scheduled_at", "trace"}

#: bigint's.
_LARGEST_ID = 2**63 - 1
#: A message without ids is a few hundred bytes.
_BYTES = 16 * 1024
_BYTES_PER_ID = 24
_NAME = re.compile(r"[\w.:-]{1,100}", re.ASCII)
_LEDGER = re.compile(r"[0-9a-f]{16}", re.ASCII)
_TIME = re.compile(r"[\d:.TZ +-]{19,40}", re.ASCII)
_TRACE = re.compile(r"[\x20-\x7e]{0,512}")


class MessageRejected(Exception):
    """The message is not one of the pipeline's."""

    def __init__(self, reason: RejectReason) -> None:
        super().__init__(reason)
        self.reason = reason


def largest_body(*, batch_ids: int) -> int:
    """Return the most bytes of a message with this many ids."""
    return _BYTES + _BYTES_PER_ID * batch_ids


def sent_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that go out with our messages. A project's middleware may add its own to each message: on our
    queues, that would make it look like a foreign message."""
    return {name: value for name, value in options.items() if name in _OPTIONS}


def accept(body: bytes, *, queue: str, actors: Mapping[str, str], largest: int) -> dict[str, Any]:
    """Return the fields of a message that the pipeline sent to `queue`. Raises MessageRejected for any other message.

    `actors` are the names of the known actors, with the queue of each.
    """
    if queue.endswith(DELAYED):
        raise MessageRejected("delayed")
    if len(body) > largest:
        raise MessageRejected("size")
    fields = _read(body)
    if (
        fields.keys() != _FIELDS
        or fields["queue_name"] != queue
        or not _is_text(fields["message_id"], _NAME)
        or not _is_number(fields["message_timestamp"], 0)
    ):
        raise MessageRejected("fields")
    actor = fields["actor_name"]
    if not isinstance(actor, str) or actors.get(actor) != queue:
        raise MessageRejected("actor")
    if fields["args"] != [] or not _ARGUMENTS[actor](fields["kwargs"]):
        raise MessageRejected("arguments")
    if not _are_options(fields["options"]):
        raise MessageRejected("options")
    return fields


def _read(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(
            body.decode(), object_pairs_hook=_object, parse_float=_refuse, parse_constant=_refuse, parse_int=_whole
        )
    except (ValueError, RecursionError) as error:  # not UTF-8, a name twice, a number too long: each is a ValueError
        raise MessageRejected("json") from error
    if not isinstance(fields, dict):
        raise MessageRejected("json")
    return fields


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name twice")
    return found


def _refuse(_text: str) -> NoReturn:
    raise ValueError("a number that we do not send")


def _whole(text: str) -> int:
    if len(text) > len(str(_LARGEST_ID)):
        raise ValueError("a number that we do not send")
    return int(text)


def _is_number(value: object, least: int) -> bool:
    """True if it is a whole number that fits PostgreSQL's bigint. (In Python, JSON's `true` is a number.)"""
    return type(value) is int and least <= value <= _LARGEST_ID


def _is_text(value: object, pattern: re.Pattern[str]) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_time(value: object) -> bool:
    if not isinstance(value, str) or not _is_text(value, _TIME):
        return False
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _is_batch(kwargs: object) -> bool:
    return (
        isinstance(kwargs, dict)
        and kwargs.keys() == {"ledger", "batch", "outbox", "ids", "bytes"}
        and _is_text(kwargs["ledger"], _LEDGER)
        and _is_number(kwargs["batch"], 1)
        and _is_number(kwargs["bytes"], 0)
        and isinstance(kwargs["outbox"], str)
        and isinstance(kwargs["ids"], list)
        and all(_is_number(id_, 0) for id_ in kwargs["ids"])
    )


def _is_tick(kwargs: object) -> bool:
    return kwargs == {}


#: By actor: True if these are the arguments that its messages have.
_ARGUMENTS: Mapping[str, Callable[[object], bool]] = {
    AGGREGATE: _is_batch,
    AGGREGATE_BACKLOG: _is_batch,
    DISPATCH_SHIFT: _is_tick,
    RECOVER_SHIFT: _is_tick,
    VERIFY: _is_tick,
}


def _are_options(options: object) -> bool:
    if not isinstance(options, dict) or not options.keys() <= _OPTIONS:
        return False
    trace = options.get("trace", {})
    return (
        ("scheduled_at" not in options or _is_time(options["scheduled_at"]))
        and isinstance(trace, dict)
        and len(trace) <= 2  # noqa: PLR2004 - W3C's `traceparent` and `tracestate`
        and all(_is_text(value, _TRACE) for item in trace.items() for value in item)
    )
