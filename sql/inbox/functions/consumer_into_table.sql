CREATE FUNCTION amqp_inner.consumer_into_table(consumer amqp.consumer) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    target text;
    given record;
    key record;
    unfilled name;
    -- OFFSET: what is known already is not looked into again, whatever is wrong with it.
    source text := $sql$(
            SELECT s.*, t.again
            FROM pg_temp.amqp_stage AS s JOIN todo AS t ON t.n OPERATOR(pg_catalog.=) s.n OFFSET 0
        ) AS s$sql$;
    only_new text := '';
    distinct_on text := '';
    -- Beside the columns of the target, which may have any names.
    n text := 'n';
    again text := 'again';
    order_by text;
    on_conflict text := '';
BEGIN
    SELECT string_agg(quote_ident(k.name), ', ') AS names,
           string_agg(format('%s AS %I', k.expression, k.name), ', ') AS expressions,
           array_agg(k.name) AS columns,
           string_agg(format('%1$I = EXCLUDED.%1$I', k.name), ', ') AS assignments
    INTO given
    FROM amqp_inner.consumer_columns(consumer.target_table, consumer.columns) AS k;
    IF given.names IS NULL THEN
        RAISE EXCEPTION 'messages would fill no column of table "%"', consumer.target_table
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    WHILE n = ANY (given.columns) LOOP
        n := n || '_';
    END LOOP;
    WHILE again = ANY (given.columns) LOOP
        again := again || '_';
    END LOOP;
    order_by := format('v.%I', n);
    -- Otherwise each message would be found at fault. What a trigger fills in cannot be known.
    SELECT a.attname INTO unfilled
    FROM pg_attribute AS a
    JOIN pg_class AS c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
    WHERE a.attrelid = consumer.target_table AND a.attnum > 0 AND NOT a.attisdropped
      AND a.attnotnull AND a.attidentity = '' AND a.attgenerated = '' AND a.attname <> ALL (given.columns)
      AND amqp_inner.consumer_default(a.attrelid, a.attnum) IS NULL
      AND NOT EXISTS (SELECT FROM pg_trigger AS t WHERE t.tgrelid = c.oid AND t.tgtype & 7 = 7 AND t.tgenabled <> 'D')
    ORDER BY a.attnum LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'messages would leave column "%" of table "%" null, which it must not be', unfilled, consumer.target_table
            USING ERRCODE = 'not_null_violation', HINT = 'Name it in columns, or give it a default.';
    END IF;
    PERFORM amqp_inner.consumer_may_count(consumer.target_table, given.columns);
    SELECT format('%I.%I', ns.nspname, c.relname) INTO STRICT target
    FROM pg_class AS c JOIN pg_namespace AS ns ON ns.oid = c.relnamespace WHERE c.oid = consumer.target_table;
    key := amqp_inner.consumer_key(consumer.target_table, consumer.conflict_constraint);

    -- The body is parsed once a message: OFFSET keeps the planner from doing it for each column.
    IF consumer.columns IS NULL OR given.expressions LIKE '%j.body OPERATOR%' THEN
        source := source || $sql$
        CROSS JOIN LATERAL (
            SELECT pg_catalog.convert_from(s.body, 'UTF8')::pg_catalog.jsonb AS body OFFSET 0
        ) AS $sql$ || CASE WHEN consumer.columns IS NULL THEN 'b' ELSE 'j' END;
    END IF;
    IF consumer.columns IS NULL THEN
        source := source || format($sql$
        CROSS JOIN LATERAL pg_catalog.jsonb_populate_record(
            %s,
            CASE pg_catalog.jsonb_typeof(b.body) WHEN 'object' THEN b.body ELSE amqp_inner.consumer_no_object(b.body) END
        ) AS j$sql$,
            amqp_inner.consumer_defaults(consumer.target_table, target));
    END IF;

    IF consumer.on_conflict = 'ignore' THEN
        on_conflict := 'ON CONFLICT DO NOTHING';
    ELSIF consumer.on_conflict = 'update' THEN
        IF key.name IS NULL THEN
            RAISE EXCEPTION 'table "%" has no primary key', consumer.target_table
                USING ERRCODE = 'undefined_object', HINT = 'Name a unique constraint in conflict_constraint.';
        ELSIF NOT key.columns <@ given.columns THEN
            RAISE EXCEPTION 'messages do not fill all columns of constraint "%"', key.name
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        -- One statement cannot update a row twice: of several messages for it, the last one counts.
        SELECT string_agg(format('v.%I', k), ', ') INTO order_by FROM unnest(key.columns) AS k;
        distinct_on := format('DISTINCT ON (%s) ', order_by);
        order_by := format('%s, v.%I DESC', order_by, n);
        on_conflict := format('ON CONFLICT ON CONSTRAINT %I DO UPDATE SET %s', key.name, given.assignments);
    ELSIF key.columns <@ given.columns THEN
        only_new := amqp_inner.consumer_identical(consumer, target, key.columns, again);
    END IF;

    RETURN format(
        $sql$stored AS (
    INSERT INTO %s (%s)
    SELECT %s%s FROM (
        SELECT s.n AS %I, s.again AS %I, %s
        FROM %s
    ) AS v%s
    ORDER BY %s
    %s
    RETURNING 1
)$sql$,
        target, given.names, distinct_on, (SELECT string_agg(format('v.%I', k), ', ') FROM unnest(given.columns) AS k),
        n, again, given.expressions, source, only_new, order_by, on_conflict);
END
$$;

COMMENT ON FUNCTION amqp_inner.consumer_into_table(amqp.consumer) IS
'Part of the inbox: SQL that inserts the staged messages that are to be stored into a target table.
Errors: 42P01, 42703, 42704, 22023, 23502 the row does not fit the table.';
