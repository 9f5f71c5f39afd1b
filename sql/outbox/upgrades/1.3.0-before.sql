-- From 1.3.0. Columns of a result cannot be replaced.
DROP FUNCTION amqp.outbox_status();

-- What users do not call has a schema of its own now; triggers and the constraint keep what they call.
ALTER FUNCTION amqp.broker_check() SET SCHEMA amqp_inner;
ALTER FUNCTION amqp.change_properties(text, boolean) SET SCHEMA amqp_inner;
ALTER FUNCTION amqp.change_routing_key(text, text, name, name, jsonb, jsonb) SET SCHEMA amqp_inner;
ALTER FUNCTION amqp.outbox_check(amqp.outbox) SET SCHEMA amqp_inner;
ALTER FUNCTION amqp.outbox_check_headers(jsonb, integer) SET SCHEMA amqp_inner;
ALTER FUNCTION amqp.outbox_compact() SET SCHEMA amqp_inner;
ALTER FUNCTION amqp.outbox_due(integer, bigint, bigint, integer, bigint) SET SCHEMA amqp_inner;
ALTER FUNCTION amqp.outbox_lock(integer) SET SCHEMA amqp_inner;
ALTER FUNCTION amqp.outbox_lock_batch(integer) SET SCHEMA amqp_inner;
ALTER FUNCTION amqp.outbox_lock_to_compact() SET SCHEMA amqp_inner;
ALTER FUNCTION amqp.outbox_may_work(oid) SET SCHEMA amqp_inner;
ALTER FUNCTION amqp.outbox_note(integer, text) SET SCHEMA amqp_inner;
ALTER FUNCTION amqp.outbox_overdue(integer) SET SCHEMA amqp_inner;
ALTER FUNCTION amqp.outbox_settle(integer, bigint[], text[], bigint[], text[], text[], text[]) SET SCHEMA amqp_inner;
ALTER FUNCTION amqp.outbox_wake(integer) SET SCHEMA amqp_inner;
ALTER FUNCTION amqp.outbox_worked(bigint) SET SCHEMA amqp_inner;
ALTER FUNCTION amqp.publish_outbox_change(integer, text, text, text) SET SCHEMA amqp_inner;
ALTER FUNCTION amqp.publish_outbox_change(integer, text, text, text, jsonb, text) SET SCHEMA amqp_inner;
-- With the extension it was not in schema amqp.
DROP FUNCTION IF EXISTS amqp.changed_rows_query(text, text, name, name, boolean, boolean, boolean);
COMMENT ON TABLE amqp.outbox_lease IS
'The key of the advisory lock under which each broker''s outbox is worked: see amqp_inner.outbox_lock().';

-- Retained messages. What administrators have set for the tables, and granted, stays as it is.
ALTER TABLE amqp.outbox ADD COLUMN retain boolean;
ALTER TABLE amqp.outbox_dead ADD COLUMN retain boolean;
ALTER TABLE amqp.outbox_delivered ADD COLUMN retain boolean;
DROP INDEX amqp.outbox_ready_idx, amqp.outbox_waiting_idx;
CREATE INDEX outbox_ready_idx ON amqp.outbox (broker_id, id) WHERE next_attempt_at IS NULL AND retain IS NOT TRUE;
CREATE INDEX outbox_waiting_idx ON amqp.outbox (broker_id, next_attempt_at, id)
    WHERE next_attempt_at IS NOT NULL AND retain IS NOT TRUE;
CREATE INDEX outbox_retained_idx ON amqp.outbox (broker_id, id) WHERE retain;
COMMENT ON COLUMN amqp.outbox.retain IS
'Whether RabbitMQ''s MQTT plugin is to keep the message for who subscribes later. Then it goes by '
'MQTT, to the topic whose levels are those of routing_key, by pg-amqp relay alone.';

-- Whoever may publish may publish these, too.
DO $$
DECLARE
    grantee pg_catalog.text;
BEGIN
    FOR grantee IN
        SELECT CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0 THEN 'PUBLIC' ELSE a.grantee::pg_catalog.regrole::pg_catalog.text END
        FROM pg_catalog.pg_attribute AS t, pg_catalog.aclexplode(t.attacl) AS a
        WHERE t.attrelid OPERATOR(pg_catalog.=) 'amqp.outbox'::pg_catalog.regclass
          AND t.attname OPERATOR(pg_catalog.=) 'ordering_key' AND a.privilege_type OPERATOR(pg_catalog.=) 'INSERT'
    LOOP
        EXECUTE pg_catalog.format('GRANT INSERT (retain) ON amqp.outbox TO %s', grantee);
    END LOOP;
END
$$;

ALTER TABLE amqp.outbox_trouble ADD COLUMN mqtt_error text;
COMMENT ON COLUMN amqp.outbox_trouble.mqtt_error IS
'What keeps retained messages, which go by MQTT, from being delivered now; NULL: nothing.';

ALTER TABLE amqp.broker ADD COLUMN mqtt_port integer, ADD COLUMN mqtt_ssl boolean;
