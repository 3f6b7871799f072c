"""A project's own columns of the event log: what may be declared, and which values fit."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from django.core.checks import Warning as CheckWarning
from django.core.exceptions import ImproperlyConfigured

from towpath import wiring
from towpath.checks import check_settings
from towpath.conf.config import Config
from towpath.eventlog import columns
from towpath.eventlog.columns import (
    BOOLEAN,
    DECIMAL,
    FLOAT,
    SIGNED_NUMBER,
    TEXT,
    TIME,
    UUID,
    WHOLE_NUMBER,
    Column,
    FromContext,
    FromEvent,
    FromPipeline,
    Kind,
)
from towpath.eventlog.stores.clickhouse import schema as clickhouse
from towpath.eventlog.stores.postgresql import schema as postgresql
from towpath.eventlog.values import as_text, parse
from towpath.outbox.checks import check_outboxes
from towpath.outbox.context import bind, bound

if TYPE_CHECKING:
    from tests.knobs import Knobs

TENANT = Column("tenant", TEXT, FromContext("tenant"))

BAD: dict[str, tuple[Any, str]] = {
    "two of one name": ((TENANT, replace(TENANT, kind=FLOAT)), "'tenant' is declared twice: remove one"),
    "a name of Towpath's": ((replace(TENANT, name="event_context"),), "'event_context' is already one of"),
    "the store's own": ((replace(TENANT, name="written_at"),), "'written_at' is already one of"),
    "one of a later release": ((replace(TENANT, name="event_source"),), "begins like one of Towpath's own"),
    "a word of SQL": (
        (replace(TENANT, name="user"),),
        "'user' is a reserved word of SQL: choose another name, such as user_name",
    ),
    "a word of ClickHouse": ((replace(TENANT, name="final"),), "'final' is a reserved word of SQL"),
    "a name with a capital": (
        (replace(TENANT, name="Tenant"),),
        "'Tenant' needs a name of at most 63 lower-case letters",
    ),
    "a name with a quote": ((replace(TENANT, name='a"b'),), "needs a name of at most 63 lower-case letters"),
    "a long name": ((replace(TENANT, name="t" * 64),), "at most 63 lower-case"),
    "an unknown kind": ((Column("tenant", "string", FromContext("x")),), "unknown kind 'string': use one of TEXT, "),  # type: ignore[arg-type]
    "no source": ((Column("tenant", TEXT, FromPipeline()),), "has no source: use FromContext(key)"),
    "no key": ((Column("tenant", TEXT, FromContext("")),), "has no source"),
    "no column": (("tenant",), "TOWPATH.columns: it has 'tenant': write Column("),
    "a list": ([TENANT], "it is a list: write a tuple, columns=(Column(...),)"),
    "a column by itself": (TENANT, "it is a Column: write a tuple"),
}


@pytest.mark.parametrize(("own", "problem"), BAD.values(), ids=BAD)
def test_a_bad_declaration_is_an_error_of_the_check_and_nothing_is_connected(
    own: Any, problem: str, knobs: Knobs
) -> None:
    knobs(columns=own)

    assert not [message for message in check_outboxes() if message.id == "outbox.W033"]
    (error,) = [message for message in check_settings() if message.id == "pipeline.E020"]
    assert problem in error.msg
    with pytest.raises(ImproperlyConfigured, match=r"TOWPATH\.columns: ") as refused:
        wiring.event_store(replace(Config(), columns=own))
    assert problem in str(refused.value)


def test_what_is_declared_well_has_no_problem(knobs: Knobs) -> None:
    knobs(columns=tuple(replace(TENANT, name=f"own_{kind.name.lower()}", kind=kind) for kind in Kind))

    assert [message for message in check_settings() if message.id == "pipeline.E020"] == []


def test_a_column_that_no_outbox_fills_is_a_warning(knobs: Knobs) -> None:
    knobs(columns=(Column("user_id", WHOLE_NUMBER, FromEvent()), Column("usr_id", WHOLE_NUMBER, FromEvent())))

    (found,) = [message for message in check_outboxes() if isinstance(message, CheckWarning)]
    assert "no outbox has a column 'usr_id'" in found.msg


def test_columns_of_later_releases_cannot_meet_those_of_a_project() -> None:
    """A name that is added to this list, and begins otherwise, may be a project's already."""
    before_projects_had_columns = {"actor", "request_id", "ip", "target", "outcome"}

    for column in columns.ADDED_COLUMNS:
        assert column.name in before_projects_had_columns or column.name.startswith(columns.OUR_PREFIXES)


