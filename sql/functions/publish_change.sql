-- SECURITY INVOKER on purpose: to_jsonb() runs casts to json that the owners of column types have
-- written, and they must not run with more rights than whoever changes the table. Without a SET
-- clause, so that these casts find what they always find; every name here is qualified instead. Calls
-- into schema amqp have all arguments in their exact types: an overload that the owner of the schema
-- may add cannot come before them.
CREATE FUNCTION amqp.publish_change() RETURNS trigger
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
DECLARE
    operation pg_catalog.text := pg_catalog.lower(TG_OP);
    broker_id integer := TG_ARGV[0];
    exchange pg_catalog.text := TG_ARGV[1];
    template pg_catalog.text := COALESCE(TG_ARGV[2], pg_catalog.format('%s.%s.%s', TG_TABLE_SCHEMA, TG_TABLE_NAME, operation));
    has_placeholders boolean := TG_NARGS OPERATOR(pg_catalog.=) 3 AND pg_catalog.strpos(template, '{') OPERATOR(pg_catalog.>) 0;
    new_row pg_catalog.jsonb;
    old_row pg_catalog.jsonb;
    changed pg_catalog.jsonb;
    new_table pg_catalog.name;
    old_table pg_catalog.name;
    rows_changed pg_catalog.text;
    as_many boolean;
