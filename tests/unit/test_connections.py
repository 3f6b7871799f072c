"""When the connections that there are, or that a fleet takes, are too many for PostgreSQL."""

from __future__ import annotations

import pytest

from towpath.watch.connections import Fleet, Limit, connection_problems, most_of

_SERVER = Limit("max_connections", 97, 20)


def test_an_aggregator_takes_two_connections_more_than_it_has_writers() -> None:
    assert most_of(Fleet(dispatchers=2, aggregators=30), writers=2) == 2 * 4 + 30 * 4


@pytest.mark.parametrize(
    ("limit", "fleet"),
    [
        (_SERVER, Fleet(dispatchers=1, aggregators=18)),
        (_SERVER, None),
        (Limit("max_connections", 97, 77), None),
    ],
)
def test_a_fleet_that_has_room_is_no_problem(limit: Limit, fleet: Fleet | None) -> None:
    assert [*connection_problems([limit], fleet, writers=2)] == []


def test_a_fleet_is_named_that_would_fill_the_server() -> None:
    (problem,) = connection_problems([_SERVER], Fleet(dispatchers=1, aggregators=30), writers=2)

    assert problem.startswith(
        "30 aggregator(s) with WINDOW_WRITERS=2 and 1 dispatcher(s) need up to 124 connections, but only 97"
    )
    assert "PgBouncer" in problem
    assert "docs/scale.md" in problem


def test_connections_that_are_in_use_are_named_with_the_limit_that_is_near() -> None:
    limits = [_SERVER, Limit("the connection limit of the role towpath_pipeline", 50, 45)]

    (problem,) = connection_problems(limits, None, writers=2)

    assert problem.startswith("45 of 50 connections are in use (the connection limit of the role towpath_pipeline).")
