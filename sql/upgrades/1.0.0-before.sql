-- Complain if the script is sourced in psql rather than by ALTER EXTENSION.
\echo Use "ALTER EXTENSION pg_amqp_py UPDATE" to load this file. \quit

-- Behind this come the outbox, new since 1.0.0, and all functions as they are now, each in the place of what it was.
-- Columns of a result cannot be replaced.
DROP FUNCTION amqp.status();
-- Their work is done in amqp.publish_change() itself.
DROP FUNCTION amqp.change_message(text, name, name, jsonb, jsonb, jsonb), amqp.changed_columns(jsonb, jsonb);

