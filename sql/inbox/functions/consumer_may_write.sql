CREATE FUNCTION amqp_inner.consumer_may_write(consumer amqp.consumer) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT NOT EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE a.attrelid = ($1).target_table AND a.attnum > 0 AND NOT a.attisdropped
          AND CASE WHEN ($1).columns IS NULL THEN a.attgenerated = '' AND a.attidentity <> 'a'
                   ELSE ($1).columns ? a.attname::text END
          AND (NOT has_column_privilege(a.attrelid, a.attnum, 'INSERT')
               OR ($1).on_conflict = 'update' AND NOT has_column_privilege(a.attrelid, a.attnum, 'UPDATE')));
END;

COMMENT ON FUNCTION amqp_inner.consumer_may_write(amqp.consumer) IS
'Part of the inbox: whether the current role may write what messages fill of a target table.';
