"""What a client of the local ClickHouse endpoint may do: all with tables, nothing with files, addresses or programs.

The engine runs in a process of the developer's, with all of the developer's rights, and so do its `file()`, `url()` and
`executable()`. Most of that is held by the engine's own access control: its one user has grants on tables and none on
sources. What chDB does not ask a grant for is looked for in the statement as the engine's own parser understands it.
"""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_GRANTS = (
    "SHOW, SELECT, INSERT, CHECK, TRUNCATE, OPTIMIZE, KILL QUERY, SYSTEM MERGES",
    "CREATE DATABASE, CREATE TABLE, CREATE VIEW, CREATE TEMPORARY TABLE, DROP DATABASE, DROP TABLE, DROP VIEW",
    "ALTER UPDATE, ALTER DELETE, ALTER COLUMN, ALTER INDEX, ALTER PROJECTION, ALTER CONSTRAINT, ALTER ORDER BY",
    "ALTER TTL, ALTER SETTINGS, ALTER MOVE PARTITION, ALTER VIEW",
)
#: Settings that name a file or an address, hold SQL, or change what a statement means.
_CONSTANT = (
    "dialect",
    "url_base",
    "s3_base",
    "format_avro_schema_registry_url",
    "input_format_record_errors_file_path",
    "format_schema",
    "format_schema_source",
    "format_template_resultset",
    "format_template_row",
    "output_format_schema",
    "rename_files_after_processing",
    "select",
    "filter",
    "order",
    "sort",
    "additional_result_filter",
    "additional_table_filters",
    "parallel_replicas_custom_key",
)
#: Data are data: in the format Values they could call functions, where no statement is looked at.
_OFF = ("input_format_values_interpret_expressions", "input_format_values_deduce_templates_of_expressions")
_ENGINES = re.compile(
    r"(\w*MergeTree|Memory|Null|Log|TinyLog|StripeLog|View|MaterializedView|Buffer|Set|Join|Atomic|Merge)"
)
#: Of the table functions, those that compute or read tables of the user's; any other one is refused.
_TABLE_FUNCTIONS = frozenset(
    {
        "numbers",
        "numbers_mt",
        "zeros",
        "zeros_mt",
        "generaterandom",
        "generateseries",
        "generate_series",
        "primes",
        "values",
        "view",
        "viewifpermitted",
        "null",
        "format",
        "input",
        "merge",
        "loop",
        "mergetreeindex",
    }
)
#: Functions that read files or call services and need no grant.
_FUNCTIONS = frozenset({"file", "disk", "executable", "python", "catboostevaluate", "getclienthttpheader"})

#: What is refused with some words after it, and not with others.
_LOOKED_AT = frozenset({"infile", "outfile", "engine"})

_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|`((?:[^`\\]|\\.)*)`|\"((?:[^\"\\]|\\.)*)\"", re.DOTALL)

#: A function without its parentheses: `arrayMap(file, paths)`, `* APPLY file`.
_FUNCTION_AS_ARGUMENT = re.compile(r"[\w)]\(\s*(?:(\w+)|\(+(\w+)\)*)\s*(?:,|AS\b)|\bAPPLY\b[\s(]*(\w+)")


class Guard:
    """Says what of a statement is refused. Made from what this engine has, so that a newer one has no new way."""

    def __init__(self, *, table_functions: Iterable[str], functions: Iterable[str]) -> None:
        remote = {name.lower() for name in table_functions} - _TABLE_FUNCTIONS
        self._refused = remote | _FUNCTIONS | {name.lower() for name in functions if name.lower().startswith("ai")}

    def is_harmless(self, query: str) -> bool:
        """True if `reason` could find nothing, however the engine's parser understands this text.

        It is one statement, without an escape that could hide a name, and without a word that is refused.
        """
        words = {word.lower() for word in re.findall(r"\w+", query)}
        return not (re.search(r"[\\;]", query) or words & self._refused or words & _LOOKED_AT)

    def reason(self, canonical: str) -> str:
        """Why the statement, as `formatQuery` writes it, is not executed; empty if it may be."""
        text = _QUOTED.sub(_name_or_nothing, canonical)
        if match := re.search(r"\b(INFILE|OUTFILE)\b", text):
            return f"{match[1]} is not available here: send or fetch the rows over HTTP"
        for match in re.finditer(r"(\w+)\s*\(", text):
            if match[1].lower() in self._refused:
                return f"{match[1]}() is not available here: it reaches more than tables"
        for match in _FUNCTION_AS_ARGUMENT.finditer(text):
            name = match[match.lastindex or 0]
            if name.lower() in self._refused:
                return f"{name} is not available here as a function: it reaches more than tables"
        for match in re.finditer(r"\bENGINE = (\w*)", text):
            if not _ENGINES.fullmatch(match[1]):
                return f"the engine {match[1]} is not available here: it reaches more than tables"
        return ""


def _name_or_nothing(match: re.Match[str]) -> str:
    """A quoted name that needs no quotes; nothing for a text, and for what cannot be a function's or engine's name."""
    name = match[1] or match[2] or ""
    return name if re.fullmatch(r"\w+", name) else "''"


def write_config(folder: Path) -> Path:
    """Write the engine's configuration, with the rights of its one user, and return its path."""
    grants = "".join(f"<query>GRANT {grant} ON *.*</query>" for grant in _GRANTS)
    constraints = "".join(f"<{name}><const/></{name}>" for name in (*_CONSTANT, *_OFF))
    off = "".join(f"<{name}>0</{name}>" for name in _OFF)
    users, config = folder / "users.xml", folder / "config.xml"
    users.write_text(
        f"""<clickhouse>
<profiles><default>{off}<constraints>{constraints}</constraints></default></profiles>
<quotas><default/></quotas>
<users><default>
<password></password><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota>
<grants>{grants}</grants>
</default></users>
</clickhouse>
"""
    )
    config.write_text(
        f"<clickhouse><users_config>{users}</users_config><default_database>_files</default_database></clickhouse>\n"
    )
    _keep_files_out_of_default(folder / "metadata")
    return config


def _keep_files_out_of_default(metadata: Path) -> None:
    """Make `default` a database of tables only; in chDB's own, a table that is not there is looked for as a file.

    chDB gives that kind to the database that its configuration calls the default one (`_files`, which nobody is granted
    to read), and to the identity that it finds under this link; so the engine gets it from the file beside it instead.
    """
    link, definition = metadata / "default", metadata / "default.sql"
    metadata.mkdir(parents=True, exist_ok=True)
    if not definition.exists():
        identity = link.readlink().name if link.is_symlink() else uuid.uuid4()
        definition.write_text(f"ATTACH DATABASE _ UUID '{identity}'\nENGINE = Atomic\n")
    link.unlink(missing_ok=True)
