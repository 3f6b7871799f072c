"""The endpoint through the client that the product uses, and over a bare socket where a client behaves too well."""

from __future__ import annotations

import gzip
import socket
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from typing import TYPE_CHECKING

import lz4.frame  # type: ignore[import-untyped]
import pytest
from backports import zstd
from clickhouse_connect.driver.exceptions import DatabaseError

from tests.local_stack.conftest import connect, count
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from clickhouse_connect.driver.client import Client

    from deploy.local.clickhouse import ClickHouse

COLUMNS = ["id", "text", "note"]
NASTY = [
    "",
    "\\N",
    "\\",
    "\\\\N\\t",
    "tab\tnewline\nreturn\r\n",
    "quote ' double \" backtick `",
    "".join(map(chr, range(32))) + "\x7f",
    "emoji 😀 and \u2028 and é",
    "FORMAT TabSeparated\n1\tx\t\\N\n",
]


def tsv(rows: list[tuple[int, str, str | None]]) -> bytes:
    return "".join(f"{number}\t{escape(text)}\t{escape(note)}\n" for number, text, note in rows).encode()


def escape(text: str | None) -> str:
    if text is None:
        return "\\N"
    for plain, escaped in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(plain, escaped)
    return text


ROWS: list[tuple[int, str, str | None]] = [(number, f"text {number}", None) for number in range(1000)]


def test_every_byte_comes_back(client: Client) -> None:
    rows = [(number, text, note) for number, (text, note) in enumerate(zip(NASTY, [*NASTY[1:], None], strict=True))]

    summary = client.raw_insert("t", COLUMNS, tsv(rows), fmt="TabSeparated")

    assert summary.written_rows == len(rows)
    assert client.query("SELECT id, text, note FROM t ORDER BY id").result_rows == rows


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("lz4", lz4.frame.compress),
        ("zstd", zstd.compress),
    ],
)
def test_a_compressed_body_is_inserted(client: Client, encoding: str, compress: Callable[[bytes], bytes]) -> None:
    client.raw_insert("t", COLUMNS, compress(tsv(ROWS)), fmt="TabSeparated", compression=encoding)

    assert count(client) == len(ROWS)


def test_a_chunked_body_is_inserted_as_one_block(client: Client) -> None:
    body = tsv(ROWS)

    def chunks() -> Generator[bytes, None, None]:
        yield from (body[start : start + 777] for start in range(0, len(body), 777))

    client.raw_insert("t", COLUMNS, chunks(), fmt="TabSeparated")

    assert client.query("SELECT rows FROM system.parts WHERE table = 't' AND active").result_rows == [(1000,)]


def test_ten_thousand_rows_of_32_megabytes_are_one_block(client: Client) -> None:
    rows: list[tuple[int, str, str | None]] = [(number, "x" * 3300, None) for number in range(10_000)]

    client.raw_insert("t", COLUMNS, tsv(rows), fmt="TabSeparated")

    assert client.query("SELECT rows FROM system.parts WHERE table = 't' AND active").result_rows == [(10_000,)]


def test_a_row_of_50_megabytes_is_inserted(client: Client) -> None:
    client.raw_insert("t", COLUMNS, tsv([(1, "x" * 50 * 2**20, None)]), fmt="TabSeparated")

    assert client.query("SELECT length(text) FROM t").first_row == (50 * 2**20,)


def test_head_is_answered_as_get_without_a_body(server: ClickHouse) -> None:
    """As a health check asks, such as `wget --spider`."""
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=10)) as http:
        for path, status in (("/ping", 200), ("/", 403)):
            http.request("HEAD", path)
            head = http.getresponse()
            assert (head.status, head.read()) == (status, b"")
            assert head.headers["Content-Length"] != "0"
        http.request("GET", "/ping")
        assert http.getresponse().read() == b"Ok.\n"
    assert "Traceback" not in server.program.log.read_text()


def test_native_inserts_and_bound_parameters_work(client: Client) -> None:
    client.insert("t", [[1, NASTY[4], None], [2, "b", "c"]], column_names=COLUMNS)

    found = client.query("SELECT id, note FROM t WHERE text = {wanted:String}", parameters={"wanted": NASTY[4]})
    assert found.result_rows == [(1, None)]


def test_the_same_token_stores_once_and_another_one_again(client: Client) -> None:
    for token in ("first", "first", "second"):
        client.raw_insert("t", COLUMNS, tsv(ROWS), fmt="TabSeparated", settings={"insert_deduplication_token": token})

    assert count(client) == 2 * len(ROWS)


