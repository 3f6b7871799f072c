"""What the profile of EVENT_STORE_URL's user, its constraints and a row policy do, on the real engine."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import clickhouse_connect
import pytest

from tests.conformance.rows import FIRST, MOMENT, OWN_COLUMNS, SECOND, WINDOW, copy_text, row, write
from tests.deploy.clickhouse_endpoint import Endpoint, copied, empty_engine
from tests.ports import any_free_port
from towpath.eventlog.connect import connect
from towpath.eventlog.errors import RowsRefused, StoreUnavailable
from towpath.eventlog.store import Store
from towpath.eventlog.stores.clickhouse import settings as clickhouse_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["empty_engine"]

#: Each changes what our inserts or reads mean, where it is not pinned; several at a time, as far as they go together.
PROFILES = {
    "rows are left out of an answer": {
        "limit": "2",
        "result_overflow_mode": "break",
        "read_overflow_mode": "break",
        "max_block_size": "1",
        "timeout_overflow_mode": "break",
        "partial_result_on_first_cancel": "1",
    },
    "a filter of the table": {"additional_table_filters": "{'event_log': 'outbox_id < 2'}"},
    "old answers": {
        "use_query_cache": "1",
        "query_cache_min_query_runs": "0",
        "query_cache_system_table_handling": "ignore",
        "query_cache_nondeterministic_function_handling": "ignore",
    },
    "other values": {
        "aggregate_functions_null_for_empty": "1",
        "group_by_use_nulls": "1",
        "join_use_nulls": "1",
        "extremes": "1",
        "prefer_column_name_to_alias": "1",
        "session_timezone": "Asia/Tokyo",
        "final": "1",
        "empty_result_for_aggregation_by_empty_set": "1",
        "data_type_default_nullable": "1",
        "enable_named_columns_in_function_tuple": "1",
    },
    "indexes that are demanded": {"force_primary_key": "1", "force_index_by_date": "1"},
    "tokens are ignored": {"insert_deduplicate": "0", "deduplicate_insert": "disable"},
    "tokens are ignored, by a later server": {"deduplicate_insert": "disable"},
    "inserts are gathered": {"async_insert": "1", "wait_for_async_insert": "0", "async_insert_deduplicate": "0"},
    "several blocks": {
        "max_insert_block_size": "1",
        "min_insert_block_size_rows": "1",
        "min_insert_block_size_bytes": "1",
        "max_insert_threads": "4",
        "input_format_parallel_parsing": "1",
        "parallel_view_processing": "1",
    },
    "errors are allowed": {"input_format_allow_errors_num": "10"},
    "a share of errors is allowed": {"input_format_allow_errors_ratio": "0.9"},
    "lines are skipped": {"input_format_tsv_skip_first_lines": "1"},
    "columns may be missing": {"input_format_tsv_allow_variable_number_of_columns": "1"},
    "values are made up": {"input_format_tsv_empty_as_default": "1", "input_format_null_as_default": "1"},
    "NULL is another text": {"format_tsv_null_representation": "{}", "input_format_null_as_default": "1"},
    "other line ends": {"input_format_tsv_crlf_end_of_line": "1"},
    "other times": {"date_time_input_format": "basic", "date_time_overflow_behavior": "saturate"},
    "an old compatibility": {"compatibility": "22.3"},
    "few months": {"max_partitions_per_insert_block": "1"},
}


@contextmanager
def _store(endpoint: Endpoint, *options: str) -> Iterator[Store]:
    with endpoint.as_user("administrator", *options) as port:
        store = connect(f"clickhouse://127.0.0.1:{port}/towpath", timeout_seconds=20, own_columns=OWN_COLUMNS)
        yield store
        store.close()


@pytest.fixture(scope="module")
def migrated_engine(empty_engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an engine with our tables, to be copied: half a minute less than migrating one for each test."""
    folder = tmp_path_factory.mktemp("migrated")
    with _store(copied(empty_engine, folder)) as store:
        for migration in store.migrations():
            store.apply_migration(migration)
    return folder


