"""Who may ask the endpoint, and what for: no page in a browser, nobody without the password, nothing but its tables."""

from __future__ import annotations

import base64
import socket
from typing import TYPE_CHECKING
from urllib.parse import quote

import psutil
import pytest

from tests.local_stack.conftest import count

if TYPE_CHECKING:
    from pathlib import Path

    from clickhouse_connect.driver.client import Client

    from deploy.local.clickhouse import ClickHouse


def ask(server: ClickHouse, *lines: str, path: str = "/?query=SELECT+1", method: str = "GET") -> bytes:
    """What a request with these header lines, over a bare socket, is answered; the body of a POST is empty."""
    head = "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "Connection: close", "Content-Length: 0", "", ""])
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head.encode())
        return b"".join(iter(lambda: connection.recv(4096), b""))


def key(server: ClickHouse) -> str:
    return f"X-ClickHouse-Key: {server.password}"


@pytest.mark.parametrize(
    "lines",
    [
        ["Host: evil.com"],
        ["Host: 127.0.0.1.evil.com"],
        ["Host: localhost.evil.com:18129"],
        ["Host: evil.com@127.0.0.1"],
        ["Host: 127.0.0.1", "Host: evil.com"],
        ["Host: [::2]"],
        ["Host: 0.0.0.0"],
        ["Host:"],
        ["X-No-Host: 127.0.0.1"],
        ["Host: localhost", "Origin: https://evil.com"],
        ["Host: localhost", "Origin: null"],
        ["Host: localhost", "Origin: http://localhost:8000"],
        ["Host: localhost", "Sec-Fetch-Site: cross-site"],
        ["Host: localhost", "Sec-Fetch-Site: same-site"],
        ["Host: localhost", "Sec-Fetch-Site: same-origin"],
    ],
)
@pytest.mark.parametrize("path", ["/?query=SELECT+1", "/ping"])
def test_a_page_in_a_browser_is_refused_even_with_the_password(server: ClickHouse, lines: list[str], path: str) -> None:
    for method in ("GET", "POST"):
        answer = ask(server, *lines, key(server), method=method, path=path)

        assert answer.startswith(b"HTTP/1.1 403 "), answer
        assert b"Access-Control" not in answer


def test_a_target_with_another_host_in_it_is_refused(server: ClickHouse) -> None:
    answer = ask(server, "Host: localhost", key(server), path="http://evil.com/?query=SELECT+1")

    assert answer.startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LocalHost:1", "[::1]:18129"])
def test_the_password_is_taken_in_each_way_that_clickhouse_knows(server: ClickHouse, host: str) -> None:
    basic = base64.b64encode(f"default:{server.password}".encode()).decode()
    for lines, path in (
        ([key(server)], "/?query=SELECT+1"),
        ([key(server), "X-ClickHouse-User: default"], "/?query=SELECT+1"),
        ([f"Authorization: Basic {basic}"], "/?query=SELECT+1"),
        ([], f"/?query=SELECT+1&user=default&password={server.password}"),
    ):
        assert ask(server, f"Host: {host}", *lines, path=path).endswith(b"\r\n\r\n1\n")


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["X-ClickHouse-Key: wrong"],
        ["X-ClickHouse-Key:"],
        ["X-ClickHouse-Key: \u00e9"],
        ["Authorization: Basic ZGVmYXVsdDo="],
        ["Authorization: Basic not base64"],
        ["Authorization: Bearer ZGVmYXVsdDo="],
        ["X-ClickHouse-User: default"],
    ],
)
def test_nothing_is_executed_without_the_password(client: Client, server: ClickHouse, lines: list[str]) -> None:
    answer = ask(server, "Host: localhost", *lines, path="/?query=DROP+TABLE+t", method="POST")

    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"X-ClickHouse-Exception-Code: 516" in answer
    assert count(client) == 0  # the table is there
    assert ask(server, "Host: localhost", "X-ClickHouse-User: root", key(server)).startswith(b"HTTP/1.1 403 ")


def test_the_password_is_for_its_owner_only_and_stands_in_no_process_list(server: ClickHouse) -> None:
    (file,) = server.folder.glob("password")

    assert file.stat().st_mode & 0o777 == 0o600
    assert server.pid is not None
    process = psutil.Process(server.pid)
    assert server.password not in " ".join(process.cmdline())
    assert len(server.password) > 30