def test_settings_of_one_request_do_not_reach_the_next(client: Client) -> None:
    before = client.query("SELECT getSetting('max_block_size')").first_row

    within = client.query("SELECT getSetting('max_block_size')", settings={"max_block_size": 123}).first_row

    assert within == (123,)
    assert client.query("SELECT getSetting('max_block_size')").first_row == before


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("SELECT * FROM missing_table", 60),
        ("SELECT missing_column", 47),
        ("SELECT * FROM missing_database.t", 81),
        ("SELEKT 1", 62),
        ("SELECT sleep(1), number FROM numbers(3) SETTINGS max_block_size = 1, max_execution_time = 0.2", 159),
    ],
)
def test_an_error_carries_clickhouses_code(client: Client, query: str, code: int) -> None:
    with pytest.raises(DatabaseError) as caught:
        client.query(query)

    assert caught.value.code == code


def test_an_unknown_setting_is_refused_and_the_connection_lives_on(client: Client) -> None:
    with pytest.raises(DatabaseError) as caught:
        client.raw_insert("t", COLUMNS, tsv(ROWS), fmt="TabSeparated", settings={"no_such_setting": 1})

    assert caught.value.code == 115
    assert count(client) == 0


def test_a_row_that_does_not_parse_keeps_the_whole_insert_out(client: Client) -> None:
    with pytest.raises(DatabaseError) as caught:
        client.raw_insert("t", COLUMNS, tsv(ROWS) + b"not a number\tx\t\\N\n", fmt="TabSeparated")

    assert caught.value.code == 27
    assert count(client) == 0


HEAD = b"POST /?query=INSERT+INTO+t+FORMAT+TabSeparated HTTP/1.1\r\nHost: localhost\r\nX-ClickHouse-Key: %s\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        HEAD + b"Content-Length: 20\r\n\r\n" + b"1\ta\t\\N\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"7\r\n1\ta\t\\N\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"7\r\n1\ta\t\\N\n\r\n0\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"ff\r\n1\ta\t\\N\n",
    ],
    ids=["shorter than announced", "no last chunk", "last chunk unfinished", "cut within a chunk"],
)
def test_a_truncated_body_inserts_nothing(client: Client, server: ClickHouse, request_bytes: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(request_bytes.replace(b"%s", server.password.encode()))
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(1024)

    assert answer == b""
    assert count(client) == 0


def test_a_whole_body_over_a_bare_socket_is_answered_with_a_summary(client: Client, server: ClickHouse) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(
            HEAD % server.password.encode() + b"Connection: close\r\nContent-Length: 7\r\n\r\n1\ta\t\\N\n"
        )
        answer = b"".join(iter(lambda: connection.recv(4096), b""))

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'"written_rows": "1"' in answer
    assert count(client) == 1


def test_clients_at_once_lose_nothing(client: Client, server: ClickHouse) -> None:
    def insert_ten(worker: int) -> None:
        own = connect(server)
        for number in range(10):
            token = {"insert_deduplication_token": f"{worker}-{number}"}
            own.raw_insert("t", COLUMNS, tsv(ROWS), fmt="TabSeparated", settings=token)
        own.close()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(insert_ten, range(4)))

    assert count(client) == 4 * 10 * len(ROWS)


@pytest.mark.timing
def test_what_was_acknowledged_survives_kill_with_its_token(client: Client, server: ClickHouse) -> None:
    token = {"insert_deduplication_token": "before the kill"}
    client.raw_insert("t", COLUMNS, tsv(ROWS), fmt="TabSeparated", settings=token)

    server.kill()
    server.start()
    server.wait_until_ready()

    client = connect(server)
    client.raw_insert("t", COLUMNS, tsv(ROWS), fmt="TabSeparated", settings=token)
    assert count(client) == len(ROWS)
    client.close()


@pytest.mark.timing
def test_a_stop_finishes_the_running_request(client: Client, server: ClickHouse) -> None:
    answers: list[object] = []
    slow = "SELECT sleep(1.5) FROM numbers(1)"
    runner = threading.Thread(target=lambda: answers.append(client.query(slow).first_row))
    runner.start()
    watcher = connect(server)
    eventually(lambda: watcher.query("SELECT count() FROM system.processes").result_rows[0][0] > 1, seconds=10)
    watcher.close()

    server.stop()

    runner.join()
    assert answers == [(0,)]
    assert server.exit_code == 0
    server.start()
    server.wait_until_ready()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("ADD CONSTRAINT small CHECK id < 10", 469),
        ("MODIFY SETTING parts_to_delay_insert = 1, parts_to_throw_insert = 1", 252),
    ],
)
def test_rows_that_the_table_does_not_take_are_not_acknowledged(client: Client, change: str, code: int) -> None:
    """The rows can be parsed; it is the table that says no, after the last of them."""
    client.raw_insert("t", COLUMNS, tsv(ROWS[:1]), fmt="TabSeparated")
    client.command(f"ALTER TABLE t {change}")

    with pytest.raises(DatabaseError, match=f"Code: {code}"):
        client.raw_insert("t", COLUMNS, tsv(ROWS), fmt="TabSeparated")

    assert count(client) == 1
