-- What PostgreSQL itself does for a column that an INSERT leaves out, which INSERT ... SELECT cannot ask for row by row.
CREATE FUNCTION amqp_inner.consumer_default(target regclass, column_number smallint) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT CASE
        -- Messages never fill these.
        WHEN a.attgenerated <> '' OR a.attidentity = 'a' THEN NULL
        WHEN a.attidentity = 'd' THEN format('pg_catalog.nextval(%L::pg_catalog.regclass)',
                                             pg_get_serial_sequence($1::text, a.attname))
        WHEN d.adbin IS NOT NULL THEN pg_get_expr(d.adbin, d.adrelid)
        WHEN t.typdefaultbin IS NOT NULL THEN pg_get_expr(t.typdefaultbin, 0)
        ELSE quote_literal(t.typdefault) END
    FROM pg_attribute AS a
    JOIN pg_type AS t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = $1 AND a.attnum = $2;
END;

COMMENT ON FUNCTION amqp_inner.consumer_default(regclass, smallint) IS
'Part of the inbox: SQL for what a column of a target table takes where a message lacks it: the
default of the column, or of its type; NULL: nothing.';
