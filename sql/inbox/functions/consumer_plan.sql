CREATE FUNCTION amqp_inner.consumer_plan(consumer amqp.consumer, is_stream boolean) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    told_by CONSTANT text := NULLIF(
        COALESCE(consumer.deduplicate_by, CASE WHEN is_stream THEN 'none' ELSE 'message_id' END), 'none');
    plan CONSTANT jsonb := jsonb_build_object(
        'row', to_jsonb(consumer),
        'batch_seconds', date_part('epoch', consumer.batch_timeout),
        'start', amqp_inner.consumer_offset(consumer.stream_offset));
BEGIN
    IF consumer.influxdb IS NOT NULL THEN
        -- The same point again changes nothing, so nothing need be told.
        RETURN plan || jsonb_build_object(
            'influxdb', (SELECT to_jsonb(i) FROM ONLY amqp.influxdb AS i WHERE i.name = consumer.influxdb));
    END IF;
    RETURN plan || jsonb_build_object(
        'remember', amqp_inner.consumer_remember(consumer.name, told_by),
        'statement', format(
            $sql$%s, %s
SELECT (SELECT pg_catalog.count(*) FROM %s), (SELECT pg_catalog.count(*) FROM todo AS t WHERE t.without_id), %s$sql$,
            amqp_inner.consumer_todo(consumer.name, told_by),
            CASE WHEN consumer.target_table IS NOT NULL THEN amqp_inner.consumer_into_table(consumer)
                 WHEN consumer.target_function IS NOT NULL THEN amqp_inner.consumer_into_function(consumer)
                 ELSE amqp_inner.consumer_into_inbox(consumer) END,
            -- Of several updates of a row only one is made, and all are stored.
            CASE WHEN consumer.on_conflict = 'update' THEN 'todo' ELSE 'stored' END,
            amqp_inner.consumer_same_target(consumer)));
END
$$;

COMMENT ON FUNCTION amqp_inner.consumer_plan(amqp.consumer, boolean) IS
'Part of the inbox: how pg-amqp consume stores the messages of a consumer: the row, the statement
that stores what is in its stage, and the one that remembers a message which is set aside.
The first gives the number of those stored, of those that had nothing to tell a copy by, and
whether the target still has the name that the statement calls it. Errors: whatever keeps the row
from working.';
