-- As amqp.publish_change(), whose comments say why it is as it is: what differs is where a message goes. What is retained
-- goes to amqp_inner.publish_outbox_change(), but under amqp.capture.
CREATE FUNCTION amqp.publish_change_mqtt() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
    operation pg_catalog.text := pg_catalog.lower(TG_OP COLLATE pg_catalog."C");
    new_row pg_catalog.jsonb;
    old_row pg_catalog.jsonb;
    changed pg_catalog.jsonb;
    is_published boolean;
    new_table pg_catalog.name;
    old_table pg_catalog.name;
    as_many boolean;
    properties pg_catalog.jsonb;
    template pg_catalog.text := COALESCE(NULLIF(TG_ARGV[1], ''), '{schema}/{table}/{op}');
    retained boolean;
    routing_key pg_catalog.text;
    pair record;
    detail pg_catalog.text;
    hint pg_catalog.text;
BEGIN
    IF TG_NARGS OPERATOR(pg_catalog.<) 1 OR TG_NARGS OPERATOR(pg_catalog.>) 3 THEN
        RAISE EXCEPTION 'trigger "%": amqp.publish_change_mqtt() takes 1 to 3 arguments, not %', TG_NAME, TG_NARGS
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'EXECUTE FUNCTION amqp.publish_change_mqtt(broker_id [, topic template [, properties]])';
    ELSIF TG_WHEN OPERATOR(pg_catalog.<>) 'AFTER' THEN
        RAISE EXCEPTION 'trigger "%" must be an AFTER trigger to publish changes', TG_NAME
            USING ERRCODE = 'invalid_object_definition',
                  DETAIL = 'Before the operation, the row may still change or not come to be.';
    ELSIF TG_ARGV[0] OPERATOR(pg_catalog.=) '' OR pg_catalog.ltrim(TG_ARGV[0], ' +-0123456789') OPERATOR(pg_catalog.<>) '' THEN
        RAISE EXCEPTION 'trigger "%" has "%" for a broker_id', TG_NAME, TG_ARGV[0]
            USING ERRCODE = 'invalid_text_representation',
                  DETAIL = 'The arguments of amqp.publish_change_mqtt() are broker_id, topic template and properties.',
                  HINT = 'The first argument is the broker_id, a number; the second is the topic template.';
    END IF;
    properties := amqp_inner.change_mqtt_properties(TG_ARGV[2]);
    retained := (properties OPERATOR(pg_catalog.->>) 'retain')::boolean
        AND NOT COALESCE(NULLIF(pg_catalog.current_setting('amqp.capture', true), ''), 'off')::boolean;

    IF TG_LEVEL OPERATOR(pg_catalog.=) 'ROW' OR TG_OP OPERATOR(pg_catalog.=) 'TRUNCATE' THEN
        @TRY_MQTT_CHANGE@
        RETURN NULL;
    END IF;

    -- Once for the statement: one pass over its transition tables, one message for each row.
    @TRANSITION_TABLES@
    -- The query of the others, but for the function that fills in the template.
    BEGIN
        EXECUTE pg_catalog.replace(
            amqp_inner.changed_rows_query(
                CASE WHEN retained THEN 'amqp_inner.publish_outbox_change' ELSE 'amqp_inner.@PUBLISH_OF_TRIGGERS@_change' END,
                operation, new_table, old_table, true, true, false),
            'amqp_inner.change_routing_key($3,', 'amqp_inner.change_topic($3,')
        USING TG_ARGV[0]::integer, properties OPERATOR(pg_catalog.->>) 'exchange', template,
            operation, TG_TABLE_SCHEMA, TG_TABLE_NAME,
            pg_catalog.concat(
                '{"operation" : "', operation, '", "schema" : ', pg_catalog.to_json(TG_TABLE_SCHEMA),
                ', "table" : ', pg_catalog.to_json(TG_TABLE_NAME), ', "new" : '),
            pg_catalog.concat(
                ', "transaction_id" : ', pg_catalog.pg_current_xact_id(), ', "time" : ', pg_catalog.to_json(pg_catalog.clock_timestamp()), '}'),
            properties, NULL::pg_catalog.text;
        RETURN NULL;
    EXCEPTION WHEN OTHERS THEN
        NULL;
    END;
    FOR pair IN EXECUTE amqp_inner.changed_rows(operation, new_table, old_table) LOOP
        NEW := pair.new_row;
        OLD := pair.old_row;
        @TRY_MQTT_CHANGE@
    END LOOP;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION amqp.publish_change_mqtt() IS
'Trigger function that publishes every change of a table to MQTT clients.
The JSON is that of amqp.publish_change(). Use it so: CREATE TRIGGER ... AFTER INSERT OR UPDATE OR
DELETE ON t FOR EACH ROW EXECUTE FUNCTION amqp.publish_change_mqtt(broker_id [, topic template [,
properties]]). The topic is schema/table/operation, or the template with {op}, {schema}, {table},
{new.column} and {old.column} filled in; a value that is empty or has / . * + or # is an error.
properties is a JSON object: qos (0 or 1, the default), retain, headers (user properties),
expiration in milliseconds, exchange (amq.topic). With retain, messages go through amqp.outbox and
pg-amqp relay, as those of amqp.publish_mqtt(). Runs with the rights of whoever changes the table,
who needs USAGE on schema amqp. Errors: those of amqp.publish_mqtt(), 42501 without USAGE on
schema amqp, 22023, 22P02 and 42P17 for a trigger that is defined wrongly, and whatever to_jsonb()
has against a row.';