@pytest.fixture
def endpoint(migrated_engine: Path, tmp_path: Path) -> Endpoint:
    """An engine with our tables, empty."""
    return copied(migrated_engine, tmp_path)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_a_profile_changes_nothing_about_inserts_and_reads(endpoint: Endpoint, profile: dict[str, str]) -> None:
    rows = [row(1), row(2), row(3, moment=MOMENT + timedelta(days=40))]
    cut = copy_text(row(4)).replace(b"\t{}", b"", 1)
    beyond = copy_text(row(5)).replace(f"{MOMENT:%Y-%m-%d}".encode(), b"infinity", 1)
    assert copy_text(row(4)) != cut
    assert copy_text(row(5)) != beyond

    with _store(endpoint, *(f"--set={name}={value}" for name, value in profile.items())) as store:
        assert store.read_back(WINDOW) == set()
        write(store, *rows)
        write(store, *rows)
        for bad in (cut, beyond):
            with pytest.raises(RowsRefused):
                store.write(copy_text(row(6)) + bad, row_count=2, token=SECOND)

        assert store.read_back(WINDOW) == {one.identity for one in rows}
        assert store.counts([WINDOW]) == {WINDOW: {row(1).outbox: 3}}
        assert [event.outbox_id for event in store.stream(row(1).event_type)] == [1, 2, 3]
        assert next(store.stream(row(1).event_type)).event_date_time == MOMENT
        (digest,) = store.digests(None, since=MOMENT, until=MOMENT + timedelta(days=90), slack=timedelta(days=1))
        assert (digest.inside, digest.around, digest.first_at) == (3, 3, MOMENT)
        assert set(store.applied_migrations()) == {one.number for one in store.migrations()}
        assert store.problems() == []
        assert [one for one in store.findings() if not one.is_ok] == []


def test_a_limit_is_lifted_from_a_read_back(
    endpoint: Endpoint,
) -> None:
    limits = {
        "max_rows_to_read": "2",
        "read_overflow_mode": "break",
        "max_block_size": "1",
        "max_result_rows": "1",
        "result_overflow_mode": "break",
        "max_rows_to_group_by": "1",
        "group_by_overflow_mode": "any",
    }
    rows = [row(1), row(2), row(3, outbox="outbox_user")]

    with _store(endpoint, *(f"--set={name}={value}" for name, value in limits.items())) as store:
        write(store, *rows)

        assert store.read_back(WINDOW) == {one.identity for one in rows}
        assert store.counts([WINDOW]) == {WINDOW: {"outbox_event": 2, "outbox_user": 1}}


def test_a_profile_that_leaves_even_the_driver_without_answers_is_named(endpoint: Endpoint) -> None:
    with (
        _store(endpoint, "--set=offset=1") as store,
        pytest.raises(StoreUnavailable, match="profile does not set `offset`"),
    ):
        write(store, row(1))


def test_a_profile_that_fixes_what_we_pin_stops_the_inserts_and_is_named(endpoint: Endpoint) -> None:
    with _store(endpoint, "--set=deduplicate_insert=disable", "--fix=deduplicate_insert") as store:
        with pytest.raises(StoreUnavailable, match="deduplicate_insert cannot be set to enable"):
            write(store, row(1))
        assert store.read_back(WINDOW) == set()
        (finding,) = [one for one in store.findings() if not one.is_ok]

    assert "deduplicate_insert cannot be set to enable (it is disable)" in finding.detail


def test_inserts_go_on_once_the_constraint_is_gone_without_a_new_process(endpoint: Endpoint) -> None:
    port = any_free_port()
    store = connect(f"clickhouse://127.0.0.1:{port}/towpath", timeout_seconds=20, own_columns=OWN_COLUMNS)

    fixed = ("--set=insert_deduplicate=0", "--fix=insert_deduplicate")
    with endpoint.as_user("administrator", *fixed, port=port), pytest.raises(StoreUnavailable, match="deduplicate"):
        write(store, row(1))
    with endpoint.as_user("administrator", port=port):
        write(store, row(1))
        assert store.read_back(WINDOW) == {row(1).identity}
    store.close()


