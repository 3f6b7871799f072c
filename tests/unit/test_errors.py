"""The errors, against the trees that the docstrings of their modules draw."""

from __future__ import annotations

import inspect
import re
from types import ModuleType

import pytest
from django.db import OperationalError

from towpath import errors
from towpath.eventlog import errors as of_event_store
from towpath.ledger import database_errors
from towpath.outbox import errors as of_publishing
from towpath.telemetry import secrets

each_module = pytest.mark.parametrize(
    "module", [errors, of_event_store, of_publishing], ids=["pipeline", "event store", "publishing"]
)


def drawn(module: ModuleType) -> list[tuple[str, str]]:
    """(error, its base) of each line of the tree, in its order."""
    tree = re.search(r"^(\w+)\n((?:[ |]*\|- .*\n?)+)", module.__doc__ or "", re.MULTILINE)
    assert tree is not None
    path = [tree[1]]
    found = []
    for indent, name in re.findall(r"^([ |]*)\|- (\w+)", tree[2], re.MULTILINE):
        del path[len(indent) // 3 + 1 :]
        found.append((name, path[-1]))
        path.append(name)
    return found


def declared(module: ModuleType) -> list[tuple[str, str]]:
    """(error, its base) of each class but the root, in the order of the source."""
    classes = [cls for cls in vars(module).values() if inspect.isclass(cls) and cls.__module__ == module.__name__]
    return [(cls.__name__, cls.__bases__[0].__name__) for cls in classes if cls.__bases__ != (Exception,)]


@each_module
def test_the_tree_in_the_docstring_is_that_of_the_classes(module: ModuleType) -> None:
    assert drawn(module) == declared(module)


def test_an_error_without_a_text_says_what_it_is() -> None:
    for name, _ in declared(errors):
        text = str(getattr(errors, name)())
        assert re.fullmatch(r"[A-Z].+[^.]", text), (name, text)
        assert str(getattr(errors, name)("what happened")) == "what happened"


def test_a_bare_lost_lease_names_who_has_the_window() -> None:
    assert str(errors.LeaseLost()) == "Another process has taken over the window"


def test_what_is_said_of_an_error_has_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "_hidden", secrets.parts(["hunter22"]))

    assert errors.described(RuntimeError("hunter22 is wrong")) == "RuntimeError: *** is wrong"
    assert database_errors.describe(OperationalError("hunter22 is wrong")).endswith(": *** is wrong")
