"""The product is a house with rooms: its map names each, and the ledger's tables are touched in one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import towpath
from deploy.local.process import PROJECT
from towpath.ledger.tables import ledger_tables

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PRODUCT = PROJECT / "pipeline" / "towpath"
_MAY_TOUCH_THE_LEDGER = {_PRODUCT / "ledger", _PRODUCT / "migrations"}


def _sources() -> Iterator[Path]:
    yield from (path for folder in (_PRODUCT, PROJECT / "backend") for path in folder.rglob("*.py"))


def test_the_map_names_every_room_and_module() -> None:
    children = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in _PRODUCT.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }

    named = set(re.findall(r"(?<!`)\b[a-z]+(?:/(?= )|\.py)", towpath.__doc__ or ""))

    assert named == children - {"__init__.py"}


def test_the_tables_of_the_ledger_are_named_in_its_room_only() -> None:
    tables = ledger_tables()
    assert {table.partition("_")[0] for table in tables} == {"pipeline"}

    naming = {path for path in _sources() if re.search("|".join(tables), path.read_text(encoding="utf-8"))}

    assert {path.parent for path in naming} == _MAY_TOUCH_THE_LEDGER


def test_every_statement_goes_through_the_module_of_the_driver() -> None:
    """A cursor of psycopg 3 is at the result of a message's first statement, and Django's gives that on."""
    naming = {path.name for path in _PRODUCT.rglob("*.py") if "connection.cursor()" in path.read_text("utf-8")}

    # That of `one_moment` is at the driver's own cursor, for a statement without a result.
    assert naming == {"moment.py"}
