-- The three roles of a Towpath database. For psql as a superuser, in that database, with the passwords in the environment:
--   psql -v ON_ERROR_STOP=1 --dbname towpath --file roles.sql
-- Can be repeated: it then sets the passwords anew. What a role may do with which table comes with the tables, after
-- `manage.py migrate`: `python -m deploy.postgres.grants`.
--   towpath_migrator  owns the tables; runs migrations and grants, and nothing else
--   towpath_web       the application's own tables; adds to outboxes
--   towpath_pipeline  the ledger; reads and deletes outbox rows; reads what lean outboxes refer to

\getenv migrator_password POSTGRES_MIGRATOR_PASSWORD
\getenv web_password POSTGRES_WEB_PASSWORD
\getenv pipeline_password POSTGRES_PIPELINE_PASSWORD

SELECT format('CREATE ROLE %I', name) FROM unnest(ARRAY['towpath_migrator', 'towpath_web', 'towpath_pipeline']) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec

-- An unset variable is a syntax error here, and not an empty password.
ALTER ROLE towpath_migrator LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB PASSWORD :'migrator_password';
ALTER ROLE towpath_web LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB PASSWORD :'web_password';
ALTER ROLE towpath_pipeline LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB PASSWORD :'pipeline_password';

-- So that no role takes the connections of another: of 100 that the server allows, the web gets 40, the pipeline 50 and
-- the migrator 5. What a fleet needs is in docs/deployment.md; POSTGRES_WEB_CONNECTIONS and so on set other numbers.
\getenv migrator_connections POSTGRES_MIGRATOR_CONNECTIONS
\getenv web_connections POSTGRES_WEB_CONNECTIONS
\getenv pipeline_connections POSTGRES_PIPELINE_CONNECTIONS
SELECT setting::int * 5 / 100 AS migrator_share, setting::int * 40 / 100 AS web_share,
       setting::int * 50 / 100 AS pipeline_share
FROM pg_settings WHERE name = 'max_connections' \gset
\if :{?migrator_connections}
\else
  \set migrator_connections :migrator_share
\endif
\if :{?web_connections}
\else
  \set web_connections :web_share
\endif
\if :{?pipeline_connections}
\else
  \set pipeline_connections :pipeline_share
\endif
ALTER ROLE towpath_migrator CONNECTION LIMIT :migrator_connections;
ALTER ROLE towpath_web CONNECTION LIMIT :web_connections;
ALTER ROLE towpath_pipeline CONNECTION LIMIT :pipeline_connections;

-- An open transaction holds vacuum back in the whole database. None of these processes has a reason for one.
ALTER ROLE towpath_web SET idle_in_transaction_session_timeout = '5min';
ALTER ROLE towpath_pipeline SET idle_in_transaction_session_timeout = '5min';

REVOKE ALL ON DATABASE :"DBNAME" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"DBNAME" TO towpath_migrator, towpath_web, towpath_pipeline;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO towpath_migrator;
GRANT USAGE ON SCHEMA public TO towpath_web, towpath_pipeline;
