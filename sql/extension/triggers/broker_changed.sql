CREATE TRIGGER broker_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON amqp.broker
    FOR EACH STATEMENT EXECUTE FUNCTION amqp_inner.broker_changed();
-- In replication and restore as well, which fire no ordinary triggers.
ALTER TABLE amqp.broker ENABLE ALWAYS TRIGGER broker_changed;

COMMENT ON TRIGGER broker_changed ON amqp.broker IS
'Makes all sessions use the changed rows from their next transaction on.';
