CREATE FUNCTION amqp_inner.consumer_defaults(target regclass, name text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT CASE WHEN count(v.instead) = 0 THEN format('NULL::%s', $2)
                -- Only for what the message lacks: a sequence has side effects.
                ELSE format('ROW(%s)::%s', string_agg(CASE
                    -- Of the column's type without a cast, so that no domain looks at it.
                    WHEN v.instead IS NULL THEN format('(NULL::%s).%I', $2, v.attname)
                    ELSE format('CASE WHEN b.body OPERATOR(pg_catalog.?) %1$L THEN (NULL::%2$s).%1$I ELSE CAST(%3$s AS %4$s) END',
                                v.attname, $2, v.instead, v.type) END,
                    ', ' ORDER BY v.attnum), $2) END
    FROM (
        SELECT a.attnum, a.attname, format('%I.%I', n.nspname, t.typname) AS type,
               amqp_inner.consumer_default(a.attrelid, a.attnum) AS instead
        FROM pg_attribute AS a
        JOIN pg_type AS t ON t.oid = a.atttypid
        JOIN pg_namespace AS n ON n.oid = t.typnamespace
        WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
    ) AS v;
END;

COMMENT ON FUNCTION amqp_inner.consumer_defaults(regclass, text) IS
'Part of the inbox: SQL for a row of a target table with the defaults of what a message lacks.';
