-- The users of the event log, for an administrator with access management. Can be repeated: passwords, rights and limits
-- are then set anew. In a container, users.sh runs it; elsewhere:
--   clickhouse-client --user ... --param_migrator_password=... --param_writer_password=... --param_reader_password=... \
--       --param_verifier_password=... --param_explorer_password=... --param_keeper_password=... --queries-file users.sql
--   towpath_migrator  creates the table, adds columns and indexes (`manage.py eventlog migrate`); cannot drop or delete
--   towpath_writer    the pipeline: inserts, and reads back which rows of a window are stored, never a payload
--   towpath_reader    the web application and people: reads, within the limits of its profile
--   towpath_verifier  the dispatcher's verification, and audits: reads every column of event_log, and nothing else
--   towpath_explorer  the explorer, in the web process: reads event_log, and nothing else, within tight limits
--   towpath_keeper    a person or a timer, never a process that runs: drops months (`manage.py eventlog retain`) and
--                     rewrites rows (`manage.py eventlog erase`); cannot insert, alter or drop the table

CREATE DATABASE IF NOT EXISTS towpath;

-- Only replicated tables heed the quorum: an insert is answered when most replicas have it, and one after the other, which
-- is what makes the read-back (select_sequential_consistency) see every acknowledged row.
CREATE SETTINGS PROFILE OR REPLACE towpath_writer SETTINGS
    insert_quorum = 'auto',
    insert_quorum_parallel = 0,
    insert_quorum_timeout = 20000,
    max_memory_usage = 4000000000;

-- readonly: the limits cannot be raised from inside a query.
CREATE SETTINGS PROFILE OR REPLACE towpath_reader SETTINGS
    readonly = 1,
    max_execution_time = 60,
    max_memory_usage = 2000000000,
    max_threads = 4,
    max_concurrent_queries_for_user = 20,
    max_result_bytes = 1000000000,
    result_overflow_mode = 'throw';

-- Beside the inserts: two threads, and memory that leaves them theirs. readonly = 2: nothing is written, and a query may
-- bring the settings that its meaning rests on, as the pipeline's do. What is CONST, it may not change.
CREATE SETTINGS PROFILE OR REPLACE towpath_verifier SETTINGS
    readonly = 2,
    max_execution_time = 300,
    max_memory_usage = 2000000000 CONST,
    max_memory_usage_for_user = 2000000000 CONST,
    max_threads = 2 CONST,
    max_concurrent_queries_for_user = 4 CONST;

-- Many people at the same time, beside the inserts. A query may ask for less time and never for more, and never for none,
-- which is what 0 would be. A limit is an error, which the explorer answers with a shorter period. A closed tab ends its
-- query.
CREATE SETTINGS PROFILE OR REPLACE towpath_explorer SETTINGS
    readonly = 2,
    max_execution_time = 10 MIN 0.001 MAX 10,
    max_memory_usage = 1000000000 CONST,
    max_memory_usage_for_user = 3000000000 CONST,
    max_threads = 2 CONST,
    max_concurrent_queries_for_user = 20 CONST,
    max_rows_to_read = 1000000000 CONST,
    max_bytes_to_read = 100000000000 CONST,
    max_result_rows = 1000000 CONST,
    max_result_bytes = 500000000 CONST,
    cancel_http_readonly_queries_on_client_close = 1 CONST;

-- A server drops no partition above 50 GB without this; a month may be larger.
CREATE SETTINGS PROFILE OR REPLACE towpath_keeper SETTINGS
    max_partition_size_to_drop = 0,
    max_memory_usage = 4000000000,
    max_threads = 2;

CREATE USER OR REPLACE towpath_migrator IDENTIFIED WITH sha256_password BY {migrator_password:String};
CREATE USER OR REPLACE towpath_writer IDENTIFIED WITH sha256_password BY {writer_password:String}
    SETTINGS PROFILE 'towpath_writer';
CREATE USER OR REPLACE towpath_reader IDENTIFIED WITH sha256_password BY {reader_password:String}
    SETTINGS PROFILE 'towpath_reader';
CREATE USER OR REPLACE towpath_verifier IDENTIFIED WITH sha256_password BY {verifier_password:String}
    SETTINGS PROFILE 'towpath_verifier';
CREATE USER OR REPLACE towpath_explorer IDENTIFIED WITH sha256_password BY {explorer_password:String}
    SETTINGS PROFILE 'towpath_explorer';
CREATE USER OR REPLACE towpath_keeper IDENTIFIED WITH sha256_password BY {keeper_password:String}
    SETTINGS PROFILE 'towpath_keeper';

GRANT CREATE TABLE, ALTER ADD COLUMN, ALTER ADD INDEX, ALTER SETTINGS ON towpath.* TO towpath_migrator;
-- Asked for with access_control_improvements.table_engines_require_grant only.
GRANT TABLE ENGINE ON MergeTree TO towpath_migrator;
GRANT TABLE ENGINE ON ReplicatedMergeTree TO towpath_migrator;
GRANT SELECT, INSERT ON towpath.event_log_migration TO towpath_migrator;
GRANT SELECT ON towpath.event_log TO towpath_migrator;
GRANT INSERT, SELECT(outbox, outbox_id, window_id) ON towpath.event_log TO towpath_writer;
GRANT SELECT ON towpath.event_log_migration TO towpath_writer, towpath_reader;
GRANT SELECT ON towpath.event_log TO towpath_reader, towpath_verifier, towpath_explorer;
-- DROP PARTITION asks for ALTER DELETE, and is all that it is for.
GRANT SELECT, ALTER DELETE, ALTER UPDATE ON towpath.event_log TO towpath_keeper;
-- Whether a row policy hides rows from the pipeline, and what the server sets for every table.
GRANT SELECT ON system.parts TO towpath_writer, towpath_verifier, towpath_keeper;
-- How far a rewrite is.
GRANT SELECT ON system.mutations TO towpath_keeper;
GRANT SELECT ON system.merge_tree_settings TO towpath_migrator, towpath_writer;
