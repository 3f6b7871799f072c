#!/bin/sh
# Runs users.sql when a container of the clickhouse-server image starts with an empty data folder.
set -eu
exec clickhouse-client --host 127.0.0.1 --user "$CLICKHOUSE_USER" --password "$CLICKHOUSE_PASSWORD" \
    --param_migrator_password="${CLICKHOUSE_MIGRATOR_PASSWORD:?}" \
    --param_writer_password="${CLICKHOUSE_WRITER_PASSWORD:?}" \
    --param_reader_password="${CLICKHOUSE_READER_PASSWORD:?}" \
    --param_verifier_password="${CLICKHOUSE_VERIFIER_PASSWORD:?}" \
    --param_explorer_password="${CLICKHOUSE_EXPLORER_PASSWORD:?}" \
    --param_keeper_password="${CLICKHOUSE_KEEPER_PASSWORD:?}" \
    --queries-file /towpath/users.sql
