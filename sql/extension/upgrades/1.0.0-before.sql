-- Complain if the script is sourced in psql rather than by ALTER EXTENSION.
\echo Use "ALTER EXTENSION pg_amqp_py UPDATE" to load this file. \quit

-- PostgreSQL puts schema amqp before its own: what its owner has put there would be taken for what is meant here.
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);

-- What users do not call has a schema of its own now. That of PL/Python becomes it.
ALTER SCHEMA amqp_python RENAME TO amqp_inner;
ALTER FUNCTION amqp.broker_changed() SET SCHEMA amqp_inner;
ALTER FUNCTION amqp.broker_check() SET SCHEMA amqp_inner;
ALTER FUNCTION amqp.change_routing_key(text, text, name, name, jsonb, jsonb) SET SCHEMA amqp_inner;

-- Behind this come the outbox, new since 1.0.0, and all functions as they are now, each in the place of what it was.
-- Columns of a result cannot be replaced.
DROP FUNCTION amqp.status();
-- Their work is done in amqp.publish_change() itself.
DROP FUNCTION amqp.change_message(text, name, name, jsonb, jsonb, jsonb), amqp.changed_columns(jsonb, jsonb);

ALTER TABLE amqp.broker ADD COLUMN mqtt_port integer, ADD COLUMN mqtt_ssl boolean;
