"""ClickHouse's settings that change what our statements mean. They are pinned on every statement, because the profile
of EVENT_STORE_URL's user can set each of them. This module also judges what else a profile changes.

A profile's limits stay in force, but they may not silently shorten an answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Far more than a window has, so that an insert becomes one block for each month, whatever the profile says.
_NO_LIMIT = str(2**40)

#: Pinned on every statement. Each value is the server's default, so that a user whose settings are fixed can still
#: read.
PINNED: Mapping[str, str] = {
    # Each of these leaves rows out of an answer, without an error.
    "limit": "0",
    "offset": "0",
    "additional_table_filters": "{}",
    "additional_result_filter": "",
    "select": "",
    "filter": "",
    "sort": "",
    "order": "",
    "page": "0",
    **dict.fromkeys(
        (
            "read_overflow_mode",
            "read_overflow_mode_leaf",
            "result_overflow_mode",
            "group_by_overflow_mode",
            "timeout_overflow_mode",
            "timeout_overflow_mode_leaf",
            "sort_overflow_mode",
            "distinct_overflow_mode",
            "transfer_overflow_mode",
            "set_overflow_mode",
            "join_overflow_mode",
        ),
        "throw",
    ),
    "partial_result_on_first_cancel": "0",
    "skip_unavailable_shards": "0",
    # An old answer, or one without the newest parts, does not prove that rows are missing.
    "use_query_cache": "0",
    "ignore_cold_parts_seconds": "0",
    "prefer_warmed_unmerged_parts_seconds": "0",
    "allow_experimental_parallel_reading_from_replicas": "0",
    "apply_deleted_mask": "1",
    "final": "0",
    "implicit_transaction": "0",
    # Each of these changes the values of the same rows.
    "aggregate_functions_null_for_empty": "0",
    "group_by_use_nulls": "0",
    "join_use_nulls": "0",
    "empty_result_for_aggregation_by_empty_set": "0",
    "transform_null_in": "0",
    "extremes": "0",
    "enable_positional_arguments": "1",
    "enable_streaming_queries": "0",
    "optimize_trivial_approximate_count_query": "0",
    "prefer_column_name_to_alias": "0",
    "enable_named_columns_in_function_tuple": "0",
    "date_time_overflow_behavior": "ignore",
    # Each of these raises an error if a statement does not use an index.
    "force_primary_key": "0",
    "force_index_by_date": "0",
    "force_optimize_projection": "0",
    "force_optimize_projection_name": "",
    # Would give columns other types than the migrations name.
    "data_type_default_nullable": "0",
}

#: Lifted, if the user may, for a read on which a decision rests: it looks up windows by an index.
_LIMITS_OF_READS = frozenset(
    {"max_rows_to_read", "max_bytes_to_read", "max_result_rows", "max_result_bytes", "max_rows_to_group_by"}
)
#: Lifted if the user may.
_LIMITS = _LIMITS_OF_READS | {"max_partition_size_to_drop"}

#: Pinned on every read on which a decision rests. A replica that lags behind would report stored rows as missing.
PINNED_ON_DECISIONS: Mapping[str, str] = {
    **PINNED,
    **dict.fromkeys(sorted(_LIMITS_OF_READS), "0"),
    "select_sequential_consistency": "1",
}

#: Pinned on every insert.
PINNED_ON_INSERTS: Mapping[str, str] = {
    **PINNED,
    # On by default since 26.2. It answers before the rows are stored, or batches them, and our tokens have no effect.
    "async_insert": "0",
    "wait_for_async_insert": "1",
    # From 26.2 on, the second overrides the first.
    "insert_deduplicate": "1",
    "deduplicate_insert": "enable",
    # A late insert counts only once in the target of a view, too, if the target has a token log (docs/stores.md).
    "deduplicate_blocks_in_dependent_materialized_views": "1",
    "update_insert_deduplication_token_in_dependent_materialized_views": "1",
    # If a view cannot take a row, the insert fails. Otherwise only the server's log would say so.
    "materialized_views_ignore_errors": "0",
    # All of these can split an insert into several blocks, but a token covers one block for each partition.
    "max_insert_threads": "1",
    "input_format_parallel_parsing": "0",
    "parallel_view_processing": "0",
    "max_insert_block_size": _NO_LIMIT,
    "max_insert_block_size_bytes": "0",
    "use_strict_insert_block_limits": "0",
    "min_insert_block_size_rows": _NO_LIMIT,
    "min_insert_block_size_bytes": _NO_LIMIT,
    "input_format_max_block_size_bytes": "0",
    "input_format_max_block_wait_ms": "0",
    "input_format_connection_handling": "0",
    # Each of these leaves out rows or makes up values, instead of raising an error.
    "input_format_allow_errors_num": "0",
    "input_format_allow_errors_ratio": "0",
    "input_format_tsv_skip_first_lines": "0",
    "input_format_tsv_detect_header": "0",
    "input_format_tsv_allow_variable_number_of_columns": "0",
    "input_format_tsv_empty_as_default": "0",
    "input_format_tsv_skip_trailing_empty_lines": "0",
    "input_format_tsv_crlf_end_of_line": "0",
    "input_format_tsv_enum_as_number": "0",
    "format_tsv_null_representation": "\\N",
    "input_format_null_as_default": "0",
    "insert_null_as_default": "0",
    "input_format_skip_unknown_fields": "0",
    "input_format_defaults_for_omitted_fields": "1",
    "date_time_input_format": "best_effort",
    # Otherwise the last bit of a float may differ.
    "precise_float_parsing": "1",
    "session_timezone": "UTC",
    "optimize_on_insert": "1",
    "insert_allow_materialized_columns": "0",
    # A window may reach back over years (a bulk import); the default refuses more than 100 months.
    "max_partitions_per_insert_block": "0",
    "throw_on_max_partitions_per_insert_block": "1",
    # One quorum insert after the other, so that the read-back sees every acknowledged row.
    "insert_quorum_parallel": "0",
    "fsync_metadata": "1",
    # The server sends no status line before the insert's outcome is known.
    "wait_end_of_query": "1",
}

#: Pinned on the changes of retention and erasure: the answer comes when every replica is done. A month may be large.
PINNED_ON_CHANGES: Mapping[str, str] = {
    **PINNED,
    "mutations_sync": "2",
    "max_partition_size_to_drop": "0",
}

#: Parameters of the HTTP interface, which system.settings does not list.
_NOT_OF_THE_ENGINE = frozenset({"wait_end_of_query"})

_ALL_PINNED = {**PINNED_ON_DECISIONS, **PINNED_ON_INSERTS, **PINNED_ON_CHANGES}

#: The first letters of the names of settings that may have any value: limits (because of the pins, reaching one is an
#: error), ways to compute the answer (plans, threads, caches, networks), formats and engines that we do not use,
#: logging, and what DDL allows.
_HARMLESS = re.compile(
    r"max_|min_|fallback_|priority|workload|reserve_memory|timeout_before_|parts_to_|number_of_mutations_"
    r"|optimize_|query_plan_|compile_|join_|grace_hash_|partial_merge_|cross_|convert_|rewrite_|correlated_"
    r"|single_join_|aggregation_|adaptive_|collect_|count_distinct_|group_by_t|cascades_|merge_tree_"
    r"|read_backoff_|read_from_|read_in_order_|read_priority|reader_executor_|prefer|move_|parallel_"
    r"|automatic_parallel_|distributed_|cluster_|load_|hedged_|async_|analyzer_|enable_|use_|allow_|text_index_"
    r"|vector_search_|hnsw_|secondary_indices_|statistics_|predicate_statistics_|materialize_statistics_"
    r"|short_circuit_|split_|temporary_|remerge_|prefetch_|filesystem_|local_filesystem_|remote_|page_cache_"
    r"|cache_|low_cardinality_|shrink_|queue_|network_|connect|handshake_|idle_|interactive_|poll_|send_"
    r"|receive_|tcp_|sleep_in_|http_|add_http_|hsts_|compression|zstd_|snappy_|calculate_text_|checksum_"
    r"|os_threads_|log_|trace_|opentelemetry_|jemalloc_|memory_|query_profiler_|query_metric_|metrics_"
    r"|per_part_|input_format_|format_|schema_inference_|bool_|date_time_output_|date_time_64_output_"
    r"|errors_output_|interval_output_|decimal_|print_pretty_|precise_float_|cast_|json_|type_json_|variant_"
    r"|output_format_a|output_format_b|output_format_c|output_format_d|output_format_f|output_format_i"
    r"|output_format_j|output_format_m|output_format_o|output_format_p|output_format_s|output_format_t"
    r"|output_format_v|output_format_w|s3|azure_|hdfs_|iceberg_|delta_lake_|paimon_|url_|engine_|file_like_"
    r"|storage_|archive_|kafka_|rabbitmq_|mongodb_|mysql_|postgresql_|odbc_|external_|stream_|table_engine_"
    r"|table_function_|arrow_flight_|webassembly_|ai_|polyglot_|promql_|cloud_mode|shared_merge_tree_|backup_"
    r"|restore_|keeper_|insert_keeper_|insert_quorum|insert_distributed_|insert_shard_id|alter_|mutations_"
    r"|lightweight_|update_|create_|database|default_|describe_|show_|explain_|replication_|lock_acquire_"
    r"|check_|dictionary_|flatten_nested|validate_|apply_|system_|dead_|function|formatdatetime_|parsedatetime_"
    r"|regexp_|splitby_|geo|h3|count_matches_|highlight_|query_cache_|query_ids_|cancel_http_|asterisk_|union_"
    r"|except_|intersect_|legacy_|totals_|load_balancing|readonly|compatibility|implicit_select"
    r"|serialize_query_plan|make_distributed_plan|deduplicate_insert_select|materialized_views_squash_"
    r"|materialized_views_populate_|wait_for_async_|execute_exists_|normalize_function_|multiple_joins_"
    r"|least_greatest_|ignore_drop_|ignore_on_cluster_|ignore_format_null_|double_|dynamic_|unique_key_"
    r"|defer_partition_|wait_for_part_commit_|session_query_ids_|recursive_cte_|throw_on_hive_|merge_table_max_"
    r"|push_external_|extract_|parallelize_output_|force_grouping_standard_|joined_|glob_"
)


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting as system.settings shows it to our user."""

    name: str
    value: str
    #: True if the profile of the user or of the server sets it.
    is_changed: bool
    #: True if the user may not change it.
    is_fixed: bool
    #: The range within which the user may change it. Empty means no bound.
    least: str = ""
    most: str = ""
    default: str = ""

    def can_be(self, wanted: str) -> bool:
        """True if our statements can run with this value."""
        if same(self.value, wanted):
            return True
        return not self.is_fixed and not _is_below(wanted, self.least) and not _is_below(self.most, wanted)


