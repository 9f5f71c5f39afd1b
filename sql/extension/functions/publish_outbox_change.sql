-- Finds what it calls by what was parsed when this was created. The schema is found like that, too: its name may have
-- become another one's.
CREATE FUNCTION amqp_python.publish_outbox_change(broker_id integer, exchange text, routing_key text, message text) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
RETURN CASE WHEN pg_catalog.has_schema_privilege('amqp'::pg_catalog.regnamespace, 'USAGE')
            THEN amqp.publish_outbox_change($1, $2, $3, $4)
            ELSE amqp_python.deny_publishing() END;

COMMENT ON FUNCTION amqp_python.publish_outbox_change(integer, text, text, text) IS
'Part of amqp.publish_change_outbox(): amqp.publish_outbox_change(), for whoever has USAGE on '
'schema amqp.';

CREATE FUNCTION amqp_python.publish_outbox_change(
    broker_id integer, exchange text, routing_key text, message text, properties jsonb, ordering_key text
) RETURNS boolean
LANGUAGE sql VOLATILE PARALLEL UNSAFE
RETURN CASE WHEN pg_catalog.has_schema_privilege('amqp'::pg_catalog.regnamespace, 'USAGE')
            THEN amqp.publish_outbox_change($1, $2, $3, $4, $5, $6)
            ELSE amqp_python.deny_publishing() END;

COMMENT ON FUNCTION amqp_python.publish_outbox_change(integer, text, text, text, jsonb, text) IS
'Part of amqp.publish_change_outbox(): amqp.publish_outbox_change(), for whoever has USAGE on '
'schema amqp.';
