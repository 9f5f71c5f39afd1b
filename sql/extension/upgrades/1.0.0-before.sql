-- Complain if the script is sourced in psql rather than by ALTER EXTENSION.
\echo Use "ALTER EXTENSION pg_amqp_py UPDATE" to load this file. \quit

-- PostgreSQL puts schema amqp before its own: what its owner has put there would be taken for what is meant here.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- Behind this come the outbox, new since 1.0.0, and all functions as they are now, each in the place of what it was.
-- Columns of a result cannot be replaced.
DROP FUNCTION amqp.status();
-- Their work is done in amqp.publish_change() itself.
DROP FUNCTION amqp.change_message(text, name, name, jsonb, jsonb, jsonb), amqp.changed_columns(jsonb, jsonb);

