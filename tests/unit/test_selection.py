"""Selection: what an erasure is about, as a person writes it."""

from __future__ import annotations

import pytest

from towpath.eventlog.columns import TEXT, WHOLE_NUMBER, Column, FromContext
from towpath.eventlog.masking import MASK_JSON, MASK_OF_CONTEXT
from towpath.eventlog.query import QueryError, parse
from towpath.outbox.event import hashed
from towpath.proof.selection import Selection, select

OWN = (Column("tenant", TEXT, FromContext("tenant")), Column("seats", WHOLE_NUMBER, FromContext("seats")))


def selection(*fields: str) -> Selection:
    return select([], fields, OWN, columns={"actor": "jane"})


def of(*queries: str, **columns: str) -> Selection:
    return select(queries, ["ip"], OWN, columns=columns)


def test_own_columns_of_text_can_be_looked_for_and_masked() -> None:
    assert select(["tenant:acme"], ["tenant"], OWN).columns == ("tenant",)
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


def test_all_that_is_given_has_to_be_found() -> None:
    found = of("context.email:x OR tenant:acme", "-type:login", actor='a "b" c:d\\', target="*")

    assert str(found.query) == (
        'actor:"a \\"b\\" c:d\\\\" target:"*" (context.email:x OR tenant:acme) -event_type:login'
    )
    assert parse(str(found.query), columns=OWN) == found.query


def test_what_an_outbox_can_be_asked_for_is_what_each_event_must_have() -> None:
    assert of("actor:a,b tenant:acme outbox_id:7 refund").required == {
        "actor": frozenset({"a", "b"}),
        "tenant": frozenset({"acme"}),
    }
    assert of("actor:a,b*").required == of("actor:a OR tenant:b").required == of("-actor:a").required == {}
    assert of("actor:a,b actor:b,c").required == {"actor": frozenset({"b"})}


def test_the_columns_and_the_context_that_a_query_asks_for_are_known() -> None:
    assert of("-(type:a OR has:target) tenant>b").asked_columns == {"event_type", "target", "tenant"}
    assert not of("-(type:a OR has:target)").asks_for_context
    assert of("type:a OR -refund").asks_for_context
    assert of("type:a -has:context.a").asks_for_context


def test_no_value_that_may_be_a_persons_is_on_record() -> None:
    secret = hashed("jane")

    assert of(actor="jane").query_on_record == f"actor:{secret}"
    assert of('actor:jane,jane* OR -(jane "jane" context.a.b>jane)').query_on_record == (
        f"actor:{secret},{secret}* OR -({secret} {secret} context.a.b>{secret})"
    )
    assert of("context.id:4711 seats>4711").query_on_record == (f"context.id:{hashed('4711')} seats>{hashed('4711')}")
    for text in (
        "event_type:login,log* event_date_time>=2026-11 outcome:denied",
        'has:context.a target:"" context.a:null',
    ):
        assert of(text).query_on_record == text


@pytest.mark.parametrize("name", ["window_id:00000000-0000-0000-0000-000000000001", "-has:actor OR written_at>2026"])
def test_what_undelivered_events_do_not_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="an undelivered event does not have it"):
        of(name.replace("2026", "2026-01"))


def test_everybody_is_refused() -> None:
    for text in ("", "  "):
        with pytest.raises(ValueError, match="an empty query would find everyone's events"):
            of(text, actor="jane")
    with pytest.raises(ValueError, match="an empty value would match everyone else's events"):
        of(actor="")
    with pytest.raises(ValueError, match="say whose events"):
        of()


def test_what_is_not_a_query_is_pointed_at() -> None:
    with pytest.raises(QueryError) as caught:
        of("context.email=jane")
    assert caught.value.pointed().splitlines()[1].startswith("             ^ = is not an operator")