def same(value: str, wanted: str) -> bool:
    """True if both are the same value, even if one is written as a word: true is 1, false is 0."""
    written = {"true": "1", "false": "0"}
    return written.get(value, value) == written.get(wanted, wanted)


def _is_below(value: str, bound: str) -> bool:
    try:
        return float(value) < float(bound)
    except ValueError:
        return False


def pins(wanted: Mapping[str, str], known: Mapping[str, Setting]) -> dict[str, str]:
    """Return the settings to send with a statement. It leaves out those that the server does not know, those that are
    fixed at the wanted value, and limits that the user may not lift."""
    return {
        name: value for name, value in wanted.items() if name in _NOT_OF_THE_ENGINE or _is_sent(value, known.get(name))
    }


def _is_sent(value: str, setting: Setting | None) -> bool:
    if setting is None or (setting.is_fixed and same(setting.value, value)):
        return False
    return setting.name not in _LIMITS or setting.can_be(value)


def fixed_otherwise(wanted: Mapping[str, str], known: Mapping[str, Setting]) -> list[str]:
    """Return a text for each pin that the user's profile does not allow, with the value that it has."""
    return [
        f"{name} cannot be set to {value or 'nothing'} (it is {known[name].value})"
        for name, value in wanted.items()
        if name in known and name not in _LIMITS and not known[name].can_be(value)
    ]


def not_known_to_be_harmless(known: Iterable[Setting]) -> list[str]:
    """Return `name = value` for each setting that a profile changes and that is neither pinned nor known to be
    harmless."""
    return [
        f"{one.name} = {one.value}"
        for one in known
        if one.is_changed and one.value != one.default and one.name not in _ALL_PINNED and not _HARMLESS.match(one.name)
    ]
