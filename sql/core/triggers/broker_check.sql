CREATE TRIGGER broker_check BEFORE INSERT OR UPDATE ON amqp.broker
    FOR EACH ROW EXECUTE FUNCTION amqp_inner.broker_check();
ALTER TABLE amqp.broker ENABLE ALWAYS TRIGGER broker_check;

COMMENT ON TRIGGER broker_check ON amqp.broker IS
'Refuses rows that cannot work.';
