"""How settings of ClickHouse are judged. On the real engine: tests/deploy/test_clickhouse_profiles.py."""

from __future__ import annotations

import pytest

from towpath.eventlog.stores.clickhouse.settings import Setting, fixed_otherwise, not_known_to_be_harmless, pins
from towpath.eventlog.stores.clickhouse.surroundings import quorum_findings


def setting(name: str, value: str, **others: bool | str) -> Setting:
    return Setting(name, value, **{"is_changed": True, "is_fixed": False, **others})  # type: ignore[arg-type]


def known(*settings: Setting) -> dict[str, Setting]:
    return {one.name: one for one in settings}


def test_a_setting_that_the_server_does_not_know_is_not_sent() -> None:
    assert pins({"limit": "0", "of_tomorrow": "1"}, known(setting("limit", "5"))) == {"limit": "0"}


def test_a_setting_that_is_fixed_at_our_value_is_not_sent() -> None:
    there = known(setting("async_insert", "0", is_fixed=True), setting("final", "false", is_fixed=True))

    assert pins({"async_insert": "0", "final": "0"}, there) == {}
    assert fixed_otherwise({"async_insert": "0", "final": "0"}, there) == []


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (setting("insert_deduplicate", "0", is_fixed=True), ["insert_deduplicate cannot be set to 1 (it is 0)"]),
        (setting("insert_deduplicate", "0", most="0"), ["insert_deduplicate cannot be set to 1 (it is 0)"]),
        (setting("insert_deduplicate", "5", least="2"), ["insert_deduplicate cannot be set to 1 (it is 5)"]),
        (setting("insert_deduplicate", "0", least="0", most="1"), []),
        (setting("insert_deduplicate", "true", is_fixed=True), []),
    ],
)
def test_what_the_profile_does_not_allow_is_named(there: Setting, said: list[str]) -> None:
    assert fixed_otherwise({"insert_deduplicate": "1"}, known(there)) == said


def test_a_limit_that_cannot_be_lifted_is_kept() -> None:
    there = known(setting("max_rows_to_read", "100", least="10", most="100"))

    assert pins({"max_rows_to_read": "0"}, there) == {}
    assert fixed_otherwise({"max_rows_to_read": "0"}, there) == []


@pytest.mark.parametrize(
    ("one", "is_named"),
    [
        (setting("run_query_in_background", "1"), True),
        (setting("of_tomorrow", "1"), True),
        (setting("of_tomorrow", "1", default="1"), False),
        (setting("of_tomorrow", "1", is_changed=False), False),
        (setting("async_insert", "1"), False),
        (setting("max_memory_usage", "1"), False),
        (setting("log_queries", "0"), False),
    ],
)
def test_what_a_profile_changes_is_named_unless_it_is_pinned_or_harmless(one: Setting, *, is_named: bool) -> None:
    assert not_known_to_be_harmless([one]) == ([f"{one.name} = {one.value}"] if is_named else [])


@pytest.mark.parametrize(("quorum", "is_ok"), [("0", False), ("auto", True), ("2", True)])
def test_a_replicated_table_without_a_quorum_is_a_finding(quorum: str, *, is_ok: bool) -> None:
    """Replicas need Keeper, which the engine of the tests does not have: the judgement alone."""
    (found,) = quorum_findings("ReplicatedMergeTree", known(setting("insert_quorum", quorum)))

    assert found.is_ok is is_ok
    assert quorum in found.detail
    assert list(quorum_findings("MergeTree", {})) == []
