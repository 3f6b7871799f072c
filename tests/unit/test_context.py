"""Bound context: who and what events are caused by."""

from __future__ import annotations

import contextvars
import threading

import pytest

from backend.outbox.context import bind, bound


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