REACHING = [
    "SELECT * FROM file('{secret}', 'LineAsString')",
    "SELECT * FROM `file`('{secret}', 'LineAsString')",
    "SELECT * FROM `fi\\x6ce`('{secret}', 'LineAsString')",
    "SELECT * FROM/**/file/**/('{secret}', 'LineAsString')",
    "SELECT * FROM (SELECT * FROM (SELECT * FROM file('{secret}', 'LineAsString')))",
    "SELECT * FROM view(SELECT * FROM file('{secret}', 'LineAsString'))",
    "SELECT * FROM eval('SELECT * FROM file(\\'{secret}\\', \\'LineAsString\\')')",
    "WITH (SELECT file('{secret}')) AS x SELECT x",
    "SELECT file('{secret}')",
    "SELECT FILE('{secret}')",
    "SELECT \"file\"('{secret}')",
    "SELECT arrayMap(x -> file(x), ['{secret}'])",
    "SELECT arrayMap(file, ['{secret}'])",
    "SELECT arrayMap((file), ['{secret}'])",
    "SELECT arrayMap(`fi\\x6ce` AS g, ['{secret}'])",
    "SELECT * APPLY(file) FROM (SELECT '{secret}')",
    "SELECT * APPLY `file` FROM (SELECT '{secret}')",
    "SELECT COLUMNS('.*')/**/APPLY/**/file FROM (SELECT '{secret}' AS x)",
    "SELECT 1 WHERE file('{secret}') LIKE 'a%'",
    "INSERT INTO t VALUES (1, file('{secret}'), NULL)",
    "INSERT INTO t FORMAT Values (1, file('{secret}'), NULL)",
    "INSERT INTO t (text) VALUES ('a'), (concat('a', file('{secret}')))",
    "INSERT INTO t SELECT * FROM format(Values, 'a UInt64, b String, c String', $$(1, file('{secret}'), '')$$)",
    "SELECT 1 SETTINGS select = 'file(\\'{secret}\\')'",
    "SELECT 1 SETTINGS filter = 'file(\\'{secret}\\') != \\'\\''",
    "SELECT 1 SETTINGS order = 'file(\\'{secret}\\')'",
    "SELECT 1 SETTINGS additional_result_filter = 'file(\\'{secret}\\') != \\'\\''",
    "SELECT id FROM t SETTINGS additional_table_filters = {{'t': 'file(\\'{secret}\\') != \\'\\''}}",
    "SELECT 1 AS a FORMAT Protobuf SETTINGS output_format_schema = '{folder}/out'",
    "INSERT INTO t SELECT 1, file('{secret}'), NULL",
    "INSERT INTO t FROM INFILE '{secret}' FORMAT LineAsString",
    "INSERT INTO t (text) FROM/**/INFILE '{secret}' FORMAT LineAsString",
    "SELECT * FROM '{secret}'",
    "SELECT * FROM `{secret}`",
    "SELECT * FROM fileCluster('default', '{secret}', 'LineAsString')",
    "DESCRIBE TABLE file('{secret}')",
    "EXPLAIN SELECT file('{secret}')",
    "CREATE VIEW v AS SELECT file('{secret}')",
    "CREATE TABLE v AS file('{secret}', 'LineAsString')",
    "CREATE TABLE v (x String DEFAULT file('{secret}')) ENGINE = Memory",
    "ALTER TABLE t UPDATE text = file('{secret}') WHERE 1",
    "CREATE TABLE v (x String) ENGINE = File('LineAsString', '{secret}')",
    "CREATE TABLE v (x String) ENGINE = File(LineAsString)",
    "CREATE TABLE v (x String) ENGINE = `EmbeddedRocksDB`(0, '{folder}/rocks') PRIMARY KEY x",
    "CREATE TABLE v (x String) ENGINE = FileLog('{folder}', 'LineAsString')",
    "CREATE TABLE v (x String) ENGINE = SQLite('{folder}/a.db', 't')",
    "CREATE TABLE v (x String) ENGINE = MergeTree ORDER BY x SETTINGS disk = disk(type = local, path = '{folder}/d/')",
    "ATTACH TABLE v FROM '{folder}/' (x String) ENGINE = MergeTree ORDER BY x",
    "SELECT 1 INTO OUTFILE '{folder}/out'",
    "SELECT 1 INTO/**/OUTFILE '{folder}/out' APPEND",
    "EXPLAIN SELECT 1 INTO OUTFILE '{folder}/out'",
    "INSERT INTO FUNCTION file('{folder}/out', 'TSV', 'x UInt8') SELECT 1",
    "INSERT INTO TABLE FUNCTION file('{folder}/out', 'TSV', 'x UInt8') VALUES (1)",
    "SELECT x FROM format(TSV, 'x Int8', 'a') SETTINGS input_format_record_errors_file_path = '{folder}/out'",
    "SET input_format_record_errors_file_path = '{folder}/out'",
    "SELECT 1 FORMAT Template SETTINGS format_template_row = '{secret}'",
    "SELECT 1 FORMAT Template SETTINGS format_template_resultset = '{secret}'",
    "SELECT 1 FORMAT CapnProto SETTINGS format_schema = '{secret}:M'",
    "BACKUP TABLE t TO File('{folder}/backup')",
    "BACKUP TABLE t TO Disk('default', 'backup')",
    "RESTORE TABLE t FROM File('{folder}/backup')",
    "SELECT * FROM url('http://127.0.0.1:{port}/', 'LineAsString')",
    "INSERT INTO FUNCTION url('http://127.0.0.1:{port}/', 'TSV', 'x UInt8') VALUES (1)",
    "SELECT * FROM s3('http://127.0.0.1:{port}/bucket/key', 'LineAsString')",
    "SELECT * FROM gcs('http://127.0.0.1:{port}/bucket/key', 'LineAsString')",
    "SELECT * FROM hdfs('hdfs://127.0.0.1:{port}/a', 'TSV', 'x Int8')",
    "SELECT * FROM azureBlobStorage('http://127.0.0.1:{port}', 'a', 'b', 'c', 'd')",
    "SELECT * FROM iceberg('http://127.0.0.1:{port}/bucket')",
    "SELECT * FROM deltaLake('http://127.0.0.1:{port}/bucket')",
    "SELECT * FROM icebergLocal('{folder}')",
    "SELECT * FROM remote('127.0.0.1:{port}', 'system', 'one')",
    "SELECT * FROM remoteSecure('127.0.0.1:{port}', 'system', 'one')",
    "SELECT * FROM cluster('default', 'system', 'one')",
    "SELECT * FROM mysql('127.0.0.1:{port}', 'a', 'b', 'c', 'd')",
    "SELECT * FROM postgresql('127.0.0.1:{port}', 'a', 'b', 'c', 'd')",
    "SELECT * FROM mongodb('127.0.0.1:{port}', 'a', 'b', 'c', 'd', 'x Int8')",
    "SELECT * FROM redis('127.0.0.1:{port}', 'x', 'x Int8')",
    "SELECT * FROM sqlite('{folder}/a.db', 't')",
    "SELECT * FROM odbc('a', 'b', 'c')",
    "SELECT * FROM jdbc('a', 'b')",
    "SELECT * FROM executable('a.sh', 'TSV', 'x Int8')",
    "SELECT * FROM Python('x')",
    "SELECT * FROM python(x)",
    "CREATE TABLE v (x String) ENGINE = Executable('a.sh', 'TSV')",
    "CREATE TABLE v (x String) ENGINE = ExecutablePool('a.sh', 'TSV')",
    "CREATE TABLE v (x String) ENGINE = URL('http://127.0.0.1:{port}/', 'LineAsString')",
    "CREATE TABLE v (x String) ENGINE = S3('http://127.0.0.1:{port}/bucket/key', 'LineAsString')",
    "CREATE TABLE v (x String) ENGINE = MySQL('127.0.0.1:{port}', 'a', 'b', 'c', 'd')",
    "CREATE TABLE v (x String) ENGINE = PostgreSQL('127.0.0.1:{port}', 'a', 'b', 'c', 'd')",
    "CREATE TABLE v (x String) ENGINE = Kafka('127.0.0.1:{port}', 'a', 'b', 'JSON')",
    "CREATE TABLE v (x String) ENGINE = Distributed('default', 'system', 'one')",
    "CREATE DATABASE v ENGINE = MySQL('127.0.0.1:{port}', 'a', 'b', 'c')",
    "CREATE DATABASE v ENGINE = PostgreSQL('127.0.0.1:{port}', 'a', 'b', 'c')",
    "CREATE DATABASE v ENGINE = SQLite('{folder}/a.db')",
    "CREATE DATABASE v ENGINE = Filesystem('{folder}')",
    *(
        f"CREATE DICTIONARY v (id UInt64, x String) PRIMARY KEY id SOURCE({source} format 'TSV')) LAYOUT(FLAT())"
        for source in ("FILE(path '{secret}'", "EXECUTABLE(command 'id'", "HTTP(url 'http://127.0.0.1:{port}'")
    ),
    "CREATE FUNCTION v AS (x) -> file(x)",
    "CREATE USER v",
    "GRANT FILE ON *.* TO default",
    "CREATE NAMED COLLECTION v AS url = 'http://127.0.0.1:{port}'",
    "SYSTEM SHUTDOWN",
    "SYSTEM RELOAD CONFIG",
    "SET dialect = 'kusto'",
    "SELECT 1; SELECT file('{secret}')",
    # Names that only the engine's parser can read
    "SELECT `fi\\x6ce`('{secret}')",
    "SELECT \"f\\x69le\"('{secret}')",
    "SELECT FILE('{secret}')",
    "INSERT INTO t SETTINGS max_threads = 1 SELECT 1, file('{secret}'), NULL FORMAT TSV",
]


