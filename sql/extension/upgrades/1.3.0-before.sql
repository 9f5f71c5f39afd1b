-- Complain if the script is sourced in psql rather than by ALTER EXTENSION.
\echo Use "ALTER EXTENSION pg_amqp_py UPDATE" to load this file. \quit

-- PostgreSQL puts schema amqp before its own: what its owner has put there would be taken for what is meant here.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- What users do not call has a schema of its own now. That of PL/Python becomes it: its functions hand on to those of schema
-- amqp, which come in their place.
ALTER SCHEMA amqp_python RENAME TO amqp_inner;
DROP FUNCTION
    amqp_inner.change_properties(text, boolean),
    amqp_inner.change_routing_key(text, text, name, name, jsonb, jsonb),
    amqp_inner.publish_outbox_change(integer, text, text, text),
    amqp_inner.publish_outbox_change(integer, text, text, text, jsonb, text);
ALTER FUNCTION amqp.broker_changed() SET SCHEMA amqp_inner;
-- Columns of a result cannot be replaced.
DROP FUNCTION amqp.status();
