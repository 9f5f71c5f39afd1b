-- PREPARE finds all that is wrong before there is a message, and asks nobody for privileges.
CREATE FUNCTION amqp_inner.consumer_try(consumer amqp.consumer) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE 'PREPARE amqp_consumer_try AS ' || replace(
        amqp_inner.consumer_plan(consumer, false) ->> 'statement', 'pg_temp.amqp_stage',
        '(SELECT 0 AS n, false AS retried, (NULL::amqp.message).*)');
    DEALLOCATE amqp_consumer_try;
END
$$;

COMMENT ON FUNCTION amqp_inner.consumer_try(amqp.consumer) IS
'Part of the inbox: raises whatever keeps a row of amqp.consumer from working.';