@pytest.mark.parametrize("statement", REACHING)
def test_no_statement_reaches_a_file_an_address_or_a_program(
    client: Client, server: ClickHouse, tmp_path: Path, statement: str
) -> None:
    secret, folder = tmp_path / "secret", tmp_path / "folder"
    secret.write_text("s3cret-content")
    folder.mkdir()
    client.command("DROP TABLE IF EXISTS v")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        sql = statement.format(secret=secret, folder=folder, port=listener.getsockname()[1])
        requests = [
            ask(server, "Host: localhost", key(server), path=f"/?query={quote(sql)}", method="POST"),
            # Put together from two parts, as `INSERT ... VALUES` comes.
            post(server, query=sql[:7], body=sql[7:]) if sql[6] == " " else b" 403 ",
        ]
        with pytest.raises(BlockingIOError):
            listener.accept()

    for answer in requests:
        assert not answer.startswith(b"HTTP/1.1 200 "), answer
        assert b"s3cret" not in answer
    assert list(folder.iterdir()) == []
    assert count(client) == 0
    assert client.command("SELECT count() FROM system.tables WHERE name = 'v'") == 0


def post(server: ClickHouse, *, query: str, body: str) -> bytes:
    data = body.encode()
    head = f"POST /?query={quote(query)} HTTP/1.1\r\nHost: localhost\r\n{key(server)}\r\nConnection: close\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        return b"".join(iter(lambda: connection.recv(4096), b""))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("format_template_row", "/etc/hostname"),
        ("dialect", "kusto"),
        ("input_format_record_errors_file_path", "/x"),
        ("output_format_schema", "/x"),
        ("select", "file('/etc/hostname')"),
        ("filter", "file('/etc/hostname') != ''"),
        ("additional_result_filter", "file('/etc/hostname') != ''"),
        ("input_format_values_interpret_expressions", "1"),
        ("input_format_values_deduce_templates_of_expressions", "1"),
    ],
)
def test_a_setting_that_names_a_file_is_refused_in_the_address_too(
    server: ClickHouse, setting: str, value: str
) -> None:
    answer = ask(server, "Host: localhost", key(server), path=f"/?query=SELECT+1&{setting}={quote(value)}")

    assert b"should not be changed" in answer


