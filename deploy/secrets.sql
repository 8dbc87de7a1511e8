-- What secrets_rotate needs to rotate the password of an application with two roles that take turns. Run as superuser, in
-- one database, again after an upgrade to Postgres 16:
--
--   psql -d trading -v owner=trader -v a=app_a -v b=app_b -v password="'…'" -f deploy/secrets.sql
--
-- owner: the role that owns the tables. Both roles are members of it and act as it, so that they own nothing themselves.
-- Neither can log in yet: set the password of the first by hand (\password app_a), write name and password into the files
-- that the application reads, and ALTER ROLE app_a LOGIN.
-- maintd_secrets is the login of the Postgres target that the secret names. Up to Postgres 15, CREATEROLE may change every
-- role that is no superuser, so use this login for nothing else. From 16 on it may change only these two.
-- A single role needs nothing of this: it changes its own password.

SELECT 'CREATE ROLE maintd_secrets LOGIN CONNECTION LIMIT 3'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'maintd_secrets') \gexec
ALTER ROLE maintd_secrets CREATEROLE NOCREATEDB PASSWORD :password;

SELECT format('CREATE ROLE %I NOLOGIN', name) FROM (VALUES (:'a'), (:'b')) AS wanted (name)
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
GRANT :"owner" TO :"a", :"b";
ALTER ROLE :"a" SET role = :'owner';
ALTER ROLE :"b" SET role = :'owner';

SELECT format('GRANT %I TO maintd_secrets WITH ADMIN OPTION, INHERIT FALSE, SET FALSE', name)
FROM (VALUES (:'a'), (:'b')) AS wanted (name)
WHERE current_setting('server_version_num')::int >= 160000 \gexec
