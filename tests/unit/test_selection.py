"""Selection: what an erasure is about, as a person writes it."""

from __future__ import annotations

import pytest

from towpath.eventlog.columns import TEXT, WHOLE_NUMBER, Column, FromContext
from towpath.eventlog.masking import MASK_JSON, MASK_OF_CONTEXT
from towpath.proof.selection import Selection, select

OWN = (Column("tenant", TEXT, FromContext("tenant")), Column("seats", WHOLE_NUMBER, FromContext("seats")))


def selection(*fields: str) -> Selection:
    return select([("actor", "jane")], fields, OWN)


def test_own_columns_of_text_can_be_looked_for_and_masked() -> None:
    assert select([("tenant", "acme")], ["tenant"], OWN).columns == ("tenant",)
    with pytest.raises(ValueError, match=r"'seats' is not a field to erase: write one of .*tenant"):
        selection("seats")


def test_fields_are_columns_and_paths() -> None:
    found = selection("ip", "context.a.b", "ip", "context.c")

    assert (found.columns, found.paths, found.has_whole_context) == (("ip",), (("a", "b"), ("c",)), False)
    assert found.mask == MASK_JSON


def test_the_whole_context_makes_no_difference_to_its_paths() -> None:
    found = selection("context.a", "context")

    assert found.mask == MASK_OF_CONTEXT
    assert found.cuts('{"a": 1}') == [(0, 8)]
    assert found.cuts("no JSON") == [(0, 7)]
    assert found.cuts(MASK_OF_CONTEXT) == []


def test_no_field_of_the_context_needs_no_json() -> None:
    assert selection("ip").cuts("no JSON") == []


def test_a_store_is_asked_for_columns_and_for_texts() -> None:
    found = select([("actor", "jane"), ("context.email", "j@x")], ["ip"], OWN).wanted()

    assert (found.columns, found.texts) == ({"actor": "jane"}, ("j@x",))


def test_every_condition_on_the_context_has_to_be_met() -> None:
    found = select([("context.a", "1"), ("context.b.c", "x")], ["ip"], OWN)

    assert found.is_met_by('{"a": 1, "b": {"c": "x"}}')
    assert not found.is_met_by('{"a": 1, "b": {"c": "y"}}')
    assert not found.is_met_by("no JSON")
