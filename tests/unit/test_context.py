"""Bound context: who and what events are caused by."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Generator

import pytest

from towpath.outbox.context import bind, bound, bound_json


def test_nothing_is_bound_outside() -> None:
    assert bound() is None
    with bind(actor="user:7"):
        pass
    assert bound() is None


def test_an_inner_context_adds_to_the_outer_one_and_replaces_its_values() -> None:
    with bind(actor="user:7", request_id="a"):
        with bind(request_id="b", attempt=2):
            assert bound() == {"actor": "user:7", "request_id": "b", "attempt": "2"}
        assert bound() == {"actor": "user:7", "request_id": "a"}


def test_none_takes_a_value_away() -> None:
    with bind(actor="user:7", ip="::1"):
        with bind(actor=None):
            assert bound() == {"ip": "::1"}
        with bind(actor=None, ip=None):
            assert bound() is None


def test_an_error_inside_ends_the_context_too() -> None:
    with pytest.raises(KeyError), bind(actor="user:7"):
        raise KeyError
    assert bound() is None


def test_another_thread_sees_it_only_with_a_copy_of_the_context() -> None:
    seen: list[object] = []

    def look() -> None:
        seen.append(bound())

    with bind(actor="user:7"):
        context = contextvars.copy_context()
        for target in (look, lambda: context.run(look)):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()

    assert seen == [None, {"actor": "user:7"}]


def test_any_text_comes_back_as_it_was() -> None:
    text = "\"'\\\t\n\x01é😀\u2028"
    with bind(actor=text):
        assert bound() == {"actor": text}


@pytest.mark.parametrize(("value", "problem"), [("a\x00b", "NUL"), ("a\ud800b", "surrogate")])
def test_what_the_database_cannot_hold_is_refused_at_once(value: str, problem: str) -> None:
    with pytest.raises(ValueError, match=rf"bind\(actor=.*{problem}"), bind(actor=value):
        raise AssertionError("bound")


@pytest.mark.parametrize(
    "values", [{"actor": "x" * 20_000_000}, {"actor": "é" * 9000}, {"actor": "x" * 9000, "job": "y" * 9000}]
)
def test_what_would_swell_every_row_is_refused(values: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"more than 16,384 bytes, most of them in 'actor'") as caught, bind(**values):
        raise AssertionError("bound")
    assert len(str(caught.value)) < 200


def test_what_is_added_to_an_outer_context_counts_with_it() -> None:
    with bind(actor="x" * 9000), pytest.raises(ValueError, match="16,384"), bind(job="y" * 9000):
        raise AssertionError("bound")


@pytest.mark.parametrize("read", [bound, bound_json])
def test_what_a_function_answers_counts_as_well(read: Callable[[], object]) -> None:
    """A row that is made by hand, and a message, have what `bound` returns."""
    with bind(job="y" * 9000, actor=lambda: "x" * 9000), pytest.raises(ValueError, match="16,384"):
        read()


def test_what_a_function_answers_is_a_value() -> None:
    with bind(actor=lambda: str.upper), pytest.raises(ValueError, match="function where a value is expected"):  # type: ignore[arg-type, return-value]
        bound()
    with pytest.raises(ValueError, match="function where a value is expected"):
        bound_json(target=str.upper)  # type: ignore[arg-type]


def test_a_function_is_asked_each_time_and_may_not_know() -> None:
    answers = iter([None, "user:1", "user:2", "a\x00b"])
    with bind(actor=lambda: next(answers), ip="::1"):
        assert bound() == {"ip": "::1"}
        assert bound_json() == '{"ip": "::1", "actor": "user:1"}'
        with bind(actor="job"):
            assert bound() == {"actor": "job", "ip": "::1"}
        assert bound() == {"actor": "user:2", "ip": "::1"}
        with pytest.raises(ValueError, match="NUL"):
            bound_json()
    with bind(actor=lambda: None):
        assert bound_json() is None


def test_a_generator_that_is_closed_in_another_context_ends_quietly() -> None:
    def steps() -> Generator[object, None, None]:
        with bind(actor="job"):
            yield bound()

    generator = steps()
    assert contextvars.copy_context().run(next, generator) == {"actor": "job"}
    generator.close()
    assert bound() is None
