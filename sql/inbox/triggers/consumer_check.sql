CREATE TRIGGER consumer_check BEFORE INSERT OR UPDATE ON amqp.consumer
    FOR EACH ROW EXECUTE FUNCTION amqp_inner.consumer_check();

COMMENT ON TRIGGER consumer_check ON amqp.consumer IS
'Refuses rows that cannot work.';
