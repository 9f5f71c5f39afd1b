-- Complain if the script is sourced in psql rather than by ALTER EXTENSION.
\echo Use "ALTER EXTENSION pg_amqp_py UPDATE" to load this file. \quit

-- PostgreSQL puts schema amqp before its own: what its owner has put there would be taken for what is meant here.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