def test_a_short_time_limit_of_the_profile_is_kept(endpoint: Endpoint) -> None:
    for options in (("--set=max_execution_time=5", "--fix=max_execution_time"), ("--most=max_execution_time=5",)):
        with _store(endpoint, *options) as store:
            write(store, row(1))
            assert store.read_back(WINDOW) == {row(1).identity}
            assert [one for one in store.findings() if not one.is_ok] == []


def test_a_setting_that_is_fixed_at_the_value_we_need_is_no_obstacle(endpoint: Endpoint) -> None:
    with _store(endpoint, "--set=async_insert=0", "--fix=async_insert", "--fix=limit") as store:
        write(store, row(1))
        assert store.read_back(WINDOW) == {row(1).identity}
        assert [one for one in store.findings() if not one.is_ok] == []


def test_a_setting_that_is_not_known_to_be_harmless_is_a_finding(endpoint: Endpoint) -> None:
    unknown, harmless = "ignore_materialized_views_with_dropped_target_table", "max_memory_usage"

    with _store(endpoint, f"--set={unknown}=1", f"--set={harmless}=1000000000") as store:
        write(store, row(1))
        (finding,) = [one for one in store.findings() if not one.is_ok]

    assert f"{unknown} = 1" in finding.detail
    assert harmless not in finding.detail


def test_a_row_policy_is_noticed_before_hidden_rows_are_taken_for_missing(endpoint: Endpoint) -> None:
    with _store(endpoint, "--filter=outbox_id < 2") as store:
        store.write(copy_text(row(1), row(2)), row_count=2, token=FIRST)
        with pytest.raises(StoreUnavailable, match="sees 1 of 2 rows"):
            store.read_back(WINDOW)
        with pytest.raises(StoreUnavailable, match="a row policy hides the others"):
            store.counts([WINDOW])
        (finding,) = [one for one in store.findings() if not one.is_ok]

    assert "sees 1 of 2 rows" in finding.detail
    assert "ALTER ROW POLICY" in finding.detail


def test_a_row_policy_is_noticed_also_beside_rows_that_were_deleted(endpoint: Endpoint) -> None:
    # Given an event that somebody has deleted by its row
    with _store(endpoint) as store:
        store.write(copy_text(row(1), row(2), row(3)), row_count=3, token=FIRST)
    with endpoint.as_user("administrator") as port:
        client = clickhouse_connect.get_client(host="127.0.0.1", port=port, database="towpath")
        client.command("DELETE FROM event_log WHERE outbox_id = 3")
        client.close()

    with _store(endpoint) as store:
        assert store.read_back(WINDOW) == {row(1).identity, row(2).identity}
    with (
        _store(endpoint, "--filter=outbox_id < 2") as store,
        pytest.raises(StoreUnavailable, match=r"sees \d of 3 rows"),
    ):
        store.read_back(WINDOW)


def test_every_pin_is_a_setting_of_the_engine_and_reads_take_its_default(endpoint: Endpoint) -> None:
    """A user whose settings are fixed can read only with the server's defaults. Older servers had some others."""
    older = {"update_insert_deduplication_token_in_dependent_materialized_views"}
    with endpoint.as_user("administrator") as port:
        client = clickhouse_connect.get_client(host="127.0.0.1", port=port, autogenerate_session_id=False)
        rows = client.query("SELECT name, default FROM system.settings").result_rows
        client.close()

    defaults = {str(name): str(default) for name, default in rows}
    everything = {*clickhouse_settings.PINNED_ON_DECISIONS, *clickhouse_settings.PINNED_ON_INSERTS}
    assert everything - defaults.keys() - older == {"wait_end_of_query"}
    assert {name: defaults[name] for name in clickhouse_settings.PINNED} == dict(clickhouse_settings.PINNED)