#: Settings with a text that says how something is shown, parsed, cached or named, and reaches nothing.
HARMLESS = frozenset(
    {
        "ai_function_embedding_default_credentials",
        "ai_function_text_default_credentials",
        "bool_false_representation",
        "bool_true_representation",
        "chdb_client_name",
        "cluster_for_parallel_replicas",
        "column_names_for_schema_inference",
        "compatibility",
        "compression",
        "count_distinct_implementation",
        "database",
        "default_format",
        "default_view_definer",
        "distributed_cache_client_id",
        "distributed_cache_file_cache_name",
        "distributed_plan_force_exchange_kind",
        "errors_output_format",
        "exclude_materialize_skip_indexes_on_insert",
        "filesystem_cache_name",
        "force_data_skipping_indices",
        "force_optimize_projection_name",
        "format",
        "format_csv_null_representation",
        "format_custom_field_delimiter",
        "format_custom_result_after_delimiter",
        "format_custom_result_before_delimiter",
        "format_custom_row_after_delimiter",
        "format_custom_row_before_delimiter",
        "format_custom_row_between_delimiter",
        "format_json_object_each_row_column_for_object_name",
        "format_regexp",
        "format_schema_message_name",
        "format_template_resultset_format",
        "format_template_row_format",
        "format_template_rows_between_delimiter",
        "format_tsv_null_representation",
        "framing_output_format",
        "function_implementation",
        "http_response_headers",
        "iceberg_metadata_compression_method",
        "ignore_data_skipping_indices",
        "implicit_table_at_top_level",
        "input_format",
        "input_format_mysql_dump_table_name",
        "input_format_orc_reader_time_zone_name",
        "insert_deduplication_token",
        "local_filesystem_read_method",
        "log_comment",
        "metrics_perf_events_list",
        "network_compression_method",
        "output_format",
        "output_format_avro_codec",
        "output_format_avro_confluent_subject",
        "output_format_avro_string_column_pattern",
        "output_format_image_terminal_mode",
        "output_format_orc_writer_time_zone_name",
        "output_format_pretty_grid_charset",
        "output_format_sql_insert_table_name",
        "polyglot_dialect",
        "preferred_optimize_projection_name",
        "promql_database",
        "promql_table",
        "query_cache_tag",
        "remote_filesystem_read_method",
        "s3_upload_checksum_algorithm",
        "s3queue_default_zookeeper_path",
        "schema_inference_hints",
        "send_logs_source_regexp",
        "stream_like_engine_insert_queue",
        "temporary_files_codec",
        "trace_profile_events_list",
        "workload",
    }
)