BEGIN
    -- Below, functions of schema amqp are called by name. An owner of the schema who is no superuser
    -- could have renamed it and put another in its place, for superusers to run his functions.
    IF pg_catalog.current_setting('is_superuser') OPERATOR(pg_catalog.=) 'on' AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_trigger AS t
        JOIN pg_catalog.pg_proc AS p ON p.oid OPERATOR(pg_catalog.=) t.tgfoid
        JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
        WHERE t.tgrelid OPERATOR(pg_catalog.=) TG_RELID AND t.tgname OPERATOR(pg_catalog.=) TG_NAME
          AND n.nspname OPERATOR(pg_catalog.=) 'amqp'
    ) THEN
        RAISE EXCEPTION 'the schema of extension "pg_amqp_py" is no longer named "amqp"'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF TG_NARGS OPERATOR(pg_catalog.<) 2 OR TG_NARGS OPERATOR(pg_catalog.>) 3 OR broker_id IS NULL THEN
        RAISE EXCEPTION 'trigger "%" has the wrong arguments for amqp.publish_change()', TG_NAME
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'EXECUTE FUNCTION amqp.publish_change(broker_id, exchange [, routing key template])';
    END IF;
    IF TG_WHEN OPERATOR(pg_catalog.<>) 'AFTER' THEN
        RAISE EXCEPTION 'trigger "%" must be an AFTER trigger to publish changes', TG_NAME
            USING ERRCODE = 'invalid_object_definition',
                  DETAIL = 'Before the operation, the row may still change or not come to be.';
    END IF;

    IF TG_LEVEL OPERATOR(pg_catalog.=) 'ROW' OR TG_OP OPERATOR(pg_catalog.=) 'TRUNCATE' THEN
        IF TG_LEVEL OPERATOR(pg_catalog.=) 'ROW' THEN
            IF TG_OP OPERATOR(pg_catalog.<>) 'DELETE' THEN
                new_row := pg_catalog.to_jsonb(NEW);
            END IF;
            IF TG_OP OPERATOR(pg_catalog.<>) 'INSERT' THEN
                old_row := pg_catalog.to_jsonb(OLD);
            END IF;
            IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
                changed := amqp.changed_columns(new_row, old_row);
            END IF;
        END IF;
        PERFORM amqp.publish(
            broker_id,
            exchange,
            CASE WHEN has_placeholders
                 THEN amqp.change_routing_key(template, operation, TG_TABLE_SCHEMA, TG_TABLE_NAME, new_row, old_row)
                 ELSE template END,
            amqp.change_message(operation, TG_TABLE_SCHEMA, TG_TABLE_NAME, new_row, old_row, changed),
            NULL::integer, 'application/json'::pg_catalog.text, NULL::pg_catalog.text, NULL::pg_catalog.text, NULL::boolean, NULL::pg_catalog.jsonb, NULL::pg_catalog.text,
            NULL::integer, NULL::pg_catalog.text, NULL::pg_catalog.text, NULL::pg_catalog.timestamptz, NULL::pg_catalog.text,
            NULL::pg_catalog.text, NULL::pg_catalog.text);
        RETURN NULL;
    END IF;

    -- Once for the statement: one pass over its transition tables, one message for each row.
    SELECT t.tgnewtable, t.tgoldtable INTO new_table, old_table
    FROM pg_catalog.pg_trigger AS t
    WHERE t.tgrelid OPERATOR(pg_catalog.=) TG_RELID AND t.tgname OPERATOR(pg_catalog.=) TG_NAME;
    IF new_table IS NULL AND TG_OP OPERATOR(pg_catalog.<>) 'DELETE'
       OR old_table IS NULL AND TG_OP OPERATOR(pg_catalog.<>) 'INSERT' THEN
        RAISE EXCEPTION 'trigger "%" has no transition tables to publish changes from', TG_NAME
            USING ERRCODE = 'invalid_object_definition',
                  HINT = 'Add REFERENCING NEW TABLE AS new_rows (INSERT), OLD TABLE AS old_rows (DELETE) or both (UPDATE), or use FOR EACH ROW.';
    END IF;
    -- Both tables of an UPDATE hold the same rows in the same order, unless a row that moved to another
    -- partition was swallowed there by a BEFORE trigger: then nobody can tell which.
    IF TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN
        EXECUTE pg_catalog.format(
            'SELECT (SELECT pg_catalog.count(*) FROM %I) OPERATOR(pg_catalog.=) (SELECT pg_catalog.count(*) FROM %I)',
            new_table, old_table) INTO as_many;
        IF NOT as_many THEN
            RAISE EXCEPTION 'trigger "%" cannot tell which old row belongs to which new row', TG_NAME
                USING ERRCODE = 'feature_not_supported',
                      DETAIL = 'A trigger of a partition has suppressed a row that was moved there.',
                      HINT = 'Publish the changes of this table FOR EACH ROW.';
        END IF;
    END IF;
    rows_changed := CASE
        WHEN TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN pg_catalog.format(
            'SELECT pg_catalog.to_jsonb(n.*) AS new_row, NULL::pg_catalog.jsonb AS old_row FROM %I AS n', new_table)
        WHEN TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN pg_catalog.format(
            'SELECT NULL::pg_catalog.jsonb AS new_row, pg_catalog.to_jsonb(o.*) AS old_row FROM %I AS o', old_table)
        ELSE pg_catalog.format(
            'SELECT n.r AS new_row, o.r AS old_row
             FROM (SELECT pg_catalog.to_jsonb(t.*) AS r, pg_catalog.row_number() OVER () AS position FROM %I AS t) AS n
             JOIN (SELECT pg_catalog.to_jsonb(t.*) AS r, pg_catalog.row_number() OVER () AS position FROM %I AS t) AS o
               ON n.position OPERATOR(pg_catalog.=) o.position
             ORDER BY n.position USING OPERATOR(pg_catalog.<)', new_table, old_table)
        END;
    EXECUTE pg_catalog.format(
        'SELECT amqp.publish($1, $2, %s, amqp.change_message($4, $5, $6, c.new_row, c.old_row, %s),
                NULL::integer, ''application/json''::pg_catalog.text, NULL::pg_catalog.text, NULL::pg_catalog.text, NULL::boolean, NULL::pg_catalog.jsonb, NULL::pg_catalog.text,
                NULL::integer, NULL::pg_catalog.text, NULL::pg_catalog.text, NULL::pg_catalog.timestamptz, NULL::pg_catalog.text,
                NULL::pg_catalog.text, NULL::pg_catalog.text)
         FROM (%s) AS c',
        CASE WHEN has_placeholders
             THEN 'amqp.change_routing_key($3, $4, $5, $6, c.new_row, c.old_row)' ELSE '$3' END,
        CASE WHEN TG_OP OPERATOR(pg_catalog.=) 'UPDATE' THEN 'amqp.changed_columns(c.new_row, c.old_row)' ELSE 'NULL::pg_catalog.jsonb' END,
        rows_changed)
    USING broker_id, exchange, template, operation, TG_TABLE_SCHEMA, TG_TABLE_NAME;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION amqp.publish_change() IS
'Trigger function that publishes every change of a table: CREATE TRIGGER ... AFTER INSERT OR UPDATE OR DELETE ON t FOR EACH ROW EXECUTE FUNCTION amqp.publish_change(broker_id, exchange [, routing key template]). FOR EACH STATEMENT it needs transition tables (REFERENCING) and publishes one message a row too; for TRUNCATE one message without rows. The message is JSON: operation, schema, table, new, old, changed (columns, for UPDATE), transaction_id, time. The routing key is schema.table.operation, or the template with {op}, {schema}, {table}, {new.column} and {old.column} filled in. Runs with the rights of whoever changes the table, who needs USAGE on schema amqp. Errors: those of amqp.publish(), 22023 and 42P17 for a trigger that is defined wrongly.';
