-- What was stored before a crash and comes again is no fault of its own. Of what is not from the message, a time say,
-- nothing can be said.
CREATE FUNCTION amqp_inner.consumer_identical(consumer amqp.consumer, target text, key text[], again text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT format($sql$
    WHERE NOT (v.%I AND EXISTS (
        SELECT FROM %s AS t WHERE %s AND pg_catalog.record_image_eq(ROW(%s), ROW(%s))))$sql$,
        $4, $2,
        (SELECT string_agg(format('t.%1$I = v.%1$I', k), ' AND ') FROM unnest($3) AS k),
        string_agg(format('t.%I', c.name), ', '),
        -- As it would be stored; but a cast would cut what is too long.
        string_agg(CASE WHEN t.typcategory IN ('S', 'V') AND a.atttypid <> 'bpchar'::regtype THEN format('v.%I', c.name)
                        ELSE format('CAST(v.%I AS %s)', c.name, format_type(a.atttypid, a.atttypmod)) END, ', '))
    FROM amqp_inner.consumer_columns(($1).target_table, ($1).columns) AS c
    JOIN pg_attribute AS a ON a.attrelid = ($1).target_table AND a.attname = c.name
    JOIN pg_type AS t ON t.oid = a.atttypid
    WHERE COALESCE(c.source NOT IN ('now', 'redelivered'), true)
      AND COALESCE(strpos(amqp_inner.consumer_default(a.attrelid, a.attnum), '(') = 0, true);
END;

COMMENT ON FUNCTION amqp_inner.consumer_identical(amqp.consumer, text, text[], text) IS
'Part of the inbox: SQL that passes over redelivered messages whose row is in the target table
already.';
