"""When the connections that there are, or that a fleet takes, are too many for PostgreSQL."""

from __future__ import annotations

import re

import pytest

from deploy.local.process import PROJECT
from towpath.watch.connections import Fleet, Limit, connection_problems, most_of

_SERVER = Limit("max_connections", 97, 20)


def test_a_fleet_takes_what_the_page_about_deployment_says() -> None:
    """An aggregator takes two connections more than it has writers, and a dispatcher up to eight."""
    assert most_of(Fleet(dispatchers=2, aggregators=30), writers=2) == 2 * 8 + 30 * 4
    page = (PROJECT / "docs" / "deployment.md").read_text()
    assert re.search(r"aggregators . \(`WINDOW_WRITERS` \+ 2\), dispatchers . 8", page)


@pytest.mark.parametrize(
    ("limit", "fleet"),
    [
        (_SERVER, Fleet(dispatchers=1, aggregators=17)),
        (_SERVER, None),
        (Limit("max_connections", 97, 77), None),
    ],
)
def test_a_fleet_that_has_room_is_no_problem(limit: Limit, fleet: Fleet | None) -> None:
    assert [*connection_problems([limit], fleet, writers=2)] == []


def test_a_fleet_is_named_that_would_fill_the_server() -> None:
    (problem,) = connection_problems([_SERVER], Fleet(dispatchers=1, aggregators=30), writers=2)

    assert problem.startswith(
        "30 aggregator(s) with WINDOW_WRITERS=2 and 1 dispatcher(s) need up to 128 connections, but only 97"
    )
    assert "PgBouncer" in problem
    assert "docs/scale.md" in problem


def test_connections_that_are_in_use_are_named_with_the_limit_that_is_near() -> None:
    limits = [_SERVER, Limit("the connection limit of the role towpath_pipeline", 50, 45)]

    (problem,) = connection_problems(limits, None, writers=2)

    assert problem.startswith("45 of 50 connections are in use (the connection limit of the role towpath_pipeline).")
