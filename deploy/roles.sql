-- The two Postgres logins for maintd's jobs, with least privileges. Run as superuser, in each database:
--
--   psql -d trading -v owner=trader -v ro_password="'…'" -v op_password="'…'" -f deploy/roles.sql
--
-- maintd_ro is for reading: health_check, database_size, query_review, capacity_report, trading_review, performance_report.
-- maintd_op is for vacuum, reindex and backup. Up to Postgres 16 only the owner of a table may vacuum it, so it joins the owner's
-- role; from 17 on, GRANT pg_maintain is enough.

CREATE EXTENSION IF NOT EXISTS pgstattuple;  -- exact bloat; without it vacuum and reindex estimate
CREATE EXTENSION IF NOT EXISTS amcheck;      -- damaged indexes and tables, for database_size

-- The counters of statements, for query_review. It needs shared_preload_libraries = 'pg_stat_statements' and a restart, too;
-- until then query_review reports these steps.
SELECT 'CREATE EXTENSION IF NOT EXISTS pg_stat_statements'
WHERE EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pg_stat_statements') \gexec

-- A role belongs to the whole server: in a further database it exists already, and only gets its rights there.
SELECT 'CREATE ROLE maintd_ro LOGIN CONNECTION LIMIT 8'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'maintd_ro') \gexec
ALTER ROLE maintd_ro PASSWORD :ro_password;
ALTER ROLE maintd_ro SET default_transaction_read_only = on;
ALTER ROLE maintd_ro SET statement_timeout = '30s';
GRANT pg_monitor TO maintd_ro;
-- The tables that trading_review and performance_report query, and sequences near their end.
GRANT pg_read_all_data TO maintd_ro;

SELECT 'CREATE ROLE maintd_op LOGIN CONNECTION LIMIT 4'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'maintd_op') \gexec
ALTER ROLE maintd_op PASSWORD :op_password;
GRANT pg_monitor TO maintd_op;
GRANT :"owner" TO maintd_op;
-- backup dumps all tables of all schemas. Tables with row-level security need BYPASSRLS, too.
GRANT pg_read_all_data TO maintd_op;

-- security_audit and config_review: who is let in by pg_hba.conf.
GRANT SELECT ON pg_hba_file_rules TO maintd_ro, maintd_op;
GRANT EXECUTE ON FUNCTION pg_hba_file_rules() TO maintd_ro, maintd_op;

-- Only where backup makes base backups (its param base_backups): psql … -v base_backups=on. pg_hba.conf then needs a line
-- `host replication maintd_op ADDRESS scram-sha-256`. A role with REPLICATION can read all data of the server.
\if :{?base_backups}
ALTER ROLE maintd_op REPLICATION;
\endif

-- Only where data may be rolled back by maintd (docs/rollback.md): psql … -v rollback=on. It may then create databases, and end
-- sessions of others, but those of superusers.
\if :{?rollback}
ALTER ROLE maintd_op CREATEDB;
GRANT pg_signal_backend TO maintd_op;
\endif

SELECT format('GRANT USAGE ON SCHEMA %I TO maintd_ro, maintd_op', n.nspname)
FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace
WHERE e.extname IN ('amcheck', 'pgstattuple', 'pg_stat_statements', 'hypopg') \gexec
-- database_size checks for damage with the login of the target that it is given, which may be either.
SELECT format('GRANT EXECUTE ON FUNCTION %s TO maintd_ro, maintd_op', p.oid::regprocedure)
FROM pg_proc AS p
JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
JOIN pg_extension AS e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
WHERE e.extname = 'amcheck' AND p.proname IN ('bt_index_check', 'verify_heapam') \gexec

-- config_review: errors in the server's files.
GRANT SELECT ON pg_file_settings TO maintd_ro, maintd_op;
GRANT EXECUTE ON FUNCTION pg_show_all_file_settings() TO maintd_ro, maintd_op;
