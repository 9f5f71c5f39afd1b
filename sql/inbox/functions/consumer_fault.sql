CREATE FUNCTION amqp_inner.consumer_fault(consumer amqp.consumer) RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    influx CONSTANT boolean := consumer.influxdb IS NOT NULL;
BEGIN
    IF consumer.deduplicate_by IS NOT NULL AND consumer.deduplicate_by <> 'none' THEN
        PERFORM amqp_inner.consumer_source(consumer.deduplicate_by);
    END IF;
    RETURN CASE
        WHEN COALESCE(consumer.name, '') = '' THEN 'name must not be empty'
        WHEN octet_length(consumer.name) > 255 THEN 'name must not be longer than 255 bytes'
        WHEN consumer.broker_id IS NULL THEN 'broker_id must not be null'
        WHEN COALESCE(consumer.queue, '') = '' THEN 'queue must not be empty'
        WHEN octet_length(convert_to(consumer.queue, 'UTF8')) > 255 THEN 'queue must not be longer than 255 bytes'
        WHEN consumer.enabled IS NULL THEN 'enabled must not be null'
        WHEN num_nonnulls(consumer.target_table, consumer.target_function, consumer.influxdb) > 1
            THEN 'only one of target_table, target_function and influxdb can be given'
        WHEN consumer.columns IS NOT NULL AND consumer.target_table IS NULL THEN 'columns needs target_table'
        WHEN jsonb_typeof(consumer.columns) <> 'object' OR consumer.columns = '{}'
             OR jsonb_path_exists(consumer.columns, 'strict $.* ? (@.type() != "string")')
            THEN 'columns must be a JSON object of texts, such as {"id": "body.id"}'
        WHEN consumer.on_conflict IS NULL OR consumer.on_conflict NOT IN ('error', 'ignore', 'update')
            THEN 'on_conflict must be error, ignore or update'
        WHEN consumer.on_conflict <> 'error' AND consumer.target_table IS NULL THEN 'on_conflict needs target_table'
        WHEN consumer.conflict_constraint IS NOT NULL AND consumer.on_conflict <> 'update'
            THEN 'conflict_constraint needs on_conflict = update'
        WHEN consumer.reply_errors IS NULL THEN 'reply_errors must not be null'
        WHEN consumer.reply_errors AND consumer.target_function IS NULL THEN 'reply_errors needs target_function'
        WHEN influx AND amqp_inner.consumer_points_fault(consumer) IS NOT NULL THEN amqp_inner.consumer_points_fault(consumer)
        WHEN NOT influx AND num_nonnulls(consumer.measurement, consumer.tags, consumer.fields, consumer."time",
                                         consumer.content_types) > 0
            THEN 'measurement, tags, fields, time and content_types need influxdb'
        WHEN consumer.other_content IS NULL OR consumer.other_content NOT IN ('skip', 'dead')
            THEN 'other_content must be skip or dead'
        WHEN consumer.deduplicate_for IS NULL
             OR consumer.deduplicate_for <= interval '0' OR consumer.deduplicate_for > interval '100 years'
            THEN 'deduplicate_for must be longer than nothing, and at most 100 years'
        WHEN consumer.batch_size IS NULL OR consumer.batch_size NOT BETWEEN 1 AND 32767
            THEN 'batch_size must be between 1 and 32767'
        WHEN consumer.batch_timeout IS NULL OR consumer.batch_timeout NOT BETWEEN interval '0' AND interval '1 minute'
            THEN 'batch_timeout must be between 0 and 1 minute'
        WHEN consumer.prefetch NOT BETWEEN consumer.batch_size AND 65535
            THEN 'prefetch must be between batch_size and 65535'
        WHEN consumer.stream_offset IS NOT NULL AND amqp_inner.consumer_offset(consumer.stream_offset) IS NULL
            THEN 'stream_offset must be first, last, next, an offset or a timestamp'
        END;
END
$$;

COMMENT ON FUNCTION amqp_inner.consumer_fault(amqp.consumer) IS
'Part of the inbox: what in a row of amqp.consumer contradicts itself; NULL: nothing.
Errors: 22023 deduplicate_by is no source.';
