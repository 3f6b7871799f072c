"""No condition of our SQL has a value that may change from row to row: no index helps to find it.

`acked_at < clock_timestamp()` reads every row there is, `acked_at < statement_timestamp()` those that are asked for.
"""

from __future__ import annotations

import ast
import importlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from deploy.local.process import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SOURCES = sorted((PROJECT / "pipeline").rglob("*.py"))

_VOLATILE = frozenset(
    {
        "clock_timestamp",
        "timeofday",
        "random",
        "random_normal",
        "gen_random_uuid",
        "uuidv4",
        "uuidv7",
        "nextval",
        "setval",
        "currval",
        "lastval",
        "pg_sleep",
    }
)

_TOKEN = re.compile(
    r"--[^\n]*|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|%\(\w+\)s|(?P<word>[A-Za-z_]\w*)|(?P<mark>[()])|(?P<sign>[<>=]+)"
)
#: After these comes a condition, until one of the others at the same depth.
_BEGIN = frozenset({"WHERE", "HAVING", "ON"})
_END = frozenset(
    {
        "SELECT",
        "FROM",
        "SET",
        "VALUES",
        "RETURNING",
        "GROUP",
        "ORDER",
        "LIMIT",
        "OFFSET",
        "WINDOW",
        "UNION",
        "EXCEPT",
        "INTERSECT",
        "WITH",
        "INSERT",
        "UPDATE",
        "DELETE",
        "JOIN",
        "CROSS",
        "LEFT",
        "INNER",
        "FULL",
    }
)
#: Before a parenthesis, these are not a function's name.
_NO_FUNCTION = (
    _BEGIN | _END | {"IN", "EXISTS", "AND", "OR", "NOT", "AS", "ANY", "ALL", "LATERAL", "FILTER", "OVER", "BY"}
)
_STATEMENT = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE|SET|VALUES)\b")


@dataclass(slots=True)
class _Depth:
    """What is between two parentheses."""

    is_condition: bool
    #: Arguments of a function: `extract(epoch FROM ...)` has no FROM clause.
    is_call: bool


def volatile_conditions(sql: str) -> Iterator[str]:
    """The volatile functions in conditions of the statement, or of the part of one; each with what is around it."""
    depths = [_Depth(is_condition=False, is_call=False)]
    words = [match for match in _TOKEN.finditer(sql) if match.lastgroup]
    is_part = not _STATEMENT.search(sql)
    for before, match, after in zip([None, *words], words, [*words[1:], None], strict=False):
        word, depth = match.group(), depths[-1]
        earlier = "" if before is None else before.group()
        later = "" if after is None else after.group()
        if word == "(":
            is_call = bool(re.fullmatch(r"\w+", earlier)) and earlier not in _NO_FUNCTION
            depths.append(_Depth(depth.is_condition, is_call))
        elif word == ")" and len(depths) > 1:
            depths.pop()
        elif word == "SELECT":
            depths[-1] = _Depth(is_condition=False, is_call=False)
        elif word in _BEGIN and earlier != "DISTINCT" and later not in {"CONFLICT", "DELETE", "UPDATE"}:
            depth.is_condition = True
        elif word in _END and earlier not in {"DISTINCT", "DO"} and not depth.is_call:
            depth.is_condition = False
        elif word.lower() in _VOLATILE and later == "(":
            is_compared = is_part and ("<" in earlier or ">" in earlier)
            if depth.is_condition or is_compared:
                yield " ".join(sql[max(0, match.start() - 60) : match.end() + 20].split())


def statements(path: Path) -> Iterator[tuple[int, str]]:
    """The text of every string of a module, with its line; what an f-string is made of is put in, where it is known
    before the program runs."""
    tree = ast.parse(path.read_text())
    name = ".".join(path.relative_to(PROJECT / "pipeline").with_suffix("").parts)
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(_text(part, name) for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.lineno, node.value


def _text(part: ast.expr, module: str) -> str:
    if isinstance(part, ast.Constant):
        return str(part.value)
    assert isinstance(part, ast.FormattedValue)
    try:
        known = vars(importlib.import_module(module))
        return str(eval(compile(ast.Expression(part.value), f"<{module}>", "eval"), known))  # noqa: S307 - our own source
    except Exception:  # noqa: BLE001 - known only when the program runs: looked at where it is written
        return " something "


def is_sql(text: str) -> bool:
    return any(f"{function}(" in text for function in _VOLATILE)


@pytest.mark.parametrize("path", [path for path in _SOURCES if is_sql(path.read_text())], ids=lambda path: path.stem)
def test_no_condition_has_a_volatile_function(path: Path) -> None:
    found = [
        f"line {line}: {where}"
        for line, text in statements(path)
        if is_sql(text)
        for where in volatile_conditions(text)
    ]

    assert found == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT a FROM t WHERE at < clock_timestamp() - make_interval(secs => 3)",
        "DELETE FROM t WHERE at > (clock_timestamp() - interval '1 day') AND b",
        "DELETE FROM t WHERE extract(epoch FROM clock_timestamp() - at) > 3",
        "SELECT * FROM a JOIN b ON a.id = random() WHERE true",
        "SELECT count(*) FROM t GROUP BY a HAVING max(at) < clock_timestamp()",
        "SELECT count(*) FILTER (WHERE at < clock_timestamp()) FROM t",
        "UPDATE t SET a = 1 WHERE id = (SELECT id FROM t WHERE at < clock_timestamp() LIMIT 1)",
        "SELECT * FROM t WHERE a IS DISTINCT FROM gen_random_uuid()",
        "INSERT INTO t VALUES (1) ON CONFLICT (id) DO UPDATE SET a = 2 WHERE t.at < clock_timestamp()",
        "SELECT 1 FROM t WHERE a -- until now\n AND at < timeofday()",
        "at < clock_timestamp() AND NOT b",
    ],
)
def test_a_volatile_function_in_a_condition_is_found(sql: str) -> None:
    assert len([*volatile_conditions(sql)]) == 1


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT clock_timestamp() - at FROM t WHERE a = 1",
        "UPDATE t SET at = coalesce(at, clock_timestamp()) WHERE id = 1 RETURNING clock_timestamp()",
        "INSERT INTO t (id, at) VALUES (gen_random_uuid(), clock_timestamp()) ON CONFLICT DO NOTHING",
        "INSERT INTO t SELECT clock_timestamp() FROM u WHERE a < 3",
        # Once, before the rows.
        "SELECT * FROM t WHERE at < (SELECT clock_timestamp())",
        "SELECT 'WHERE at < clock_timestamp()'",
        "SELECT * FROM t WHERE a ORDER BY random()",
        "SELECT DISTINCT ON (a) clock_timestamp() FROM t",
        "SELECT * FROM t WHERE at < statement_timestamp() AND b < now()",
        "lease_until = clock_timestamp() + make_interval(secs => 3)",
    ],
)
def test_a_volatile_function_elsewhere_is_left_alone(sql: str) -> None:
    assert [*volatile_conditions(sql)] == []
