-- The users of the event log, for an administrator with access management. Can be repeated: passwords, rights and limits
-- are then set anew. In a container, users.sh runs it; elsewhere:
--   clickhouse-client --user ... --param_migrator_password=... --param_writer_password=... --param_reader_password=... \
--       --queries-file users.sql
--   towpath_migrator  creates the table and adds columns (`manage.py eventlog migrate`); cannot drop or delete
--   towpath_writer    the pipeline: inserts, and reads back which rows of a window are stored, never a payload
--   towpath_reader    the web application and people: reads, within the limits of its profile

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

CREATE USER OR REPLACE towpath_migrator IDENTIFIED WITH sha256_password BY {migrator_password:String};
CREATE USER OR REPLACE towpath_writer IDENTIFIED WITH sha256_password BY {writer_password:String}
    SETTINGS PROFILE 'towpath_writer';
CREATE USER OR REPLACE towpath_reader IDENTIFIED WITH sha256_password BY {reader_password:String}
    SETTINGS PROFILE 'towpath_reader';

GRANT CREATE TABLE, ALTER ADD COLUMN, ALTER SETTINGS ON towpath.* TO towpath_migrator;
-- Asked for with access_control_improvements.table_engines_require_grant only.
GRANT TABLE ENGINE ON MergeTree TO towpath_migrator;
GRANT TABLE ENGINE ON ReplicatedMergeTree TO towpath_migrator;
GRANT SELECT, INSERT ON towpath.event_log_migration TO towpath_migrator;
GRANT SELECT ON towpath.event_log TO towpath_migrator;
GRANT INSERT, SELECT(outbox, outbox_id, window_id) ON towpath.event_log TO towpath_writer;
GRANT SELECT ON towpath.event_log_migration TO towpath_writer, towpath_reader;
GRANT SELECT ON towpath.event_log TO towpath_reader;
-- Whether a row policy hides rows from the pipeline, and what the server sets for every table.
GRANT SELECT ON system.parts TO towpath_writer;
GRANT SELECT ON system.merge_tree_settings TO towpath_migrator, towpath_writer;
