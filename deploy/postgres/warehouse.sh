#!/bin/sh
# Run once, when the data folder is empty: makes the warehouse and the role that loads it, which owns this database and nothing else.
set -eu
# a variable of psql is quoted as a value; the password stands in no command line
psql --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\set password `printf '%s' "$WAREHOUSE_PASSWORD"`
CREATE ROLE warehouse LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'password';
CREATE DATABASE warehouse OWNER warehouse;
REVOKE CONNECT ON DATABASE warehouse FROM PUBLIC;
REVOKE CONNECT ON DATABASE postgres FROM PUBLIC;
SQL