def test_every_setting_with_a_text_is_known_to_reach_nothing_or_cannot_be_changed(client: Client) -> None:
    """A newer engine has new ones: look at what each does before it is added here."""
    names = client.query("SELECT name FROM system.settings WHERE type IN ('String', 'Map') AND NOT readonly")

    assert {name for (name,) in names.result_rows} - HARMLESS == set()


def test_what_tables_need_goes_on_working(client: Client) -> None:
    client.command("CREATE DATABASE IF NOT EXISTS more")
    for statement in (
        "DROP TABLE IF EXISTS more.a, more.b, more.c SYNC",
        "CREATE TABLE more.a (x UInt64, file String DEFAULT 'INTO OUTFILE file(') ENGINE = MergeTree ORDER BY x",
        "INSERT INTO more.a (x) SELECT number FROM numbers(3)",
        "INSERT INTO more.a (x) VALUES (7), (8);",
        "INSERT INTO more.a (file, x) SELECT max(file), 1 FROM more.a WHERE x > 100 HAVING count(file) > 0",
        "CREATE MATERIALIZED VIEW more.b ENGINE = SummingMergeTree ORDER BY x AS SELECT x FROM more.a",
        "CREATE VIEW more.c AS SELECT * FROM more.a",
        "ALTER TABLE more.a ADD COLUMN y UInt64 DEFAULT 1, MODIFY SETTING non_replicated_deduplication_window = 10",
        "ALTER TABLE more.a ADD INDEX i y TYPE minmax, ADD CONSTRAINT small CHECK x < 100",
        "ALTER TABLE more.a DELETE WHERE x = 8 SETTINGS mutations_sync = 2",
        "RENAME TABLE more.c TO more.d",
        "OPTIMIZE TABLE more.a FINAL",
        "CHECK TABLE more.a",
        "EXPLAIN SELECT * FROM more.a",
        "SHOW CREATE TABLE more.a",
    ):
        client.command(statement)

    assert client.query("SELECT x, file FROM more.d ORDER BY x -- file(").result_rows == [
        (number, "INTO OUTFILE file(") for number in (0, 1, 2, 7)
    ]
    client.command("DROP DATABASE more SYNC")
