-- The two Postgres logins for maintd's jobs, with least privileges. Run as superuser, in each database:
--
--   psql -d trading -v owner=trader -v ro_password="'…'" -v op_password="'…'" -f deploy/roles.sql
--
-- maintd_ro is for reading: health_check, database_size, capacity_report, trading_review, performance_report.
-- maintd_op is for vacuum and reindex. Up to Postgres 16 only the owner of a table may vacuum it, so it joins the owner's
-- role; from 17 on, GRANT pg_maintain is enough.

CREATE EXTENSION IF NOT EXISTS pgstattuple;  -- exact bloat; without it vacuum and reindex estimate
CREATE EXTENSION IF NOT EXISTS amcheck;      -- damaged indexes and tables, for database_size

CREATE ROLE maintd_ro LOGIN PASSWORD :ro_password CONNECTION LIMIT 8;
ALTER ROLE maintd_ro SET default_transaction_read_only = on;
ALTER ROLE maintd_ro SET statement_timeout = '30s';
GRANT pg_monitor TO maintd_ro;
-- The tables that trading_review and performance_report query, and sequences near their end.
GRANT pg_read_all_data TO maintd_ro;
GRANT EXECUTE ON FUNCTION bt_index_check(regclass, boolean) TO maintd_ro;
GRANT EXECUTE ON FUNCTION verify_heapam(regclass, boolean, boolean, text, bigint, bigint) TO maintd_ro;

CREATE ROLE maintd_op LOGIN PASSWORD :op_password CONNECTION LIMIT 4;
GRANT pg_monitor TO maintd_op;
GRANT :"owner" TO maintd_op;