@pytest.mark.parametrize("store", [clickhouse, postgresql])
def test_a_project_s_columns_are_numbered_apart(store: Any) -> None:
    numbers = [migration.number for migration in store.migrations((TENANT, replace(TENANT, name="region")))]

    assert numbers == sorted(numbers)
    assert numbers[-2:] == [10_000, 10_001]
    assert numbers[:-2] == [migration.number for migration in store.migrations()]


# --- Values --------------------------------------------------------------------------------------------------------

FITS: list[tuple[Kind, object, object]] = [
    (TEXT, "any", "any"),
    (BOOLEAN, True, True),
    (BOOLEAN, "0", False),
    (WHOLE_NUMBER, 2**63 - 1, 2**63 - 1),
    (SIGNED_NUMBER, -(2**63), -(2**63)),
    (SIGNED_NUMBER, Decimal("-5.00"), -5),
    (DECIMAL, Decimal("1E+3"), Decimal(1000)),
    (DECIMAL, "-0.123456789000", Decimal("-0.123456789")),
    (FLOAT, 1e-7, 1e-7),
    (FLOAT, 5, 5.0),
    (TIME, "2026-11-26T01:02:03.5+02:00", datetime(2026, 11, 25, 23, 2, 3, 500_000, tzinfo=UTC)),
    (TIME, "2024-02-29 01:02:03Z", datetime(2024, 2, 29, 1, 2, 3, tzinfo=UTC)),
]
DOES_NOT_FIT: list[tuple[Kind, object]] = [
    (BOOLEAN, "yes"),
    (WHOLE_NUMBER, -1),
    (WHOLE_NUMBER, 2**63),
    (WHOLE_NUMBER, "1.5"),
    (WHOLE_NUMBER, Decimal("9223372036854775808.0")),
    (WHOLE_NUMBER, "1."),
    (WHOLE_NUMBER, ""),
    (WHOLE_NUMBER, "٣"),
    (SIGNED_NUMBER, 2**63),
    (SIGNED_NUMBER, -(2**63) - 1),
    (DECIMAL, "1e3"),
    (DECIMAL, "0.1234567891"),
    (DECIMAL, "1" * 30),
    (DECIMAL, Decimal("NaN")),
    (FLOAT, float("nan")),
    (FLOAT, float("inf")),
    (FLOAT, "1e309"),
    (FLOAT, "1e-400"),
    (FLOAT, "9" * 401),
    (TIME, "2026-11-26T01:02:03"),
    (TIME, "2026-02-29T01:02:03Z"),
    (TIME, "2026-04-31T01:02:03Z"),
    (TIME, "2026-11-26"),
    (TIME, "1900-01-01T00:00:00+01:00"),
    (TIME, "2299-12-31T23:59:59-01:00"),
    (TIME, "infinity"),
    (UUID, "7"),
]


@pytest.mark.parametrize(("kind", "given", "held"), FITS)
def test_a_value_that_fits_is_held_as_it_is(kind: Kind, given: object, held: object) -> None:
    assert parse(kind, as_text(given)) == held


@pytest.mark.parametrize(("kind", "given"), DOES_NOT_FIT)
def test_a_value_that_does_not_fit_cannot_be_bound(kind: Kind, given: Any, knobs: Knobs) -> None:
    knobs(columns=(replace(TENANT, kind=kind),))

    with pytest.raises(ValueError, match=r"bind\(tenant=...\) does not fit .* column 'tenant': it is not") as refused:
        bind(tenant=given).__enter__()

    assert not isinstance(given, str) or len(given) < 2 or given not in str(refused.value)
    with bind(tenant=lambda: given), pytest.raises(ValueError, match="'tenant'"):
        bound()


def test_what_is_bound_is_text_that_its_column_takes(knobs: Knobs) -> None:
    knobs(columns=(replace(TENANT, kind=BOOLEAN),))

    with bind(tenant=True, amount=Decimal("1E+2"), since=datetime(2026, 1, 2, tzinfo=UTC)):
        assert bound() == {"tenant": "true", "amount": "100", "since": "2026-01-02T00:00:00+00:00"}
