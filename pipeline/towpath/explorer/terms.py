"""What a click on a value does to the query. It changes the query's text, which the person sees and can edit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeGuard

from towpath.eventlog.query.operators import Operator
from towpath.eventlog.query.syntax import (
    All,
    Any,
    ColumnField,
    Comparison,
    Constant,
    Has,
    Not,
    Number,
    Pattern,
    Query,
    Text,
    all_of,
)
from towpath.explorer.columns import short_name

if TYPE_CHECKING:
    from towpath.eventlog.columns import Column
    from towpath.eventlog.query.syntax import Field, Term, Value


def value_of(found: object) -> Value | None:
    """Return a value of a context or a column as a query writes it, or None if no comparison can find it."""
    match found:
        case bool() | None:
            return Constant({True: "true", False: "false", None: "null"}[found])
        case int() | float():
            return Number(repr(found))
        case str():
            return Text(found)
    return None


def narrowed(query: Query, field: Field, value: Value) -> Query:
    """Return the query with `field:value` as a further condition, or without it if the query already has it.

    A second value of the same field becomes an alternative, since both together never match. A pattern may match the
    value as well, so the value does not become an alternative to it.
    """
    terms = _terms(query)
    if is_on(query, field, value):
        return _query([left for term in terms if (left := _without(term, field, value))])
    wanted = Comparison(field, Operator.IS, (value,))
    for place, term in enumerate(terms):
        if _asks(term, field) and not any(isinstance(each, Pattern) for each in term.values):
            return _query([*terms[:place], replace(term, values=(*term.values, value)), *terms[place + 1 :]])
    return _query([*(term for term in terms if term != Not(wanted)), wanted])


def excluded(query: Query, field: Field, value: Value) -> Query:
    """Return the query with `-field:value` as a further condition, or without it if the query already has it.

    A query that asks for the value no longer does: it would find nothing.
    """
    unwanted = Not(Comparison(field, Operator.IS, (value,)))
    terms = _terms(query)
    if unwanted in terms:
        return _query([term for term in terms if term != unwanted])
    return _query([*(left for term in terms if (left := _without(term, field, value))), unwanted])


def both(one: Query, other: Query) -> Query:
    """Return the query that finds what both queries find."""
    return _query([*_terms(one), *_terms(other)])


def is_on(query: Query, field: Field, value: Value) -> bool:
    """True if the query asks for this value of the field."""
    return any(_asks(term, field) and value in term.values for term in _terms(query))


def is_off(query: Query, field: Field, value: Value) -> bool:
    """True if the query excludes this value of the field."""
    return Not(Comparison(field, Operator.IS, (value,))) in _terms(query)


def written(query: Query, own: tuple[Column, ...] = ()) -> str:
    """Return the query's text with the short names of columns, as people write them."""
    return "" if query.term is None else str(_short(query.term, own))


def _terms(query: Query) -> list[Term]:
    """Return the conditions that must all hold."""
    if query.term is None:
        return []
    return list(query.term.terms) if isinstance(query.term, All) else [query.term]


def _asks(term: Term, field: Field) -> TypeGuard[Comparison]:
    """True if the term asks for values of the field."""
    return isinstance(term, Comparison) and term.field == field and term.operator is Operator.IS


def _without(term: Term, field: Field, value: Value) -> Term | None:
    """Return the term without this value, or None if it has no other one."""
    if not _asks(term, field):
        return term
    values = tuple(each for each in term.values if each != value)
    return replace(term, values=values) if values else None


def _query(terms: list[Term]) -> Query:
    return Query(all_of(terms) if terms else None)


def _short(term: Term, own: tuple[Column, ...]) -> Term:
    match term:
        case Comparison(field=ColumnField() as field) | Has(field=ColumnField() as field):
            return replace(term, field=replace(field, name=short_name(field.name, own)))
        case Not(inner):
            return Not(_short(inner, own))
        case All(terms):
            return All(tuple(_short(each, own) for each in terms))
        case Any(terms):
            return Any(tuple(_short(each, own) for each in terms))
    return term
