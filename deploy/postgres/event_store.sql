-- The five roles of an event store on PostgreSQL, in a database of its own. For psql as a superuser, in that database, with
-- the passwords in the environment:
--   psql -v ON_ERROR_STOP=1 --dbname event_log --file event_store.sql
-- Run it before `manage.py eventlog migrate`, which is towpath_writer's, and once more after it: rights come with the
-- table. Can be repeated: it then sets the passwords anew.
--   towpath_writer    the pipeline, and `eventlog migrate`: owns the tables. PostgreSQL lets only the owner of a table
--                     attach a partition, and the pipeline attaches one for each new month
--   towpath_reader    the web application and people: reads event_log
--   towpath_verifier  the dispatcher's verification, and audits: reads event_log, and nothing else
--   towpath_explorer  the explorer, in the web process: reads event_log, and nothing else, within limits
--   towpath_keeper    a person or a timer, never a process that runs: drops months (`eventlog retain`) and rewrites rows
--                     (`eventlog erase`). It is a member of towpath_writer, because only an owner drops a partition

\getenv writer_password POSTGRES_WRITER_PASSWORD
\getenv reader_password POSTGRES_READER_PASSWORD
\getenv verifier_password POSTGRES_VERIFIER_PASSWORD
\getenv explorer_password POSTGRES_EXPLORER_PASSWORD
\getenv keeper_password POSTGRES_KEEPER_PASSWORD

SELECT format('CREATE ROLE %I', name)
FROM unnest(ARRAY['towpath_writer', 'towpath_reader', 'towpath_verifier', 'towpath_explorer', 'towpath_keeper']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec

-- An unset variable is a syntax error here, and not an empty password.
ALTER ROLE towpath_writer LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB PASSWORD :'writer_password';
ALTER ROLE towpath_reader LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB PASSWORD :'reader_password';
ALTER ROLE towpath_verifier LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB PASSWORD :'verifier_password';
ALTER ROLE towpath_explorer LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB PASSWORD :'explorer_password';
ALTER ROLE towpath_keeper LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB INHERIT PASSWORD :'keeper_password';

-- Beside the inserts: one process for each query, and a few connections.
ALTER ROLE towpath_verifier SET max_parallel_workers_per_gather = 0;
ALTER ROLE towpath_verifier CONNECTION LIMIT 10;
-- A search takes the least of this time and its own. A limit is an error, which the explorer answers with a shorter period.
ALTER ROLE towpath_explorer SET statement_timeout = '10s';
ALTER ROLE towpath_explorer SET work_mem = '32MB';
ALTER ROLE towpath_explorer SET temp_file_limit = '1GB';
ALTER ROLE towpath_explorer SET max_parallel_workers_per_gather = 0;
ALTER ROLE towpath_explorer SET default_transaction_read_only = on;
ALTER ROLE towpath_explorer CONNECTION LIMIT 20;

REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME" TO towpath_writer, towpath_reader, towpath_verifier, towpath_explorer, towpath_keeper;
-- Where the rows of a write are until they are known to be good.
GRANT TEMPORARY ON DATABASE :"DBNAME" TO towpath_writer;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO towpath_writer;
GRANT USAGE ON SCHEMA public TO towpath_reader, towpath_verifier, towpath_explorer;
GRANT towpath_writer TO towpath_keeper;

-- Also tables that another role has made.
SELECT format('ALTER TABLE %s OWNER TO towpath_writer', pg_class.oid::regclass) FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('p', 'r') AND relowner <> 'towpath_writer'::regrole
AND relname ~ '^event_log(_token|_migration|_\d{4}_\d\d)?$' ORDER BY relname \gexec

SELECT 'GRANT SELECT ON event_log TO towpath_reader, towpath_verifier, towpath_explorer'
WHERE to_regclass('event_log') IS NOT NULL \gexec
